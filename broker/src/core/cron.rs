//! When a schedule ticks: a cron expression in a time zone, as a pure function of time (C12).
//!
//! A tick is an instant, to the second. On the two days of a year on which a zone's clock changes, the hour field
//! decides (docs/how-to/periodic.md):
//!
//! - Where it names hours (`30 2 * * *`, `0 9-17 * * *`), each time of the wall clock ticks once: one that happens
//!   twice ticks the first time, one that does not happen ticks at the first instant after the gap.
//! - Where it has a `*` (`*/5 * * * *`, `0 */2 * * *`), whatever the wall clock shows ticks: on through the hour that
//!   happens twice, and not at all where the clock jumps.

use std::{fmt, sync::Arc};

use chrono::{DateTime, LocalResult, NaiveDateTime, TimeDelta, TimeZone as _};
use chrono_tz::Tz;
use croner::parser::{CronParser, Year};

use super::types::Timestamp;

/// The longest cron expression, in bytes.
pub const CRON_BYTES_MAX: usize = 256;
/// No zone's clock ever jumped further than this.
const GAP_MAX: TimeDelta = TimeDelta::hours(25);

/// A cron expression in a time zone.
#[derive(Clone)]
pub struct Cron {
    text: Arc<str>,
    zone: Tz,
    pattern: croner::Cron,
    /// The hour field names hours.
    names_hours: bool,
}

/// A field of an expression: its name, what it takes, and a range that goes over its end, in two parts.
struct Field {
    name: &'static str,
    takes: &'static str,
    over_the_end: &'static str,
}

/// The fields of an expression in their order, the seconds first.
const FIELDS: [Field; 6] = [
    Field { name: "second", takes: "0 to 59", over_the_end: "55-59,0-5" },
    Field { name: "minute", takes: "0 to 59", over_the_end: "55-59,0-5" },
    Field { name: "hour", takes: "0 to 23", over_the_end: "22-23,0-5" },
    Field { name: "day of month", takes: "1 to 31", over_the_end: "30-31,1-5" },
    Field { name: "month", takes: "1 to 12 or JAN to DEC", over_the_end: "11-12,1-2" },
    Field { name: "day of week", takes: "0 to 7 (Sunday is both) or SUN to SAT", over_the_end: "5-6,0-1" },
];

/// Why something is no schedule. Says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Too long.
    #[error("has {0} bytes; the limit is {CRON_BYTES_MAX}: use lists, ranges and steps")]
    TooLong(usize),
    /// Not 5 or 6 fields.
    #[error(
        "has {0} fields; give 5 (minute, hour, day of month, month, day of week), or 6 with seconds first, as in \
         `30 4 * * *` or `*/10 * * * * *`"
    )]
    Fields(usize),
    /// A field is malformed.
    #[error("has {text:?} for the {field}, which takes {takes}; {remedy}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it says.
        text: String,
        /// What it can say.
        takes: &'static str,
        /// What to do.
        remedy: String,
    },
    /// Each field makes sense, and all together do not.
    #[error("is no cron expression: {0}; write it like `30 4 * * *`")]
    Malformed(String),
    /// No day ever fits.
    #[error("never comes: no day fits its day of month, month and day of week; choose a day that exists")]
    Never,
    /// Not in the database of time zones.
    #[error("is no time zone of the IANA database; write it like Europe/Berlin, or leave it out for UTC")]
    Zone,
}

impl Cron {
    /// Reads an expression of 5 fields, or 6 with seconds first.
    pub fn parse(text: &str, zone: Tz) -> Result<Self, CronError> {
        if text.len() > CRON_BYTES_MAX {
            return Err(CronError::TooLong(text.len()));
        }
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let hours = match fields.as_slice() {
            [_, hours, _, _, _] | [_, _, hours, _, _, _] => *hours,
            fields => return Err(CronError::Fields(fields.len())),
        };
        let names_hours = !hours.contains(['*', '?']);
        let parser = CronParser::builder().year(Year::Disallowed).build();
        let pattern = parser.parse(text).map_err(|error| {
            malformed_field(parser, &fields).unwrap_or_else(|| CronError::Malformed(error.to_string()))
        })?;
        let cron = Self { text: text.into(), zone, pattern, names_hours };
        if cron.next_after(Timestamp(0)).is_none() {
            return Err(CronError::Never);
        }
        Ok(cron)
    }

    /// The time zone of this name; the empty one is UTC.
    pub fn zone_of(name: &str) -> Result<Tz, CronError> {
        if name.is_empty() { Ok(Tz::UTC) } else { name.parse().map_err(|_| CronError::Zone) }
    }

    /// The expression, as it was given.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The time zone.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The first tick after an instant; `None`: there is none before the year 5000.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let after = DateTime::from_timestamp(after.0.div_euclid(1_000_000), 0)?.with_timezone(&self.zone);
        let next = if self.names_hours {
            self.next_named(&after)?
        } else {
            self.pattern.find_next_occurrence(&after, false).ok()?
        };
        Some(Timestamp(next.timestamp_micros())).filter(|next| *next <= Timestamp::MAX)
    }

    /// The ticks after an instant, in their order; at most `count`.
    pub fn following(&self, after: Timestamp, count: usize) -> Vec<Timestamp> {
        self.between(after, Timestamp::MAX, count)
    }

    /// The newest ticks after one instant and up to another, at most `count` (from 1), oldest first. However many there
    /// are, not many more than `count` are looked at.
    pub fn newest(&self, after: Timestamp, until: Timestamp, count: usize) -> Vec<Timestamp> {
        let looks = count.saturating_mul(2);
        // From `low` on there are too many ticks to look at, from `high` on fewer than are wanted.
        let (mut low, mut high) = (after, until);
        let mut from = after;
        loop {
            let mut ticks = self.between(from, until, looks + 1);
            if ticks.len() > looks {
                low = from;
            } else if ticks.len() >= count || from <= after {
                ticks.drain(..ticks.len().saturating_sub(count));
                return ticks;
            } else {
                high = from;
            }
            // Ticks are a second apart at least, so the two ends stay more than a second apart until one of them fits.
            from = Timestamp(low.0.midpoint(high.0));
        }
    }

    fn between(&self, after: Timestamp, until: Timestamp, count: usize) -> Vec<Timestamp> {
        let ticks = std::iter::successors(self.next_after(after), |tick| self.next_after(*tick));
        ticks.take_while(|tick| *tick <= until).take(count).collect()
    }

    /// The first instant later than `after` at which a time of the wall clock ticks that the expression names.
    fn next_named(&self, after: &DateTime<Tz>) -> Option<DateTime<Tz>> {
        let mut wall = after.naive_local();
        loop {
            wall = self.pattern.find_next_occurrence(&wall, false).ok()?;
            let at = match self.zone.from_local_datetime(&wall) {
                LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => at,
                LocalResult::None => self.end_of_gap(wall)?,
            };
            // In the second pass of an hour that happens twice, what comes later in it has ticked in the first.
            if at > *after {
                return Some(at);
            }
        }
    }

    /// The first instant after the gap of the wall clock that this time lies in.
    fn end_of_gap(&self, wall: NaiveDateTime) -> Option<DateTime<Tz>> {
        let (mut inside, mut outside) = (wall, wall.checked_add_signed(GAP_MAX)?);
        while outside - inside > TimeDelta::seconds(1) {
            let middle = inside + TimeDelta::seconds((outside - inside).num_seconds() / 2);
            match self.zone.from_local_datetime(&middle) {
                LocalResult::None => inside = middle,
                LocalResult::Single(_) | LocalResult::Ambiguous(..) => outside = middle,
            }
        }
        self.zone.from_local_datetime(&outside).earliest()
    }
}

/// The first field that is malformed by itself, with what it takes.
fn malformed_field(parser: CronParser, fields: &[&str]) -> Option<CronError> {
    let rules = FIELDS.iter().skip(FIELDS.len() - fields.len());
    let (rule, text) = rules.zip(fields).enumerate().find_map(|(at, (rule, text))| {
        let alone: Vec<&str> = (0..fields.len()).map(|other| if other == at { *text } else { "*" }).collect();
        parser.parse(&alone.join(" ")).is_err().then_some((rule, *text))
    })?;
    let remedy = if text.contains('-') {
        format!("a range goes from less to more: split one that goes over the end, as in `{}`", rule.over_the_end)
    } else {
        "write it like `30 4 * * *`".to_owned()
    };
    Some(CronError::Field { field: rule.name, text: text.to_owned(), takes: rule.takes, remedy })
}

/// The same expression in the same zone ticks at the same instants.
impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.zone == other.zone
    }
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({:?} in {})", self.text, self.zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(text: &str, zone: &str) -> Cron {
        Cron::parse(text, Cron::zone_of(zone).expect("a zone")).expect("an expression")
    }

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<DateTime<chrono::Utc>>().expect("an instant").timestamp_micros())
    }

    /// The ticks after an instant, in UTC.
    #[track_caller]
    fn ticks(text: &str, zone: &str, after: &str, expected: &[&str]) {
        let found = cron(text, zone).following(at(after), expected.len());
        let expected: Vec<_> = expected.iter().map(|text| at(text)).collect();
        assert_eq!(found, expected, "{text} in {zone} after {after}");
    }

    #[test]
    fn every_second_ticks_each_second_once() {
        ticks(
            "* * * * * *",
            "UTC",
            "2026-01-01T00:00:00.25Z",
            &["2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z", "2026-01-01T00:00:03Z"],
        );
    }

    #[test]
    fn a_wall_clock_time_that_does_not_happen_ticks_once_right_after_the_gap() {
        // 2026-03-29 02:00 CET becomes 03:00 CEST at 01:00 UTC.
        ticks(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T00:00:00Z",
            &["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        );
        ticks(
            "0,20,40 2-3 * * *",
            "Europe/Berlin",
            "2026-03-29T00:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-29T01:20:00Z", "2026-03-29T01:40:00Z", "2026-03-30T00:00:00Z"],
        );
        // 2026-03-08 02:00 EST becomes 03:00 EDT at 07:00 UTC.
        ticks(
            "15 2 * * *",
            "America/New_York",
            "2026-03-07T08:00:00Z",
            &["2026-03-08T07:00:00Z", "2026-03-09T06:15:00Z"],
        );
        // 2026-10-04 02:00 +10:30 becomes 02:30 +11 at 15:30 UTC of the day before: half an hour.
        ticks(
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-02T16:00:00Z",
            &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
        );
    }

    #[test]
    fn a_wall_clock_time_that_happens_twice_ticks_the_first_time_only() {
        // 2026-10-25 03:00 CEST becomes 02:00 CET at 01:00 UTC.
        ticks("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        ticks(
            "0,30 2-3 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z", "2026-10-25T02:30:00Z"],
        );
        // From within the second pass on, it does not tick again.
        ticks("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", &["2026-10-26T01:30:00Z"]);
        // 2026-11-01 02:00 EDT becomes 01:00 EST at 06:00 UTC.
        ticks(
            "30 1 * * *",
            "America/New_York",
            "2026-10-31T12:00:00Z",
            &["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
        );
        // 2026-04-05 02:00 +11 becomes 01:30 +10:30 at 15:00 UTC of the day before.
        ticks(
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T00:00:00Z",
            &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"],
        );
    }

    #[test]
    fn patterns_of_every_hour_go_on_through_both_changes() {
        ticks(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-24T23:45:00Z",
            &[
                "2026-10-25T00:00:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:00:00Z",
            ],
        );
        ticks(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-03-29T00:15:00Z",
            &["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"],
        );
        ticks(
            "*/10 * * * *",
            "Australia/Lord_Howe",
            "2026-04-04T14:45:00Z",
            &["2026-04-04T14:50:00Z", "2026-04-04T15:00:00Z", "2026-04-04T15:10:00Z"],
        );
        // Every two hours: the hour 2 happens twice in autumn, and not at all in spring.
        ticks(
            "0 */2 * * *",
            "Europe/Berlin",
            "2026-10-24T23:00:00Z",
            &["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T03:00:00Z"],
        );
        ticks(
            "0 */2 * * *",
            "Europe/Berlin",
            "2026-03-28T22:30:00Z",
            &["2026-03-28T23:00:00Z", "2026-03-29T02:00:00Z"],
        );
    }

    #[test]
    fn no_instant_ticks_twice_and_none_goes_back_over_two_years_of_changes() {
        for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kathmandu"] {
            for text in ["*/7 * * * *", "*/20 1-3 * * *", "0 2 * * *", "30 */3 * * *", "15,45 1,2 * * 0"] {
                let ticks = cron(text, zone).following(at("2026-01-01T00:00:00Z"), 4_000);
                assert!(ticks.windows(2).all(|pair| pair[0] < pair[1]), "{text} in {zone}");
            }
        }
    }

    #[test]
    fn time_goes_on_after_2038_and_far_beyond() {
        ticks("14 3 19 1 *", "UTC", "2037-06-01T00:00:00Z", &["2038-01-19T03:14:00Z", "2039-01-19T03:14:00Z"]);
        ticks("30 2 * 7 *", "Europe/Berlin", "2060-01-01T00:00:00Z", &["2060-07-01T00:30:00Z"]);
        ticks("0 0 29 2 *", "UTC", "2896-03-01T00:00:00Z", &["2904-02-29T00:00:00Z"]);
    }

    #[test]
    fn the_newest_ticks_are_found_without_a_look_at_all() {
        let year = cron("* * * * * *", "UTC").newest(at("2025-01-01T00:00:00Z"), at("2026-01-01T00:00:00.5Z"), 3);
        assert_eq!(year, ["2025-12-31T23:59:58Z", "2025-12-31T23:59:59Z", "2026-01-01T00:00:00Z"].map(at));
        // Every second of one day, long ago.
        let burst = cron("* * * 1 1 *", "UTC").newest(at("2025-01-01T12:00:00Z"), at("2025-12-01T00:00:00Z"), 2);
        assert_eq!(burst, ["2025-01-01T23:59:58Z", "2025-01-01T23:59:59Z"].map(at));
        let few = cron("0 4 * * *", "UTC").newest(at("2026-01-01T04:00:00Z"), at("2026-01-03T04:00:00Z"), 10);
        assert_eq!(few, ["2026-01-02T04:00:00Z", "2026-01-03T04:00:00Z"].map(at));
        assert_eq!(cron("0 4 * * *", "UTC").newest(at("2026-01-01T04:00:00Z"), at("2026-01-02T03:59:59Z"), 1), []);
    }

    #[test]
    fn what_is_no_schedule_says_what_to_do() {
        let error = |text: &str| Cron::parse(text, Tz::UTC).expect_err(text).to_string();
        assert!(error("* * * *").contains("has 4 fields; give 5"));
        assert!(error("@daily").contains("has 1 fields"));
        assert!(error("* * * * * * *").contains("has 7 fields"));
        assert_eq!(error("61 * * * *"), "has \"61\" for the minute, which takes 0 to 59; write it like `30 4 * * *`");
        assert!(error("a b c d e").contains("for the minute"));
        assert!(error("60 * * * * *").contains("for the second, which takes 0 to 59"));
        assert!(error("0 4 32 * *").contains("\"32\" for the day of month, which takes 1 to 31"));
        assert!(error("0 4 * 13 *").contains("for the month, which takes 1 to 12 or JAN to DEC"));
        for (text, split) in [("0 22-5 * * *", "22-23,0-5"), ("0 4 * * fri-mon", "5-6,0-1"), ("0 4 * * 5-1", "5-6,0-1")]
        {
            let error = error(text);
            assert!(error.contains("a range goes from less to more") && error.contains(split), "{error}");
        }
        for field in &FIELDS {
            let at = FIELDS.iter().position(|other| other.name == field.name).expect("itself");
            let text: Vec<_> = (0..6).map(|other| if other == at { field.over_the_end } else { "*" }).collect();
            assert!(Cron::parse(&text.join(" "), Tz::UTC).is_ok(), "{}", field.name);
        }
        assert!(error("0 0 30 2 *").contains("never comes"));
        assert!(error(&format!("{} * * * *", "1,".repeat(130))).contains("the limit is 256"));
        assert_eq!(Cron::zone_of("Europe/Bärlin"), Err(CronError::Zone));
        assert!(CronError::Zone.to_string().contains("Europe/Berlin"));
    }
}
