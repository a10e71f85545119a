//! Hearing what other nodes have changed, through LISTEN and NOTIFY. A node says something to itself every second over the same way; as
//! long as it hears that, it hears everything. An engine without NOTIFY is one that is never heard.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgListener;

use super::postgres::CHANNEL;
use super::{Database, Engine};
use crate::Error;
use crate::changes::Change;

/// A node that hasn't heard itself for longer hears nothing.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Before listening is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// What one node hears.
#[derive(Debug)]
pub(crate) struct Hearing {
    myself: String,
    last: Mutex<Option<Instant>>,
}

impl Hearing {
    pub(crate) fn new(node: &str) -> Self {
        Self { myself: format!("node:{node}"), last: Mutex::default() }
    }

    /// Whether everything that was changed more than a few seconds ago has been heard of.
    pub(crate) fn is_sharp(&self) -> bool {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|last| last.elapsed() < SILENCE_MAX)
    }

    fn heard(&self, when: Option<Instant>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = when;
    }

    /// Says something that this node is to hear itself.
    ///
    /// # Errors
    /// When the database is away.
    pub(crate) async fn say(&self, database: &Database) -> Result<(), Error> {
        match &*database.engine() {
            Engine::Postgres(postgres) if postgres.notifies() => postgres.tell(&self.myself).await,
            _ => Ok(()),
        }
    }

    /// Listens until dropped.
    pub(crate) async fn listen(&self, database: &Database) {
        loop {
            if let Engine::Postgres(postgres) = &*database.engine()
                && postgres.notifies()
                && let Err(error) = self.listen_on(postgres.upkeep(), database).await
            {
                tracing::debug!(%error, "listening for changes ended");
            }
            self.heard(None);
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
                if line == self.myself {
                    self.heard(Some(Instant::now()));
                } else if let Ok(change) = line.parse::<Change>() {
                    database.announcer.announce(change);
                }
            }
        }
    }
}
