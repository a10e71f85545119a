//! The time by which things are removed. A clock that has jumped ahead would make everything due at once: deleted versions past their
//! undo window, pictures that nobody took, sessions. So the time for removing follows the clock only as fast as processes are seen to
//! run: what lies between the last moment that the database knows of and a clock that is far ahead of it is made up for at twice the
//! speed. After an outage that is only late; after a jump, an operator has as long to notice as the jump was.
//!
//! On PostgreSQL, nodes go by the database's clock, and one whose own is far off removes nothing.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Error;
use crate::db::{self, Database};
use crate::model::Timestamp;

/// A difference to the database's clock, or a step of our own, that is worth a line in the log.
const NOTED_FROM: Duration = Duration::from_secs(5);
/// An answer that takes longer says nothing about the database's clock.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(2);

/// Bounds on what a clock may do.
#[derive(Debug, Clone, Copy)]
pub struct ClockLimits {
    /// A clock that is further ahead of the last moment that is known is not followed at once.
    pub jump_max: Duration,
    /// A node whose clock differs more from the database's removes nothing.
    pub offset_max: Duration,
}

/// The clock of a process.
#[derive(Debug)]
pub(crate) struct Clock {
    limits: ClockLimits,
    /// The database's time minus ours.
    offset_us: AtomicI64,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    /// The time by which things are removed.
    trusted: Timestamp,
    /// What the clock said then, and when that was.
    wall: Timestamp,
    at: Instant,
    /// Whether the clock is too far ahead to be followed.
    is_ahead: bool,
}

impl State {
    /// A moment later. Returns by how many microseconds the clock was stepped in between.
    fn go_on(&mut self, wall: Timestamp, at: Instant, jump_max: Duration) -> i64 {
        let elapsed = at.saturating_duration_since(self.at);
        let expected = self.trusted.plus(elapsed);
        self.is_ahead = wall > expected.plus(jump_max) || self.is_ahead && wall > expected.plus(elapsed);
        self.trusted = if self.is_ahead { wall.min(expected.plus(elapsed)) } else { wall };
        let step = wall.0.saturating_sub(self.wall.plus(elapsed).0);
        (self.wall, self.at) = (wall, at);
        step
    }
}

impl Clock {
    /// Begins where the database was last known to be in use.
    ///
    /// # Errors
    /// [`Error::Busy`] when the database can't be asked.
    pub(crate) async fn open(database: &Database, limits: ClockLimits) -> Result<Self, Error> {
        let wall = Timestamp::now();
        let seen = db::clock::seen(database).await?.unwrap_or(wall);
        let state = State { trusted: seen.min(wall), wall, at: Instant::now(), is_ahead: false };
        let clock = Self { limits, offset_us: AtomicI64::new(0), state: Mutex::new(state) };
        clock.compare(database).await?;
        clock.trusted();
        if let Some(ahead) = clock.is_ahead_by() {
            tracing::warn!(
                seconds = ahead.as_secs(),
                "the clock is far ahead of the last time at which this database was in use. If nothing ran meanwhile, all is well; if the clock is \
                 wrong, correct it. What has become due is removed as slowly as if it had not jumped"
            );
        }
        Ok(clock)
    }

    /// The present moment, by the database's clock where it has one.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(Timestamp::now().0.saturating_add(self.offset_us.load(Ordering::Relaxed)))
    }

    /// The time by which things are removed; never later than [`Clock::now`].
    pub(crate) fn trusted(&self) -> Timestamp {
        let (wall, at) = (self.now(), Instant::now());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let step = state.go_on(wall, at, self.limits.jump_max);
        let trusted = state.trusted;
        drop(state);
        if step.unsigned_abs() > micros(NOTED_FROM) {
            metrics::counter!("imagewell_clock_steps_total").increment(1);
            let seconds = step / 1_000_000;
            tracing::warn!(seconds, "the clock was stepped, or this machine was asleep");
        }
        trusted
    }

    /// By how much the clock is ahead of the time by which things are removed, when it is not followed.
    pub(crate) fn is_ahead_by(&self) -> Option<Duration> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = state.wall.0.saturating_sub(state.trusted.0);
        state.is_ahead.then(|| Duration::from_micros(u64::try_from(ahead).unwrap_or(0)))
    }

    /// Follows the clock from now on: an operator says that it is right.
    pub(crate) fn accept(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { trusted: self.now(), wall: self.now(), at: Instant::now(), is_ahead: false };
    }

    /// Whether things may be removed by this clock at all.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it differs too much from the database's.
    pub(crate) fn check_offset(&self) -> Result<(), Error> {
        let offset = self.offset_us.load(Ordering::Relaxed);
        if offset.unsigned_abs() <= micros(self.limits.offset_max) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "this machine's clock differs from the database's by {} seconds: nothing is removed until it is right (does it run NTP?)",
            offset.unsigned_abs() / 1_000_000
        )))
    }

    /// Compares with the database's clock, and tells the database that a process runs. For once a minute.
    ///
    /// # Errors
    /// [`Error::Busy`] when the database can't be asked.
    pub(crate) async fn tick(&self, database: &Database) -> Result<(), Error> {
        self.compare(database).await?;
        let (trusted, now) = (self.trusted(), self.now());
        // Another process may have caught up, or an operator accepted the time.
        if let Some(seen) = db::clock::find(database).await?.filter(|seen| trusted < *seen && *seen <= now) {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).trusted = seen;
        }
        self.note(database).await
    }

    /// Tells the database how late it is.
    ///
    /// # Errors
    /// [`Error::Busy`] when it can't be written.
    pub(crate) async fn note(&self, database: &Database) -> Result<(), Error> {
        if self.check_offset().is_err() {
            return Ok(());
        }
        let seen = self.trusted();
        database.write(move |connection| Box::pin(async move { db::clock::set_seen(connection, seen).await })).await
    }

    async fn compare(&self, database: &Database) -> Result<(), Error> {
        let (before, begun) = (Timestamp::now(), Instant::now());
        let Some(theirs) = database.clock().await? else { return Ok(()) };
        let took = begun.elapsed();
        if took > ROUND_TRIP_MAX {
            return Ok(());
        }
        let offset = theirs.0.saturating_sub(before.plus(took / 2).0);
        self.offset_us.store(offset, Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        metrics::gauge!("imagewell_clock_offset_seconds").set(offset as f64 / 1_000_000.0);
        if offset.unsigned_abs() > micros(NOTED_FROM) {
            let seconds = offset / 1_000_000;
            tracing::warn!(seconds, "the database's clock differs from this machine's: does it run NTP?");
        }
        Ok(())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUMP_MAX: Duration = Duration::from_secs(600);
    const HOUR: i64 = 3600;

    /// What the clock says at each of these seconds of running, and what is trusted.
    fn trusted(steps: &[(u64, i64)]) -> Vec<i64> {
        let at = Instant::now();
        let mut state = State { trusted: Timestamp(0), wall: Timestamp(0), at, is_ahead: false };
        let mut go_on = |(running, wall): &(u64, i64)| {
            state.go_on(Timestamp(wall * 1_000_000), at + Duration::from_secs(*running), JUMP_MAX);
            state.trusted.0 / 1_000_000
        };
        steps.iter().map(&mut go_on).collect()
    }

    #[test]
    fn a_clock_that_jumps_ahead_is_followed_at_twice_the_speed() {
        // As it should be, a restart of ten minutes, back by an hour.
        assert_eq!(trusted(&[(1, 1), (60, 60), (61, 661), (62, 662 - HOUR)]), [1, 60, 661, 662 - HOUR]);
        // Eight days, and back again.
        let days = 8 * 24 * HOUR;
        assert_eq!(trusted(&[(1, 1), (2, days), (62, days + 60), (63, 63)]), [1, 3, 123, 63]);
        // Two hours, which have caught up after two.
        let far = 2 * HOUR;
        let steps = [(0, far), (3600, far + 3600), (7100, far + 7100), (7300, far + 7300), (7301, far + 7301)];
        assert_eq!(trusted(&steps), [0, 7200, 14_200, far + 7300, far + 7301]);
    }

    #[test]
    fn steps_are_measured_against_what_has_passed() {
        let at = Instant::now();
        let mut state = State { trusted: Timestamp(0), wall: Timestamp(0), at, is_ahead: false };
        for (running, wall, step) in [(10, 10, 0), (20, 3620, 3600), (30, 3630, 0), (40, 40, -3600)] {
            let found = state.go_on(Timestamp(wall * 1_000_000), at + Duration::from_secs(running), JUMP_MAX);
            assert_eq!(found / 1_000_000, step, "at {running}");
        }
    }
}
