//! Instants and durations, between people, JSON and the wire.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

/// The last moment of a second that is not a leap second.
const NANOS_MAX: u32 = 999_999_999;
const SECONDS_OF_DAY: u64 = 24 * 3_600;

/// Parses an instant. A time without its zone is refused: it would mean something else on another machine.
pub(crate) fn parse_instant(text: &str) -> Result<DateTime<Utc>, String> {
    match DateTime::parse_from_rfc3339(text) {
        Ok(instant) if instant.timestamp_subsec_nanos() > NANOS_MAX => {
            Err("there are no leap seconds here, seconds go from 0 to 59; write 00 of the next minute".to_owned())
        }
        Ok(instant) => Ok(instant.to_utc()),
        Err(_) if DateTime::parse_from_rfc3339(&format!("{text}Z")).is_ok() => {
            Err(format!("the time has no zone; write {text}Z for UTC, or end it with an offset such as +02:00"))
        }
        Err(error) => Err(format!("{error}; write it as RFC 3339 has it, such as 2031-05-09T17:30:00Z")),
    }
}

/// Parses a duration such as `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    if text.starts_with('-') {
        return Err("a duration is zero or more; write something like 90s, 1h30m or 500ms".to_owned());
    }
    // In `humantime` that is a month, and nobody who writes `1M` is asked which of the two was meant.
    if text.contains('M') {
        return Err("M may be minutes or months; write m for minutes, or days, such as 30days".to_owned());
    }
    humantime::parse_duration(text).map_err(|error| {
        if !text.is_empty() && text.chars().all(|letter| letter.is_ascii_digit() || letter == '.') {
            format!("the unit is missing; write {text}s for seconds, or something like 1h30m")
        } else {
            format!("{error}; write something like 90s, 1h30m or 500ms")
        }
    })
}

/// So long from now on, by this machine's clock.
pub(crate) fn from_now(wait: Duration) -> Result<DateTime<Utc>, String> {
    let instant = chrono::Duration::from_std(wait).ok().and_then(|wait| Utc::now().checked_add_signed(wait));
    instant.ok_or_else(|| "leads beyond the year 9999; give less".to_owned())
}

pub(crate) fn to_wire(instant: DateTime<Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: instant.timestamp(), nanos: instant.timestamp_subsec_nanos() as i32 }
}

pub(crate) fn duration_to_wire(duration: Duration) -> Result<prost_types::Duration, String> {
    prost_types::Duration::try_from(duration).map_err(|_| "the duration is too long".to_owned())
}

pub(crate) fn from_wire(timestamp: prost_types::Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(timestamp.seconds, u32::try_from(timestamp.nanos).ok()?)
}

pub(crate) fn duration_from_wire(duration: prost_types::Duration) -> Option<Duration> {
    Duration::try_from(duration).ok()
}

/// An instant for tables: to the second, in UTC.
pub(crate) fn for_people(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// An instant for JSON: exact to the microsecond, which is what the database keeps.
pub(crate) fn for_machines(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// A duration for people, in days of 24 hours and what is left: no months, of which each has another length.
pub(crate) fn duration_for_people(duration: Duration) -> String {
    let days = duration.as_secs() / SECONDS_OF_DAY;
    let rest = Duration::new(duration.as_secs() % SECONDS_OF_DAY, duration.subsec_nanos());
    let days = match days {
        0 => return humantime::format_duration(rest).to_string(),
        1 => "1day".to_owned(),
        days => format!("{days}days"),
    };
    if rest.is_zero() { days } else { format!("{days} {}", humantime::format_duration(rest)) }
}

/// A duration for JSON, as protobuf writes it: `1.500s`.
pub(crate) fn duration_for_machines(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    match nanos {
        0 => format!("{seconds}s"),
        _ if nanos % 1_000_000 == 0 => format!("{seconds}.{:03}s", nanos / 1_000_000),
        _ if nanos % 1_000 == 0 => format!("{seconds}.{:06}s", nanos / 1_000),
        _ => format!("{seconds}.{nanos:09}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_need_a_zone_and_the_error_says_how() {
        let instant = parse_instant("2031-05-09T17:30:00+02:00").unwrap();
        assert_eq!(for_people(instant), "2031-05-09T15:30:00Z");
        let error = parse_instant("2031-05-09T17:30:00").unwrap_err();
        assert!(error.contains("no zone") && error.contains("2031-05-09T17:30:00Z"), "{error}");
        assert!(parse_instant("tomorrow").unwrap_err().contains("RFC 3339"));
        assert!(parse_instant("2031-12-31T23:59:60Z").unwrap_err().contains("leap seconds"));
    }

    #[test]
    fn durations_need_a_unit_and_the_error_says_how() {
        assert_eq!(parse_duration("1h30m").unwrap(), Duration::from_mins(90));
        assert!(parse_duration("90").unwrap_err().contains("90s"));
        assert!(parse_duration("soon").unwrap_err().contains("1h30m"));
        assert!(!parse_duration("inf").unwrap_err().contains("infs"));
        assert!(parse_duration("-1s").unwrap_err().contains("zero or more"));
        assert!(parse_duration("1M").unwrap_err().contains("write m for minutes"));
        assert!(parse_duration("").is_err());
    }

    #[test]
    fn durations_for_people_have_days_and_no_months() {
        for (duration, expected) in [
            (Duration::from_hours(365 * 24), "365days"),
            (Duration::from_hours(24), "1day"),
            (Duration::from_mins(30 * 24 * 60 + 90), "30days 1h 30m"),
            (Duration::from_millis(1_500), "1s 500ms"),
            (Duration::ZERO, "0s"),
        ] {
            assert_eq!(duration_for_people(duration), expected);
        }
    }

    #[test]
    fn durations_in_json_are_those_of_protobuf() {
        for (duration, expected) in [
            (Duration::from_secs(90), "90s"),
            (Duration::from_millis(1_500), "1.500s"),
            (Duration::from_micros(1), "0.000001s"),
            (Duration::from_nanos(1), "0.000000001s"),
        ] {
            assert_eq!(duration_for_machines(duration), expected);
        }
    }

    #[test]
    fn instants_survive_the_wire() {
        let instant = parse_instant("1969-12-31T23:59:59.25Z").unwrap();
        assert_eq!(from_wire(to_wire(instant)), Some(instant));
        assert_eq!(for_machines(instant), "1969-12-31T23:59:59.250000Z");
    }
}
