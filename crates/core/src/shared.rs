//! What all nodes share: whether database and store answer. It is asked in the background, so that
//! whoever wants to know does not wait for them, and never makes a node unready: what is in memory is
//! served without them, and a balancer that passed over all nodes at once would end that, too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared as SharedFuture};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::Error;
use crate::app::App;

/// Between two questions.
const ASKED_EVERY: Duration = Duration::from_secs(2);
/// For each answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// An answer that somebody has waited for is good for whoever asks within this time.
const ANSWER_LASTS: Duration = Duration::from_secs(1);

/// What did not answer the last time.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    asked: Asked,
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

type Answer = Result<(), Error>;

/// The latest question, and its answer when there is one. Strangers may ask, so however many do, and
/// however soon they hang up, there is one question at a time.
#[derive(Debug, Default)]
struct Asked(Mutex<Option<(Instant, SharedFuture<BoxFuture<'static, Answer>>)>>);

impl Asked {
    /// The answer to the latest question if it is under way or a moment old, else to a new one.
    async fn answer<F>(&self, ask: impl FnOnce() -> F) -> Answer
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let answer = {
            let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match &*latest {
                Some((begun, answer)) if answer.peek().is_none() || begun.elapsed() < ANSWER_LASTS => answer.clone(),
                _ => {
                    let asking = tokio::spawn(ask());
                    let answer = async { asking.await.unwrap_or_else(|error| Err(Error::internal("asking", &error))) };
                    latest.insert((Instant::now(), answer.boxed().shared())).1.clone()
                }
            }
        };
        answer.await
    }
}

impl App {
    /// Whether database and store answer. Everybody who asks within a second gets the same answer.
    ///
    /// # Errors
    /// As [`App::ready`]; [`Error::Busy`] when one of them does not answer.
    pub async fn ready_with_all(self: &Arc<Self>) -> Answer {
        self.ready()?;
        let app = Arc::clone(self);
        let ask = || async move {
            let (database, store) = tokio::join!(app.database.ping(), app.storage.ping());
            database.and(store)
        };
        self.shared.asked.answer(ask).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[tokio::test]
    async fn whoever_asks_at_the_same_time_or_a_moment_later_gets_one_answer() {
        let (asked, questions) = (Asked::default(), Arc::new(AtomicU32::new(0)));
        let ask = || {
            let questions = Arc::clone(&questions);
            asked.answer(move || async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                match questions.fetch_add(1, Ordering::SeqCst) {
                    0 => Err(Error::NoSpace),
                    _ => Ok(()),
                }
            })
        };
        // One that hangs up before there is an answer makes nobody ask again.
        assert!(timeout(Duration::from_millis(10), ask()).await.is_err());
        for answer in futures_util::future::join_all((0..100).map(|_| ask())).await {
            assert!(matches!(answer, Err(Error::NoSpace)));
        }
        assert!(ask().await.is_err());
        assert_eq!(questions.load(Ordering::SeqCst), 1);
        tokio::time::sleep(ANSWER_LASTS).await;
        assert!(ask().await.is_ok() && ask().await.is_ok());
        assert_eq!(questions.load(Ordering::SeqCst), 2);
    }
}
