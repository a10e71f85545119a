//! What a serving process does by itself, once a second, a minute and an hour.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::task::AbortHandle;

use crate::accounts::Changed;
use crate::app::App;
use crate::changes::Change;
use crate::{following, kept, looks, scrub, shared, sweep};

/// Seconds between two looks for temporary images whose time is over; there is an index for it.
const TICKETS_SWEPT_EVERY: u64 = 10;
/// Seconds between two looks at what renderings were used and how much they take.
const VARIANTS_TENDED_EVERY: u64 = 5;

/// Seconds between two looks for images that another node, now dead, has left unseen.
const LOOKED_FOR_EVERY: u64 = 60;
/// How often a node asks whether a sweep is due in the cluster.
const SWEEP_ASKED_FOR_EVERY: Duration = Duration::from_secs(60);
/// For reading rights again, and for a word to the others. With the silence that is borne, it stays below five seconds in all.
const KEEPING_UP_MAX: Duration = Duration::from_secs(2);

/// Pause before a background part that panicked starts again, so that a fault that repeats does not fill the log.
const RESTARTED_AFTER: Duration = Duration::from_secs(1);

/// Seconds between two looks whether a bucket is still that of the database. A folder is looked at each second.
const BUCKET_WATCHED_EVERY: u64 = 60;
/// Seconds between two comparisons of the clock with the database.
const CLOCK_COMPARED_EVERY: u64 = 60;
/// Seconds between two looks whether the database server still keeps what it has committed.
const DURABILITY_ASKED_EVERY: u64 = 60;
/// A worker that waits for longer ends.
const WORKERS_IDLE_MAX: Duration = Duration::from_secs(60);

/// Ends a task when dropped: a background part ends with the service.
struct EndsWhenDropped(AbortHandle);

impl Drop for EndsWhenDropped {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) fn note_panic(part: &'static str) {
    tracing::error!(part, "a background part panicked and is started again; please report the panic logged above");
    metrics::counter!("imagewell_background_panics_total", "part" => part).increment(1);
}

/// Counts a panic when it is dropped by one.
struct PanicWatch(&'static str);

impl Drop for PanicWatch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            note_panic(self.0);
        }
    }
}

/// Runs work that nobody waits for and that is started again by itself, as a sweep is. A panic of it is logged and counted.
async fn noticed(part: &'static str, work: impl Future<Output = ()>) {
    let _watch = PanicWatch(part);
    work.await;
}

/// Runs a background part in a task of its own and starts it again when it panics: without it rights would never be read
/// again, or nothing would ever be removed, while the service answers as if all were well.
async fn supervise<F>(part: &'static str, start: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let task = tokio::spawn(start());
        let _ends = EndsWhenDropped(task.abort_handle());
        match task.await {
            Err(error) if error.is_panic() => {
                note_panic(part);
                tokio::time::sleep(RESTARTED_AFTER).await;
            }
            _ended => return,
        }
    }
}

impl App {
    /// Does what must be done once a second, a minute and an hour, until dropped.
    pub async fn run_in_background(self: Arc<Self>) {
        let part = |name, run: fn(Arc<Self>) -> BoxFuture<'static, ()>| {
            let app = Arc::clone(&self);
            supervise(name, move || run(Arc::clone(&app)))
        };
        join_all([
            part("invalidation", |app| Box::pin(app.keep_up_with_others())),
            part("notifications", |app| Box::pin(app.listen())),
            part("shared", |app| Box::pin(async move { shared::watch(&app).await })),
            part("transfer", |app| Box::pin(following::run(app))),
            part("scrub", |app| Box::pin(scrub::run(app))),
            part("cleanup", |app| Box::pin(app.tidy())),
            part("durability", |app| Box::pin(app.watch_durability())),
        ])
        .await;
    }

    async fn listen(self: Arc<Self>) {
        self.hearing.listen(&self.database).await;
    }

    /// Sees to it that what is held in memory is never older than a few seconds. It waits for nothing else.
    async fn keep_up_with_others(self: Arc<Self>) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sharp_for = 0_u32;
        loop {
            seconds.tick().await;
            let (refreshed, said) = tokio::join!(
                tokio::time::timeout(KEEPING_UP_MAX, self.refresh_rights()),
                tokio::time::timeout(KEEPING_UP_MAX, self.hearing.say(&self.database))
            );
            if !matches!(refreshed, Ok(Ok(()))) {
                tracing::warn!("rights could not be read again: what was known of them is not trusted");
                self.forget(Change::Everything);
                self.forget_rights(&Changed::Everything);
            }
            if !self.database.is_shared() {
                continue;
            }
            let sharp = matches!(said, Ok(Ok(()))) && self.hearing.is_sharp();
            // Once more after that: what was being read when it began to hear may be older.
            if !sharp || sharp_for < 2 {
                self.forget(Change::Everything);
            }
            if sharp != (sharp_for > 0) {
                tracing::info!(sharp, "hearing what other nodes change; without that, records are held for a second at most");
                metrics::gauge!("imagewell_hears_other_nodes").set(if sharp { 1.0 } else { 0.0 });
            }
            sharp_for = if sharp { sharp_for.saturating_add(1) } else { 0 };
        }
    }

    /// What a server promises of its commits may be changed while it runs, for everybody or for one role.
    async fn watch_durability(self: Arc<Self>) {
        let mut known = Vec::new();
        let mut times = tokio::time::interval(Duration::from_secs(DURABILITY_ASKED_EVERY));
        times.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            times.tick().await;
            // Where it is away, others say so.
            let Ok(weak) = self.database.weak_durability().await else { continue };
            if self.database.is_shared() {
                metrics::gauge!("imagewell_database_weak_durability_settings").set(weak.len() as f64);
            }
            if !weak.is_empty() && weak != known {
                let settings = weak.join(", ");
                tracing::warn!(settings, "what was acknowledged may be lost when the database goes down: see imagewell doctor");
            } else if weak.is_empty() && !known.is_empty() {
                tracing::info!("the database keeps what it has committed again");
            }
            known = weak;
        }
    }

    async fn tidy(self: Arc<Self>) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Not at once: whoever has started it on the wrong database or store finds that out first.
        let mut next_sweep = tokio::time::Instant::now() + self.options.sweep.interval;
        let mut ticks = 0_u64;
        loop {
            seconds.tick().await;
            ticks += 1;
            self.pair_when_possible().await;
            // A bucket can't be unmounted, and each look at one is a request.
            if !self.storage.is_bucket() || ticks.is_multiple_of(BUCKET_WATCHED_EVERY) {
                self.watch_store().await;
            }
            self.clock.trusted();
            if ticks.is_multiple_of(LOOKED_FOR_EVERY) {
                // What another node has left.
                self.looks.wake();
            }
            looks::go_on(&self);
            if ticks.is_multiple_of(VARIANTS_TENDED_EVERY)
                && let Err(error) = kept::tend(&self).await
            {
                tracing::warn!(%error, "renderings could not be tended; it is tried again");
            }
            if ticks.is_multiple_of(TICKETS_SWEPT_EVERY)
                && let Err(error) = sweep::remove_expired(&self).await
            {
                tracing::warn!(%error, "expired pictures could not be removed; it is tried again");
            }
            if (self.clock.was_stepped() || ticks.is_multiple_of(CLOCK_COMPARED_EVERY))
                && let Err(error) = self.clock.tick().await
            {
                tracing::warn!(%error, "the clock could not be compared with the database; it is tried again");
            }
            if ticks.is_multiple_of(60) {
                self.accounts.forget_old_attempts();
                self.workers.end_idle(WORKERS_IDLE_MAX);
            }
            if tokio::time::Instant::now() >= next_sweep {
                let interval = self.options.sweep.interval;
                // Where another node may be at it, and die, it is asked again sooner.
                let again = if self.database.is_shared() { interval.min(SWEEP_ASKED_FOR_EVERY) } else { interval };
                next_sweep = tokio::time::Instant::now() + again;
                let app = Arc::clone(&self);
                tokio::spawn(noticed("sweep", async move {
                    if let Err(error) = sweep::run_if_due(&app).await {
                        tracing::warn!(%error, "sweeping failed; it is tried again later");
                    }
                }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};

    use super::*;

    /// Counts panics by part, and nothing else.
    #[derive(Default)]
    struct Panics(Mutex<HashMap<String, Arc<AtomicU64>>>);

    impl Panics {
        fn of(&self, part: &str) -> u64 {
            self.0.lock().expect("lock").get(part).map_or(0, |count| count.load(Ordering::SeqCst))
        }
    }

    impl metrics::Recorder for Panics {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            assert_eq!(key.name(), "imagewell_background_panics_total");
            let part = key.labels().next().expect("a label").value().to_owned();
            Counter::from_arc(Arc::clone(self.0.lock().expect("lock").entry(part).or_default()))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[tokio::test]
    async fn a_panic_of_work_that_nobody_waits_for_is_counted_once() {
        let panics = Panics::default();
        let _recording = metrics::set_default_local_recorder(&panics);
        let _ = tokio::spawn(noticed("good", async {})).await;
        let ended = tokio::spawn(noticed("sweep", async { panic!("as a fault in a sweep would") })).await;
        assert!(ended.expect_err("ends").is_panic());
        let hung = tokio::spawn(noticed("aborted", std::future::pending()));
        tokio::task::yield_now().await;
        hung.abort();
        assert!(hung.await.expect_err("ends").is_cancelled());
        assert_eq!((panics.of("good"), panics.of("sweep"), panics.of("aborted")), (0, 1, 0));
    }

    #[tokio::test]
    async fn a_part_that_panics_is_started_again_and_counted() {
        let panics = Panics::default();
        let _recording = metrics::set_default_local_recorder(&panics);
        let starts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&starts);
        supervise("test", move || {
            let start = counted.fetch_add(1, Ordering::SeqCst);
            async move { assert!(start >= 1, "as a fault in a background part would") }
        })
        .await;
        assert_eq!((starts.load(Ordering::SeqCst), panics.of("test")), (2, 1));
    }

    #[tokio::test]
    async fn a_part_ends_with_the_one_who_runs_it() {
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let running = supervise("test", move || {
            let held = Arc::clone(&held);
            async move {
                std::future::pending::<()>().await;
                drop(held);
            }
        });
        assert!(tokio::time::timeout(Duration::from_millis(50), running).await.is_err());
        while Arc::strong_count(&alive) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
