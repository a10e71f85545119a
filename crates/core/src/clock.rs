//! The time by which things are removed. A clock that has jumped ahead would make everything due at once: deleted versions past their
//! undo window, pictures that nobody took, sessions. So the time for removing follows the clock only as fast as processes are seen to
//! run: what lies between the last moment that the database knows of and a clock that is far ahead of it is made up for at twice the
//! speed. After an outage that is only late; after a jump, an operator has as long to notice as the jump was.
//!
//! On PostgreSQL, nodes go by the database's clock ([`Database::now`]), and one whose own is far off removes nothing and is unready: the store
//! and identity providers see the machine's own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Error;
use crate::db::{self, Database};
use crate::model::Timestamp;

/// A difference to the database's clock, or a step of our own, that is worth a line in the log.
const NOTED_FROM: Duration = Duration::from_secs(5);

/// Bounds on what a clock may do.
#[derive(Debug, Clone, Copy)]
pub struct ClockLimits {
    /// A clock that is further ahead of the last moment that is known is not followed at once.
    pub jump_max: Duration,
    /// A node whose clock differs more from the database's removes nothing and is unready.
    pub offset_max: Duration,
}

/// The clock of a process.
#[derive(Debug)]
pub(crate) struct Clock {
    limits: ClockLimits,
    database: Database,
    /// Whether our own clock was stepped since it was last compared with the database's.
    stepped: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    /// The time by which things are removed.
    trusted: Timestamp,
    /// What the database's clock said then, or ours where it has none, what ours said, and when that was.
    wall: Timestamp,
    ours: Timestamp,
    at: Instant,
    /// Whether the clock is too far ahead to be followed.
    is_ahead: bool,
}

impl State {
    /// A moment later. Returns by how many microseconds our clock was stepped in between.
    fn go_on(&mut self, wall: Timestamp, ours: Timestamp, at: Instant, jump_max: Duration) -> i64 {
        let elapsed = at.saturating_duration_since(self.at);
        let expected = self.trusted.plus(elapsed);
        self.is_ahead = wall > expected.plus(jump_max) || self.is_ahead && wall > expected.plus(elapsed);
        self.trusted = if self.is_ahead { wall.min(expected.plus(elapsed)) } else { wall };
        let step = ours.0.saturating_sub(self.ours.plus(elapsed).0);
        (self.wall, self.ours, self.at) = (wall, ours, at);
        step
    }
}

impl Clock {
    /// Begins where the database was last known to be in use.
    ///
    /// # Errors
    /// [`Error::Busy`] when the database can't be asked.
    pub(crate) async fn open(database: &Database, limits: ClockLimits) -> Result<Self, Error> {
        let wall = database.now();
        let seen = db::clock::seen(database).await?.unwrap_or(wall);
        let state = State { trusted: seen.min(wall), wall, ours: Timestamp::now(), at: Instant::now(), is_ahead: false };
        // Metrics begin later than this: it is compared once more as soon as the service runs.
        let stepped = AtomicBool::new(true);
        let clock = Self { limits, database: database.clone(), stepped, state: Mutex::new(state) };
        clock.report();
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

    /// The time by which things are removed; never later than [`Database::now`].
    pub(crate) fn trusted(&self) -> Timestamp {
        let (wall, ours, at) = (self.database.now(), Timestamp::now(), Instant::now());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let step = state.go_on(wall, ours, at, self.limits.jump_max);
        let trusted = state.trusted;
        drop(state);
        if step.unsigned_abs() > micros(NOTED_FROM) {
            self.stepped.store(true, Ordering::Relaxed);
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
        let wall = self.database.now();
        *state = State { trusted: wall, wall, ours: Timestamp::now(), at: Instant::now(), is_ahead: false };
    }

    /// Whether things may be removed by this clock at all.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it differs too much from the database's, or that could not be measured yet.
    pub(crate) fn check_offset(&self) -> Result<(), Error> {
        let unknown =
            "nothing is removed until this machine's clock could be compared with the database's, which answers too slowly";
        let offset = self.database.clock_offset().ok_or_else(|| Error::invalid(unknown))?;
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
    pub(crate) async fn tick(&self) -> Result<(), Error> {
        self.compare().await?;
        let (database, trusted, now) = (&self.database, self.trusted(), self.database.now());
        // Another process may have caught up, or an operator accepted the time.
        if let Some(seen) = db::clock::find(database).await?.filter(|seen| trusted < *seen && *seen <= now) {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).trusted = seen;
        }
        self.note().await
    }

    /// Tells the database how late it is.
    ///
    /// # Errors
    /// [`Error::Busy`] when it can't be written.
    pub(crate) async fn note(&self) -> Result<(), Error> {
        if self.check_offset().is_err() {
            return Ok(());
        }
        let seen = self.trusted();
        self.database.write(move |connection| Box::pin(async move { db::clock::set_seen(connection, seen).await })).await
    }

    /// Whether our own clock was stepped, or this machine asleep, since this was last asked: then it is compared at once.
    pub(crate) fn was_stepped(&self) -> bool {
        self.stepped.swap(false, Ordering::Relaxed)
    }

    /// Compares with the database's clock.
    ///
    /// # Errors
    /// [`Error::Busy`] when the database can't be asked.
    async fn compare(&self) -> Result<(), Error> {
        if self.database.measure_time().await? {
            self.report();
        }
        Ok(())
    }

    fn report(&self) {
        let offset = self.database.clock_offset().unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        metrics::gauge!("imagewell_clock_offset_seconds").set(offset as f64 / 1_000_000.0);
        if offset.unsigned_abs() > micros(NOTED_FROM) {
            let seconds = offset / 1_000_000;
            tracing::warn!(seconds, "the database's clock differs from this machine's: does it run NTP?");
        }
    }
}

/// Bytes wait for so long for their row whatever the grace period is.
const WAITS_AT_LEAST: Duration = Duration::from_secs(60);
/// What an upload is told whose bytes have waited too long.
const STORED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Bytes that wait for their row. A process that stood still in between, with or without its machine, may find that another node's sweep has
/// taken them for orphans.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    longest: Duration,
    since: Instant,
    /// Goes on while a machine is suspended.
    wall: Timestamp,
}

impl Waiting {
    /// Begins with the bytes, which a sweep leaves alone for the grace period.
    pub(crate) fn begin(grace: Duration) -> Self {
        Self { longest: (grace / 2).max(WAITS_AT_LEAST), since: Instant::now(), wall: Timestamp::now() }
    }

    /// Whether the row may still be written.
    ///
    /// # Errors
    /// [`Error::Busy`] when half of the grace period is over.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if !self.is_over(self.since.elapsed(), Timestamp::now()) {
            return Ok(());
        }
        tracing::warn!(
            "an upload is refused: this process stood still, or its clock jumped, between storing the bytes and their row"
        );
        Err(Error::Busy { retry_after: STORED_AGAIN_AFTER })
    }

    fn is_over(&self, elapsed: Duration, wall: Timestamp) -> bool {
        elapsed > self.longest || wall.minus(self.longest) > self.wall
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
        let mut state = State { trusted: Timestamp(0), wall: Timestamp(0), ours: Timestamp(0), at, is_ahead: false };
        let mut go_on = |(running, wall): &(u64, i64)| {
            let wall = Timestamp(wall * 1_000_000);
            state.go_on(wall, wall, at + Duration::from_secs(*running), JUMP_MAX);
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
        let mut state = State { trusted: Timestamp(0), wall: Timestamp(0), ours: Timestamp(0), at, is_ahead: false };
        for (running, wall, step) in [(10, 10, 0), (20, 3620, 3600), (30, 3630, 0), (40, 40, -3600)] {
            let wall = Timestamp(wall * 1_000_000);
            let found = state.go_on(wall, wall, at + Duration::from_secs(running), JUMP_MAX);
            assert_eq!(found / 1_000_000, step, "at {running}");
        }
    }

    #[test]
    fn a_row_is_not_written_when_half_of_the_grace_period_has_passed_by_either_clock() {
        let (second, hour, day) = (Duration::from_secs(1), Duration::from_secs(3600), Duration::from_secs(86_400));
        let waiting = Waiting::begin(day);
        let at = |passed| waiting.wall.plus(passed);
        assert!(waiting.check().is_ok());
        for (elapsed, wall, over) in [
            (12 * hour, at(12 * hour), false),
            (12 * hour + second, at(12 * hour), true),
            (second, at(12 * hour + second), true),
            (second, at(Duration::ZERO).minus(day), false),
        ] {
            assert_eq!(waiting.is_over(elapsed, wall), over, "{elapsed:?}");
        }
        assert!(
            !Waiting::begin(Duration::ZERO).is_over(60 * second, Timestamp(0)),
            "a short grace period still lets uploads through"
        );
    }
}
