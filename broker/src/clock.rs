//! The clocks of the broker: a monotonic one of its own, and an estimate of the database's.
//!
//! Nothing else in the broker reads a clock. Only the database's time decides what is due (C7), so the estimate may be
//! behind it but never ahead of it.

use std::time::Duration;

use tokio::time::Instant;

use crate::core::types::{Now, Timestamp};

/// How much slower than ours the database's clock may run while it is being corrected: one part in this many.
const DRIFT_ONE_PART_IN: u32 = 1_000;

/// A monotonic clock that starts at zero.
#[derive(Clone, Copy, Debug)]
pub struct Monotonic {
    start: Instant,
}

impl Monotonic {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The time since the start.
    pub fn now(self) -> Duration {
        self.start.elapsed()
    }

    /// The instant at which this clock shows `time`.
    pub fn instant(self, time: Duration) -> Instant {
        self.start + time
    }
}

/// An estimate of the database's clock that is never later than the clock itself, and never goes back.
///
/// A sample is what the database said, and when *its reply was received*: the clock was read before that, so what it
/// says since is at least the sample plus the time since the receipt. (Counting from the sending would be too late.)
#[derive(Clone, Copy, Debug)]
pub struct DatabaseClock {
    said: Timestamp,
    received: Duration,
    shown: Timestamp,
}

impl DatabaseClock {
    /// The database said `said`; the reply was received at `received` of the monotonic clock.
    pub fn new(said: Timestamp, received: Duration) -> Self {
        Self { said, received, shown: said }
    }

    /// A newer sample.
    pub fn observe(&mut self, said: Timestamp, received: Duration) {
        (self.said, self.received) = (said, received);
    }

    /// What both clocks say.
    pub fn now(&mut self, mono: Duration) -> Now {
        let elapsed = mono.saturating_sub(self.received);
        let estimate = self.said.plus(elapsed.saturating_sub(elapsed / DRIFT_ONE_PART_IN));
        self.shown = self.shown.max(estimate);
        Now { db: self.shown, mono }
    }

    /// When the monotonic clock will show at least what it shows as the estimate reaches `time`.
    pub fn when(&self, time: Timestamp) -> Duration {
        let wait = time.since(self.said);
        // A microsecond more than the drift, since the estimate is rounded down.
        self.received + wait + wait / (DRIFT_ONE_PART_IN - 1) + Duration::from_micros(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_estimate_counts_from_the_receipt_and_allows_for_drift() {
        let mut clock = DatabaseClock::new(Timestamp(5_000_000), SECOND);
        assert_eq!(clock.now(SECOND).db, Timestamp(5_000_000));
        assert_eq!(clock.now(2 * SECOND).db, Timestamp(5_999_000));
    }

    #[test]
    fn a_sample_from_a_clock_that_was_set_back_does_not_turn_time_back() {
        let mut clock = DatabaseClock::new(Timestamp(5_000_000), SECOND);
        let before = clock.now(3 * SECOND).db;
        clock.observe(Timestamp(1_000_000), 3 * SECOND);
        assert_eq!(clock.now(4 * SECOND).db, before);
    }

    #[test]
    fn at_the_time_that_when_names_the_estimate_has_come() {
        let mut clock = DatabaseClock::new(Timestamp(5_000_000), SECOND);
        for due in [5_000_000, 5_000_001, 5_001_000, 7_123_457, 3_605_000_000] {
            let when = clock.when(Timestamp(due));
            assert!(clock.now(when).db >= Timestamp(due), "due at {due}");
        }
    }
}
