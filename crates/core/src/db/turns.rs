//! Writers of one name, or of one resource's avatars, wait for each other here and not in the database: there each of them would hold one of a node's connections, and a row that
//! is stuck would take all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::postgres::RETRY_AFTER;
use crate::Error;
use crate::model::OrgId;

type Key = (OrgId, String);
type Lock = Arc<tokio::sync::Mutex<()>>;

/// The names that somebody writes to, or waits for.
#[derive(Debug, Default)]
pub(super) struct Turns {
    names: Mutex<HashMap<Key, Lock>>,
}

/// The right to write to a name, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    key: Key,
    /// Both are there until it is dropped, and the guard once its turn has come.
    lock: Option<Lock>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for as long as `wait_max`; who came first is first.
    pub(super) async fn take(turns: &Arc<Self>, key: Key, wait_max: Duration) -> Result<Turn, Error> {
        let lock = Arc::clone(turns.names().entry(key.clone()).or_default());
        // Before waiting: whoever stops waiting leaves nothing behind.
        let mut turn = Turn { turns: Arc::clone(turns), key, lock: Some(Arc::clone(&lock)), guard: None };
        let Ok(guard) = tokio::time::timeout(wait_max, lock.lock_owned()).await else {
            tracing::warn!(
                org = turn.key.0.0,
                name = turn.key.1,
                "too many write to one name at once, or its row is held by others"
            );
            return Err(Error::Busy { retry_after: RETRY_AFTER });
        };
        turn.guard = Some(guard);
        Ok(turn)
    }

    fn names(&self) -> MutexGuard<'_, HashMap<Key, Lock>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut names = self.turns.names();
        (self.guard, self.lock) = (None, None);
        // Nobody gets one of these but through the map.
        if names.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            names.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(name: &str) -> Key {
        (OrgId(1), name.to_owned())
    }

    #[tokio::test]
    async fn writers_of_one_name_follow_each_other_and_nothing_stays_behind() {
        let (turns, long, short) = (Arc::new(Turns::default()), Duration::from_secs(60), Duration::from_millis(20));
        let first = Turns::take(&turns, address("a.png"), long).await.expect("a turn");
        Turns::take(&turns, address("b.png"), short).await.expect("another name's turn");
        let late = Turns::take(&turns, address("a.png"), short).await;
        assert!(matches!(late, Err(Error::Busy { .. })), "{late:?}");
        let next = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { Turns::take(&turns, address("a.png"), long).await.expect("a turn") }
        });
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        drop(first);
        drop(next.await.expect("it comes"));
        assert!(turns.names().is_empty());
    }
}
