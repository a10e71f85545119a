//! What all nodes share: whether database and store answer. It is asked in the background, so that
//! whoever wants to know does not wait for them, and never makes a node unready: what is in memory is
//! served without them, and a balancer that passed over all nodes at once would end that, too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::Error;
use crate::app::App;

/// Between two questions.
const ASKED_EVERY: Duration = Duration::from_secs(2);
/// For each answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What did not answer the last time.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    database_is_away: AtomicBool,
    store_is_away: AtomicBool,
}

impl Shared {
    /// A sentence for each that is away.
    pub(crate) fn notices(&self) -> impl Iterator<Item = &'static str> {
        let database = (&self.database_is_away, "the database does not answer: what needs it fails");
        let store = (&self.store_is_away, "the store does not answer: only what is in memory can be read");
        [database, store].into_iter().filter(|(away, _)| away.load(Ordering::Relaxed)).map(|(_, notice)| notice)
    }
}

/// Asks both again and again.
pub(crate) async fn watch(app: &App) {
    let mut next = interval(ASKED_EVERY);
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        next.tick().await;
        let (database, store) = tokio::join!(timeout(ANSWER_MAX, app.database.ping()), timeout(ANSWER_MAX, app.storage.ping()));
        note("database", &app.shared.database_is_away, matches!(database, Ok(Ok(()))));
        note("store", &app.shared.store_is_away, matches!(store, Ok(Ok(()))));
    }
}

fn note(part: &'static str, away: &AtomicBool, answers: bool) {
    metrics::gauge!("imagewell_shared_up", "part" => part).set(if answers { 1.0 } else { 0.0 });
    if away.swap(!answers, Ordering::Relaxed) == answers {
        tracing::warn!(part, answers, "whether database and store answer has changed");
    }
}

impl App {
    /// Asks database and store now, and waits for their answers.
    ///
    /// # Errors
    /// As [`App::ready`]; [`Error::Busy`] when one of them does not answer.
    pub async fn ready_with_all(&self) -> Result<(), Error> {
        self.ready()?;
        self.database.ping().await?;
        self.storage.ping().await
    }
}
