//! How long things are kept (storage.md, rules 11 and 12).

use std::{fmt, str::FromStr, time::Duration};

use clap::Args;

use crate::store::Keep;

/// The shortest time that anything can be kept for.
const KEEP_MIN: Duration = Duration::from_hours(1);

/// The longest, short of for ever: a hundred years.
const KEEP_MAX: Duration = Duration::from_hours(24 * 36_525);

/// How long things are kept. A number with a unit (d, h or m), such as 7d or 36h; `forever` keeps them.
///
/// Finished jobs go in whole partitions, some time after their time is over: a partition holds the jobs of a day, or of
/// the time that successes are kept if that is shorter.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Retention")]
pub struct RetentionArgs {
    /// How long jobs that succeeded are kept, from their end on. `forever` turns retention of all jobs off.
    #[arg(long, env = "CABBAGE_KEEP_SUCCEEDED", value_name = "TIME", default_value = "7d")]
    pub keep_succeeded: KeepFor,

    /// How long jobs that failed are kept. Not shorter than those that succeeded.
    #[arg(long, env = "CABBAGE_KEEP_FAILED", value_name = "TIME", default_value = "30d")]
    pub keep_failed: KeepFor,

    /// How long jobs that were cancelled are kept. Not shorter than those that succeeded.
    #[arg(long, env = "CABBAGE_KEEP_CANCELLED", value_name = "TIME", default_value = "30d")]
    pub keep_cancelled: KeepFor,

    /// How long it is kept who asked for what.
    #[arg(long, env = "CABBAGE_KEEP_AUDIT", value_name = "TIME", default_value = "365d")]
    pub keep_audit: KeepFor,

    /// How long the log is kept that no checkpoint needs any more. Not `forever`.
    #[arg(long, env = "CABBAGE_KEEP_LOG", value_name = "TIME", default_value = "1d")]
    pub keep_log: KeepFor,

    /// GiB of such log that are kept at most, whatever its age.
    #[arg(long, env = "CABBAGE_KEEP_LOG_GIB", value_name = "GIB", default_value_t = 10)]
    pub keep_log_gib: u32,
}

/// A time to keep something for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepFor {
    /// From its end on.
    Time(Duration),
    /// It is never erased.
    Forever,
}

/// A text that is no time to keep something for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepForError {
    /// It cannot be read.
    #[error("is no time: write a whole number with d, h or m, such as 7d, 36h or 90m, or `forever`")]
    Malformed,
    /// Too short or too long.
    #[error("must be at least 1h and at most 36525d; to keep things without an end write `forever`")]
    OutOfRange,
}

/// Times that do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetentionError {
    /// What went wrong would go before what went well, and whole partitions go by what went well.
    #[error("{option} {time} is shorter than --keep-succeeded {succeeded}: raise the one, or lower the other")]
    Shorter {
        /// Which option.
        option: &'static str,
        /// Its value.
        time: KeepFor,
        /// What it must not be shorter than.
        succeeded: KeepFor,
    },
    /// A log without an end fills any disk.
    #[error("--keep-log cannot be `forever`: name a time, such as 30d")]
    LogForever,
    /// No partition of the log would ever stay.
    #[error("--keep-log-gib must be at least 1")]
    LogBytes,
}

impl RetentionArgs {
    /// Checks that the times fit together.
    pub fn check(&self) -> Result<(), RetentionError> {
        let succeeded = self.keep_succeeded;
        for (option, time) in [("--keep-failed", self.keep_failed), ("--keep-cancelled", self.keep_cancelled)] {
            if let (Some(short), Some(long)) = (time.time(), succeeded.time())
                && short < long
            {
                return Err(RetentionError::Shorter { option, time, succeeded });
            }
        }
        if self.keep_log == KeepFor::Forever {
            return Err(RetentionError::LogForever);
        }
        if self.keep_log_gib == 0 {
            return Err(RetentionError::LogBytes);
        }
        Ok(())
    }

    /// What the store is told.
    pub fn keep(&self) -> Keep {
        Keep {
            succeeded: self.keep_succeeded.time(),
            failed: self.keep_failed.time(),
            cancelled: self.keep_cancelled.time(),
            audit: self.keep_audit.time(),
            log: self.keep_log.time().unwrap_or(KEEP_MAX),
            log_bytes: u64::from(self.keep_log_gib) << 30,
        }
    }
}

impl Default for RetentionArgs {
    fn default() -> Self {
        let keep = Keep::default();
        Self {
            keep_succeeded: keep.succeeded.into(),
            keep_failed: keep.failed.into(),
            keep_cancelled: keep.cancelled.into(),
            keep_audit: keep.audit.into(),
            keep_log: Some(keep.log).into(),
            keep_log_gib: 10,
        }
    }
}

impl KeepFor {
    /// The time, if there is one.
    pub fn time(self) -> Option<Duration> {
        match self {
            Self::Time(time) => Some(time),
            Self::Forever => None,
        }
    }
}

impl From<Option<Duration>> for KeepFor {
    fn from(time: Option<Duration>) -> Self {
        time.map_or(Self::Forever, Self::Time)
    }
}

impl FromStr for KeepFor {
    type Err = KeepForError;

    fn from_str(text: &str) -> Result<Self, KeepForError> {
        if text == "forever" {
            return Ok(Self::Forever);
        }
        let (number, minutes) = [("d", 24 * 60), ("h", 60), ("m", 1)]
            .into_iter()
            .find_map(|(unit, minutes)| Some((text.strip_suffix(unit)?, minutes)))
            .ok_or(KeepForError::Malformed)?;
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(KeepForError::Malformed);
        }
        let minutes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(minutes));
        let time = minutes.filter(|minutes| *minutes <= KEEP_MAX.as_secs() / 60).map(Duration::from_mins);
        time.filter(|time| *time >= KEEP_MIN).map(Self::Time).ok_or(KeepForError::OutOfRange)
    }
}

impl fmt::Display for KeepFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Time(time) = self else { return f.write_str("forever") };
        let minutes = time.as_secs() / 60;
        match minutes {
            minutes if minutes % (24 * 60) == 0 => write!(f, "{}d", minutes / (24 * 60)),
            minutes if minutes % 60 == 0 => write!(f, "{}h", minutes / 60),
            minutes => write!(f, "{minutes}m"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: RetentionArgs,
    }

    fn parse(line: &[&str]) -> Result<RetentionArgs, clap::Error> {
        Line::try_parse_from(std::iter::once(&"broker").chain(line)).map(|line| line.args)
    }

    #[test]
    fn what_no_option_changed_is_the_default() {
        assert_eq!(parse(&[]).expect("a valid line"), RetentionArgs::default());
        assert_eq!(RetentionArgs::default().keep(), Keep::default());
        assert_eq!(RetentionArgs::default().check(), Ok(()));
    }

    #[test]
    fn times_are_shown_as_they_are_written() {
        for text in ["7d", "36h", "90m", "forever", "1h", "36525d"] {
            assert_eq!(text.parse::<KeepFor>().expect(text).to_string(), text);
        }
        assert_eq!("48h".parse::<KeepFor>().expect("two days").to_string(), "2d");
    }

    #[test]
    fn what_is_no_time_is_refused_with_the_remedy() {
        for text in ["", "7", "d", "-1d", "1.5d", "7 d", "7w", "+7d", "Forever"] {
            assert_eq!(text.parse::<KeepFor>(), Err(KeepForError::Malformed), "{text}");
        }
        for text in ["0d", "59m", "36526d", "99999999999999999999d", "18446744073709551615d"] {
            assert_eq!(text.parse::<KeepFor>(), Err(KeepForError::OutOfRange), "{text}");
        }
        let error = parse(&["--keep-failed", "soon"]).expect_err("no time").to_string();
        assert!(error.contains("--keep-failed") && error.contains("such as 7d"), "{error}");
    }

    #[test]
    fn times_that_do_not_fit_together_are_refused() {
        let check = |line: &[&str]| parse(line).expect("well-formed").check();
        let error = check(&["--keep-succeeded", "60d"]).expect_err("failures would go first");
        assert!(error.to_string().contains("--keep-failed 30d"), "{error}");
        assert!(check(&["--keep-cancelled", "6d"]).is_err());
        assert!(check(&["--keep-failed", "forever", "--keep-cancelled", "7d"]).is_ok());
        assert!(check(&["--keep-succeeded", "forever"]).is_ok());
        assert_eq!(check(&["--keep-log", "forever"]), Err(RetentionError::LogForever));
        assert_eq!(check(&["--keep-log-gib", "0"]), Err(RetentionError::LogBytes));
    }
}
