//! Failures that many wait for at once: the next one in the queue doesn't repeat in vain what has just failed.
//!
//! A cache lets one caller load a value while the others wait. When the load fails, it hands the work to the next one who waits, and so
//! on. But who waited already when the second load began can have its outcome: nothing happened since that they might ask for. So however
//! many wait, what fails is tried twice.

use std::hash::Hash;
use std::time::Instant;

use quick_cache::sync::Cache;

use crate::Error;

/// Failures that are held. They are wanted only as long as somebody waits.
const FAILURES_MAX: usize = 1000;

/// The last failure of each key, with the moment at which its load began.
#[derive(Debug)]
pub(crate) struct Failures<K>(Cache<K, (Instant, Error)>);

impl<K: Clone + Eq + Hash> Default for Failures<K> {
    fn default() -> Self {
        Self(Cache::new(FAILURES_MAX))
    }
}

impl<K: Clone + Eq + Hash> Failures<K> {
    /// Loads, unless a load has failed that began after this caller asked.
    ///
    /// # Errors
    /// Those of the load.
    pub(crate) async fn share<T>(
        &self,
        key: K,
        asked: Instant,
        load: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if let Some((begun, error)) = self.0.get(&key)
            && begun > asked
        {
            return Err(error);
        }
        let begun = Instant::now();
        load.await.inspect_err(|error| self.0.insert(key, (begun, error.clone())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn however_many_wait_a_load_that_fails_is_tried_twice() {
        let (cache, failures, loads) = (Cache::<u8, u8>::new(10), Failures::default(), AtomicU32::new(0));
        let read = async || {
            let asked = Instant::now();
            let load = async {
                loads.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(30)).await;
                Err(Error::NotFound)
            };
            cache.get_or_insert_async(&1, failures.share(1, asked, load)).await
        };
        let outcomes = futures_util::future::join_all((0..20).map(|_| read())).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(Error::NotFound))));
        assert_eq!(loads.load(Ordering::SeqCst), 2);
        // Who asks later may find what has come since.
        read().await.expect_err("nothing has");
        assert_eq!(loads.load(Ordering::SeqCst), 3);
        let asked = Instant::now();
        let found = cache.get_or_insert_async(&1, failures.share(1, asked, async { Ok(7) })).await;
        assert!(matches!(found, Ok(7)));
    }
}
