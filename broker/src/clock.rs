//! The clocks of the broker: a monotonic one of its own, and an estimate of the database's.
//!
//! Nothing else in the broker reads a clock, but for the store in memory, which stands for a database. Only the
//! database's time decides what is due (C7), so the estimate may be behind it but never ahead of it.

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

/// What the database's clock said, and when it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What it said.
    pub said: Timestamp,
    /// When the question was sent, by the monotonic clock: it was read after that.
    pub sent: Duration,
    /// When the answer was received: it was read before that. After a commit, well before.
    pub received: Duration,
}

impl Sample {
    /// What the clock shows at least at a later time.
    fn at_least(self, mono: Duration) -> Timestamp {
        let elapsed = mono.saturating_sub(self.received);
        self.said.plus(elapsed.saturating_sub(elapsed / DRIFT_ONE_PART_IN))
    }

    /// What it shows at most.
    fn at_most(self, mono: Duration) -> Timestamp {
        let elapsed = mono.saturating_sub(self.sent);
        self.said.plus(elapsed + elapsed / DRIFT_ONE_PART_IN + Duration::from_micros(1))
    }
}

/// Two estimates of the database's clock: one that is never later than the clock itself, and one that is never
/// earlier. The first counts from the receipt of a sample, the second from its sending; neither goes back.
///
/// A commit reads the clock at its beginning, so its answer is old by the time of the commit. The first estimate goes
/// on counting from an earlier sample as long as that says more.
#[derive(Clone, Copy, Debug)]
pub struct DatabaseClock {
    /// The newest sample.
    sample: Sample,
    /// The one that the first estimate counts from.
    floor: Sample,
    shown: Timestamp,
    latest: Timestamp,
}

impl DatabaseClock {
    /// A clock that begins with this sample.
    pub fn new(sample: Sample) -> Self {
        Self { sample, floor: sample, shown: sample.said, latest: sample.said }
    }

    /// A newer sample.
    pub fn observe(&mut self, sample: Sample) {
        self.sample = sample;
        let before = self.floor.at_least(sample.received);
        // Unless the clock itself says that it cannot be so late: it was set back.
        if before < sample.said || before > sample.at_most(sample.received) {
            self.floor = sample;
        }
    }

    /// What both clocks say.
    pub fn now(&mut self, mono: Duration) -> Now {
        self.shown = self.shown.max(self.floor.at_least(mono));
        self.latest = self.latest.max(self.sample.at_most(mono));
        Now { db: self.shown, db_latest: self.latest, mono }
    }

    /// When the monotonic clock will show at least what it shows as the estimate reaches `time`.
    pub fn when(&self, time: Timestamp) -> Duration {
        let wait = time.since(self.floor.said);
        // A microsecond more than the drift, since the estimate is rounded down.
        self.floor.received + wait + wait / (DRIFT_ONE_PART_IN - 1) + Duration::from_micros(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sample(said: i64, received: Duration) -> Sample {
        Sample { said: Timestamp(said), sent: received.saturating_sub(Duration::from_millis(20)), received }
    }

    #[test]
    fn waits_are_counted_from_a_time_that_the_database_has_not_passed() {
        let mut clock = DatabaseClock::new(sample(5_000_000, SECOND));
        assert_eq!(clock.now(SECOND).db_latest, Timestamp(5_020_021));
        assert!(clock.now(2 * SECOND).db_latest >= Timestamp(6_020_000));
    }

    #[test]
    fn the_estimate_counts_from_the_receipt_and_allows_for_drift() {
        let mut clock = DatabaseClock::new(sample(5_000_000, SECOND));
        assert_eq!(clock.now(SECOND).db, Timestamp(5_000_000));
        assert_eq!(clock.now(2 * SECOND).db, Timestamp(5_999_000));
    }

    #[test]
    fn a_sample_that_came_late_does_not_hold_the_estimate_back() {
        let mut clock = DatabaseClock::new(sample(5_000_000, SECOND));
        // Read at 5.1 s by the database's clock, and received 15 ms after that.
        clock.observe(sample(5_100_000, Duration::from_millis(1_115)));
        assert_eq!(clock.now(Duration::from_millis(1_115)).db, Timestamp(5_114_885));
        assert!(clock.now(Duration::from_millis(1_115)).db_latest >= Timestamp(5_120_000));
    }

    #[test]
    fn a_clock_that_was_set_back_is_followed_from_its_own_sample() {
        let mut clock = DatabaseClock::new(sample(5_000_000, SECOND));
        clock.observe(sample(1_000_000, 2 * SECOND));
        assert_eq!(clock.when(Timestamp(1_000_000)), 2 * SECOND + Duration::from_micros(1));
    }

    #[test]
    fn a_sample_from_a_clock_that_was_set_back_does_not_turn_time_back() {
        let mut clock = DatabaseClock::new(sample(5_000_000, SECOND));
        let before = clock.now(3 * SECOND).db;
        clock.observe(sample(1_000_000, 3 * SECOND));
        assert_eq!(clock.now(4 * SECOND).db, before);
    }

    #[test]
    fn at_the_time_that_when_names_the_estimate_has_come() {
        let mut clock = DatabaseClock::new(sample(5_000_000, SECOND));
        for due in [5_000_000, 5_000_001, 5_001_000, 7_123_457, 3_605_000_000] {
            let when = clock.when(Timestamp(due));
            assert!(clock.now(when).db >= Timestamp(due), "due at {due}");
        }
    }
}
