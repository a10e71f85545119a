//! How slowly an answer may be read.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::config::Settings;

/// How far readers may be behind the minimum rate, and that rate.
#[derive(Debug)]
pub(crate) struct Pace {
    lag_max: Duration,
    /// Once the service drains.
    draining_lag_max: Duration,
    bytes_per_second_min: u64,
    draining: AtomicBool,
}

impl Pace {
    pub(crate) fn new(settings: &Settings) -> Self {
        let server = &settings.server;
        let lag_max = Duration::from_secs(server.response_idle_timeout_seconds);
        Self {
            lag_max,
            draining_lag_max: lag_max.min(Duration::from_secs(server.drain_timeout_seconds) / 2),
            bytes_per_second_min: server.response_bytes_per_second_min,
            draining: AtomicBool::new(false),
        }
    }

    /// From now on readers get half of the time for draining, so that those who read nothing are
    /// gone by its end.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn lag_max(&self) -> Duration {
        if self.draining.load(Ordering::Relaxed) { self.draining_lag_max } else { self.lag_max }
    }
}

/// What a connection has done so far, for those who watch it. Its socket, its requests and its
/// HTTP/2 streams keep it.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Whether there was a request.
    pub(crate) asked: AtomicBool,
    /// Requests under way, until their answers have left.
    pub(crate) requests: AtomicUsize,
    /// Bytes that the socket has taken.
    pub(crate) written: AtomicU64,
    /// Whether the socket takes no more at the moment.
    pub(crate) blocked: AtomicBool,
    /// Bytes of answers that HTTP/2 has written.
    pub(crate) answered: AtomicU64,
    /// Whether a stream is stuck that can't be ended alone.
    pub(crate) stuck: AtomicBool,
}

/// By how much time a reader is behind the minimum rate. One that reads nothing is behind by the
/// whole time; one that is faster than the rate catches up.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    taken: u64,
    behind: Duration,
}

impl Lag {
    /// Counts `elapsed`, during which bytes waited for the reader, who has taken so many in all.
    /// Says whether it is too far behind.
    pub(crate) fn add(&mut self, taken: u64, elapsed: Duration, pace: &Pace) -> bool {
        let fresh = taken.saturating_sub(self.taken);
        self.taken = taken;
        let worth = match pace.bytes_per_second_min {
            0 if fresh > 0 => Duration::MAX,
            0 => Duration::ZERO,
            rate => Duration::from_millis(fresh.saturating_mul(1000) / rate),
        };
        self.behind = self.behind.saturating_add(elapsed).saturating_sub(worth);
        !elapsed.is_zero() && self.behind >= pace.lag_max()
    }
}

/// The same for one HTTP/2 stream, which shares its connection with others.
#[derive(Debug, Default)]
pub(crate) struct StreamLag {
    lag: Lag,
    /// What the connection had answered when this stream last took something …
    answered_then: Option<u64>,
    /// … and when it was last looked at.
    answered_before: u64,
}

/// While a stream waits for its turn, each of the others gets at most so many bytes: two chunks.
const TURN_BYTES: u64 = 128 * 1024;

impl StreamLag {
    /// As [`Lag::add`]. Time doesn't count while the others take their turns.
    pub(crate) fn add(&mut self, taken: u64, elapsed: Duration, activity: &Activity, pace: &Pace) -> bool {
        let answered = activity.answered.load(Ordering::Relaxed);
        if taken > self.lag.taken {
            self.answered_then = None;
        }
        let answered_then = *self.answered_then.get_or_insert(answered);
        let turns = TURN_BYTES.saturating_mul(activity.requests.load(Ordering::Relaxed) as u64);
        let moved = answered - self.answered_before;
        self.answered_before = answered;
        let others = moved > 0 && moved >= pace.bytes_per_second_min && answered - answered_then < turns;
        self.lag.add(taken, if others { Duration::ZERO } else { elapsed }, pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(lag_max: u64, bytes_per_second_min: u64) -> Pace {
        let lag_max = Duration::from_secs(lag_max);
        Pace { lag_max, draining_lag_max: lag_max / 2, bytes_per_second_min, draining: AtomicBool::new(false) }
    }

    /// After how many seconds a reader is given up who takes so many bytes at each of these.
    fn given_up(pace: &Pace, taken: impl Fn(u64) -> u64) -> Option<u64> {
        let (mut lag, mut sum) = (Lag::default(), 0);
        (1..1000).find(|second| {
            sum += taken(*second);
            lag.add(sum, SECOND, pace)
        })
    }

    #[test]
    fn readers_below_the_rate_are_given_up_and_others_never() {
        let strict = pace(60, 1000);
        assert_eq!(given_up(&strict, |_| 0), Some(60));
        assert_eq!(given_up(&strict, |_| 500), Some(120));
        assert_eq!(given_up(&strict, |_| 1000), None);
        // What kernels and windows hand out at a time.
        assert_eq!(given_up(&strict, |second| if second % 32 == 0 { 32_000 } else { 0 }), None);
        // A quick start is no credit for later.
        assert_eq!(given_up(&strict, |second| if second == 1 { 100_000_000 } else { 0 }), Some(61));
        assert_eq!(given_up(&pace(60, 0), |second| u64::from(second % 50 == 0)), None, "without a rate any byte will do");
        strict.drain();
        assert_eq!(given_up(&strict, |_| 0), Some(30));
    }

    #[test]
    fn a_stream_waits_for_its_turn_but_not_for_ever() {
        let (pace, activity) = (pace(60, 1000), Activity::default());
        activity.requests.store(4, Ordering::Relaxed);
        let mut lag = StreamLag::default();
        let ended = (1..1000).find(|_| {
            activity.answered.fetch_add(4096, Ordering::Relaxed);
            lag.add(0, SECOND, &activity, &pace)
        });
        // A hundred and twenty-eight seconds for the turns of all four, after the first look.
        assert_eq!(ended, Some(1 + 4 * 128 / 4 + 59));
    }
}
