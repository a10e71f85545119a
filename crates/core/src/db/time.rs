//! How late it is by the database's clock, which all nodes have in common. It is asked now and then; in between, what has passed is
//! measured by this machine's monotonic clock, which nobody can set. So a node whose own clock is wrong judges ages as the others do.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use super::{Database, Engine};
use crate::Error;
use crate::model::Timestamp;

/// An answer that takes longer says too little about the database's clock: half of it is the error.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(2);
/// Before the first measurement, and for the embedded database, which has no clock of its own.
const UNKNOWN: i64 = i64::MIN;

/// The database's time as it was last measured.
#[derive(Debug)]
pub(super) struct DatabaseTime {
    begun: Instant,
    /// Microseconds of the database's time when this was begun.
    at_begin_us: AtomicI64,
    /// The database's time minus this machine's, in microseconds, when it was measured.
    offset_us: AtomicI64,
}

impl Default for DatabaseTime {
    fn default() -> Self {
        Self { begun: Instant::now(), at_begin_us: AtomicI64::new(UNKNOWN), offset_us: AtomicI64::new(UNKNOWN) }
    }
}

impl DatabaseTime {
    /// The present moment.
    fn now(&self) -> Timestamp {
        match self.at_begin_us.load(Ordering::Relaxed) {
            UNKNOWN => Timestamp::now(),
            at_begin => Timestamp(at_begin).plus(self.begun.elapsed()),
        }
    }

    fn set(&self, theirs: Timestamp, ours: Timestamp, at: Instant) {
        let begun = theirs.minus(at.saturating_duration_since(self.begun));
        self.at_begin_us.store(begun.0, Ordering::Relaxed);
        self.offset_us.store(theirs.0.saturating_sub(ours.0), Ordering::Relaxed);
    }

    fn forget(&self) {
        self.at_begin_us.store(UNKNOWN, Ordering::Relaxed);
        self.offset_us.store(UNKNOWN, Ordering::Relaxed);
    }
}

impl Database {
    /// The present moment by the database's clock, or by this machine's where the database has none. Asks nobody.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.time.now()
    }

    /// Microseconds by which the database's clock was ahead of this machine's when it was last asked: 0 where the database has no clock of
    /// its own, none where it could not be measured yet.
    pub(crate) fn clock_offset(&self) -> Option<i64> {
        if !self.is_shared() {
            return Some(0);
        }
        Some(self.time.offset_us.load(Ordering::Relaxed)).filter(|offset| *offset != UNKNOWN)
    }

    /// Asks the database how late it is. False when the answer came too late to say anything: then the last measurement goes on.
    ///
    /// # Errors
    /// [`Error::Busy`] when the database can't be asked.
    pub(crate) async fn measure_time(&self) -> Result<bool, Error> {
        let (ours, begun) = (Timestamp::now(), Instant::now());
        let theirs = match &*self.engine() {
            Engine::Sqlite(_) => {
                self.time.forget();
                return Ok(true);
            }
            Engine::Postgres(postgres) => postgres.clock().await?,
        };
        let took = begun.elapsed();
        if took > ROUND_TRIP_MAX {
            return Ok(false);
        }
        self.time.set(theirs, ours.plus(took / 2), begun + took / 2);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_databases_time_goes_on_by_what_passes_whatever_our_clock_says() {
        let time = DatabaseTime::default();
        assert!((time.now().0 - Timestamp::now().0).abs() < 3_600_000_000, "ours until it is measured");
        let (theirs, ours) = (Timestamp(1_000_000_000_000_000), Timestamp(1_000_172_800_000_000));
        let at = time.begun + Duration::from_secs(10);
        time.set(theirs, ours, at);
        assert_eq!(time.offset_us.load(Ordering::Relaxed), -172_800_000_000, "ours is two days ahead");
        let passed = time.now().0 - (theirs.0 - 10_000_000);
        assert!((0..3_600_000_000).contains(&passed), "{passed}");
        time.forget();
        assert!((time.now().0 - Timestamp::now().0).abs() < 3_600_000_000);
    }
}
