//! Single fields of the wire, checked against the limits of the contract.

use std::{fmt, time::Duration};

use uuid::Uuid;

use crate::core::types::{JobId, Timestamp};

/// Names of queues and tasks, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 128;
/// Locks and queueing locks, in bytes.
pub(super) const LOCK_BYTES_MAX: usize = 255;
/// Arguments of one job, in bytes.
pub(super) const ARGS_BYTES_MAX: usize = 256 << 10;
/// The result of one job, in bytes.
pub(super) const RESULT_BYTES_MAX: usize = 256 << 10;
/// A client's id of a call, in bytes.
pub(super) const REQUEST_ID_BYTES_MAX: usize = 64;
/// W3C trace context, each of its parts, in bytes.
pub(super) const TRACE_BYTES_MAX: usize = 512;
/// Labels of a job or worker, in number.
pub(super) const LABELS_MAX: usize = 32;
/// The key of a label, in bytes.
pub(super) const LABEL_KEY_BYTES_MAX: usize = 128;
/// The value of a job's label, in bytes.
pub(super) const LABEL_VALUE_BYTES_MAX: usize = 1 << 10;
/// A reason for the record, in bytes.
pub(super) const REASON_BYTES_MAX: usize = 1 << 10;
/// The priority's range, both ways.
pub(super) const PRIORITY_MAX: i32 = 100;
/// The longest wait, timeout or delay: a hundred years, each of 365 days.
pub(super) const DURATION_MAX: Duration = Duration::from_hours(100 * 365 * 24);
/// The seconds of a day.
const SECONDS_OF_DAY: u64 = 24 * 3_600;

/// A field that breaks a limit or makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The path of the field.
    pub field: String,
    /// Which limit it breaks, and what to do.
    pub problem: String,
}

impl Invalid {
    pub(super) fn new(field: impl fmt::Display, problem: impl Into<String>) -> Self {
        Self { field: field.to_string(), problem: problem.into() }
    }

    /// The same, within another message.
    pub(super) fn within(self, message: impl fmt::Display) -> Self {
        Self { field: format!("{message}.{}", self.field), problem: self.problem }
    }
}

/// A name of a queue or task: 1 to 128 bytes without control characters.
pub(super) fn name(field: &str, name: &str) -> Result<(), Invalid> {
    if name.is_empty() {
        return Err(Invalid::new(field, "is empty; give a name"));
    }
    text(field, name, NAME_BYTES_MAX)
}

/// A text of at most so many bytes without control characters.
pub(super) fn text(field: &str, text: &str, max: usize) -> Result<(), Invalid> {
    at_most(field, text.len(), max)?;
    if text.chars().any(char::is_control) {
        return Err(Invalid::new(field, "has a control character; use letters, digits, punctuation or spaces"));
    }
    Ok(())
}

/// A length in bytes.
pub(super) fn at_most(field: &str, bytes: usize, max: usize) -> Result<(), Invalid> {
    if bytes > max {
        return Err(Invalid::new(field, format!("has {bytes} bytes; the limit is {max}: make it shorter")));
    }
    Ok(())
}

/// A count of elements.
pub(super) fn count(field: &str, count: usize, max: usize) -> Result<(), Invalid> {
    if count > max {
        return Err(Invalid::new(field, format!("has {count} elements; the limit is {max}: send fewer at once")));
    }
    Ok(())
}

/// The id of a job.
pub(super) fn job_id(id: i64) -> Result<JobId, Invalid> {
    if id < 1 {
        return Err(Invalid::new("job_id", format!("is {id}; ids begin with 1")));
    }
    Ok(JobId(id))
}

/// A client's id of its call; empty: none.
pub(super) fn request_id(id: &str) -> Result<Option<&str>, Invalid> {
    text("request_id", id, REQUEST_ID_BYTES_MAX)?;
    Ok((!id.is_empty()).then_some(id))
}

/// A UUID as text.
pub(super) fn uuid(field: &str, text: &str) -> Result<Uuid, Invalid> {
    Uuid::try_parse(text).map_err(|_| Invalid::new(field, "is no UUID; give it back as it came"))
}

/// The secret of a session.
pub(super) fn resume_token(field: &str, token: &[u8]) -> Result<Uuid, Invalid> {
    Uuid::from_slice(token).map_err(|_| Invalid::new(field, "is no token of this broker; give it back as it came"))
}

/// A priority, -100 to 100.
pub(super) fn priority(field: &str, priority: i32) -> Result<i8, Invalid> {
    if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&priority) {
        let problem = format!("is {priority}; priorities go from -{PRIORITY_MAX} to {PRIORITY_MAX}");
        return Err(Invalid::new(field, problem));
    }
    Ok(priority as i8)
}

/// A duration from zero to a hundred years, at the microseconds that PostgreSQL records, never shortened.
pub(super) fn duration(field: &str, duration: &prost_types::Duration) -> Result<Duration, Invalid> {
    let (Ok(seconds), Ok(nanos @ 0..1_000_000_000)) = (u64::try_from(duration.seconds), u32::try_from(duration.nanos))
    else {
        return Err(Invalid::new(field, "is negative or malformed; give zero or more"));
    };
    if seconds > DURATION_MAX.as_secs() {
        let days = DURATION_MAX.as_secs() / SECONDS_OF_DAY;
        return Err(Invalid::new(field, format!("is longer than {days} days; give less")));
    }
    Ok(Duration::from_secs(seconds) + Duration::from_micros(u64::from(nanos.div_ceil(1_000))))
}

/// A duration that may be absent, which means zero.
pub(super) fn delay(field: &str, delay: Option<&prost_types::Duration>) -> Result<Duration, Invalid> {
    delay.map_or(Ok(Duration::ZERO), |delay| duration(field, delay))
}

/// An instant from 1970 to 9999, at the microseconds that PostgreSQL records, never earlier.
pub(super) fn timestamp(field: &str, timestamp: &prost_types::Timestamp) -> Result<Timestamp, Invalid> {
    let (seconds, nanos) = (timestamp.seconds, timestamp.nanos);
    let last = Timestamp::MAX.0 / 1_000_000;
    if !(0..1_000_000_000).contains(&nanos) {
        let problem = format!("has {nanos} nanoseconds; they go from 0 to 999999999, also where a second is to leap");
        return Err(Invalid::new(field, problem));
    }
    if !(0..=last).contains(&seconds) {
        return Err(Invalid::new(field, "is not within the years 1970 to 9999"));
    }
    Ok(Timestamp(seconds * 1_000_000 + i64::from(nanos).div_euclid(1_000) + i64::from(nanos % 1_000 != 0))
        .min(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_locks_pass_at_the_limit_and_fail_one_over() {
        assert!(name("task", &"x".repeat(NAME_BYTES_MAX)).is_ok());
        assert!(name("task", &"x".repeat(NAME_BYTES_MAX + 1)).is_err());
        assert!(name("task", "").is_err());
        assert!(text("lock", &"x".repeat(LOCK_BYTES_MAX), LOCK_BYTES_MAX).is_ok());
        assert!(text("lock", &"x".repeat(LOCK_BYTES_MAX + 1), LOCK_BYTES_MAX).is_err());
    }

    #[test]
    fn control_characters_and_nul_are_refused() {
        for bad in ["a\0b", "a\nb", "\u{7f}", "\u{85}"] {
            assert!(name("task", bad).is_err(), "{bad:?}");
        }
        assert!(name("task", "größe: 日本 🥬").is_ok());
    }

    #[test]
    fn priorities_pass_at_the_limit_and_fail_one_over() {
        assert_eq!(priority("priority", -100), Ok(-100));
        assert_eq!(priority("priority", 100), Ok(100));
        assert!(priority("priority", 101).is_err() && priority("priority", i32::MIN).is_err());
    }

    #[test]
    fn durations_are_never_shortened() {
        let of = |seconds, nanos| duration("wait", &prost_types::Duration { seconds, nanos });
        assert_eq!(of(1, 1), Ok(Duration::from_micros(1_000_001)));
        assert_eq!(of(0, 999_999_999), Ok(Duration::from_secs(1)));
        assert!(of(-1, 0).is_err() && of(0, -1).is_err() && of(0, 1_000_000_000).is_err() && of(i64::MAX, 0).is_err());
        assert_eq!(of(36_500 * 86_400, 0), Ok(DURATION_MAX));
        assert!(of(36_500 * 86_400 + 1, 0).expect_err("too long").problem.contains("36500 days"));
    }

    #[test]
    fn timestamps_are_never_earlier_and_end_with_the_year_9999() {
        let of = |seconds, nanos| timestamp("at", &prost_types::Timestamp { seconds, nanos });
        assert_eq!(of(1, 1), Ok(Timestamp(1_000_001)));
        assert_eq!(of(1, 1_000), Ok(Timestamp(1_000_001)));
        assert_eq!(of(253_402_300_799, 999_999_999), Ok(Timestamp::MAX));
        for (seconds, nanos, says) in [
            (253_402_300_800, 0, "years 1970 to 9999"),
            (-1, 0, "years 1970 to 9999"),
            (0, -1, "nanoseconds"),
            (1_956_527_999, 1_000_000_000, "from 0 to 999999999"),
        ] {
            assert!(of(seconds, nanos).expect_err(says).problem.contains(says));
        }
    }
}
