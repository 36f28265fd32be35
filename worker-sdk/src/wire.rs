//! Times as the wire has them.

use std::time::{Duration, SystemTime};

/// Longer than any wait that means something: about 10,000 years. The wire's limit.
const MAX_SECONDS: u64 = 315_576_000_000;

/// Longer than any process lives: some ten years.
const LONGEST_WAIT: Duration = Duration::from_hours(24 * 3_650);

pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: duration.as_secs().min(MAX_SECONDS) as i64, nanos: duration.subsec_nanos() as i32 }
}

/// A wait that can be added to an instant, whatever a peer or a caller says.
pub(crate) fn bounded(wait: Duration) -> Duration {
    wait.min(LONGEST_WAIT)
}

/// `None` for a negative or malformed one.
pub(crate) fn to_duration(duration: prost_types::Duration) -> Option<Duration> {
    Duration::try_from(duration).ok().map(bounded)
}

pub(crate) fn timestamp(at: SystemTime) -> prost_types::Timestamp {
    at.into()
}

/// `None` for one that this machine cannot name.
pub(crate) fn to_time(at: prost_types::Timestamp) -> Option<SystemTime> {
    at.try_into().ok()
}
