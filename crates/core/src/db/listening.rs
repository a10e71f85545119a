//! Hearing what other nodes have changed, through LISTEN and NOTIFY. A node says something to itself every second over the same way; as
//! long as it hears that, it hears everything. Notifications come in the order of their commits, however late: so what counts is not when the
//! last word was heard, but when it was said. An engine without NOTIFY is one that is never heard.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgListener;

use super::postgres::CHANNEL;
use super::{Database, Engine};
use crate::Error;
use crate::changes::Change;

/// A node that has heard nothing of what it said in so long hears nothing.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Before listening is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// What one node hears.
#[derive(Debug)]
pub(crate) struct Hearing {
    myself: String,
    begun: Instant,
    /// When the newest word that was heard had been said.
    said: Mutex<Option<Instant>>,
}

impl Hearing {
    pub(crate) fn new(node: &str) -> Self {
        Self { myself: format!("node:{node}:"), begun: Instant::now(), said: Mutex::default() }
    }

    /// Whether everything that was changed more than a few seconds ago has been heard of.
    pub(crate) fn is_sharp(&self) -> bool {
        self.is_sharp_at(Instant::now())
    }

    fn is_sharp_at(&self, now: Instant) -> bool {
        let said = *self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.is_some_and(|said| now.saturating_duration_since(said) < SILENCE_MAX)
    }

    /// What this node says of a moment: milliseconds of its own monotonic clock, which nobody else needs to understand.
    fn word(&self, when: Instant) -> String {
        format!("{}{}", self.myself, when.saturating_duration_since(self.begun).as_millis())
    }

    /// Takes note of a word, if it is this node's own.
    fn hear(&self, word: &str) -> bool {
        let Some(milliseconds) = word.strip_prefix(&self.myself).and_then(|number| number.parse().ok()) else { return false };
        // A made-up time in the future must not make this node trust its memory for longer.
        let said = self.begun.checked_add(Duration::from_millis(milliseconds)).filter(|said| *said <= Instant::now());
        if said.is_some() {
            self.set(said);
        }
        true
    }

    fn set(&self, said: Option<Instant>) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = said;
    }

    /// Says something that this node is to hear itself.
    ///
    /// # Errors
    /// When the database is away.
    pub(crate) async fn say(&self, database: &Database) -> Result<(), Error> {
        match &*database.engine() {
            Engine::Postgres(postgres) if postgres.notifies() => postgres.tell(&self.word(Instant::now())).await,
            _ => Ok(()),
        }
    }

    /// Listens until dropped.
    pub(crate) async fn listen(&self, database: &Database) {
        loop {
            if let Engine::Postgres(postgres) = &*database.engine()
                && postgres.listens()
                && let Err(error) = self.listen_on(postgres.upkeep(), database).await
            {
                tracing::debug!(%error, "listening for changes ended");
            }
            self.set(None);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn listen_on(&self, pool: &sqlx::PgPool, database: &Database) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        loop {
            // Nothing at all for so long: the connection may be dead without anybody having said so.
            let Ok(received) = tokio::time::timeout(2 * SILENCE_MAX, listener.try_recv()).await else { return Ok(()) };
            // None: the connection was lost, and with it what was said meanwhile.
            let Some(notification) = received? else { return Ok(()) };
            for line in notification.payload().lines() {
                if self.hear(line) {
                    // Whatever was committed before it is known here.
                } else if let Ok(change) = line.parse::<Change>() {
                    database.announcer.announce(change);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts_from_when_it_was_said_and_only_ones_own() {
        let mut hearing = Hearing::new("a");
        hearing.begun = Instant::now().checked_sub(Duration::from_secs(100)).expect("the machine runs for longer");
        let at = |seconds| hearing.begun + Duration::from_secs(seconds);
        let word = hearing.word(at(50));
        assert!(!hearing.is_sharp_at(at(50)));
        for other in ["node:a", "node:a:", "node:a:x", "node:b:50000", "image:1", "node:a:99999999999999999999"] {
            assert!(!hearing.hear(other), "{other}");
        }
        assert!(hearing.hear(&word) && !hearing.is_sharp_at(at(65)), "said at 50 and heard at 65");
        assert!(hearing.is_sharp_at(at(52)) && !hearing.is_sharp_at(at(53)));
        assert!(hearing.hear(&hearing.word(at(100_000))) && !hearing.is_sharp_at(at(99_999)), "of the future");
        hearing.set(None);
        assert!(!hearing.is_sharp_at(at(50)));
    }
}
