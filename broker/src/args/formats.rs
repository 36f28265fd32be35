//! In which format brokers of two versions serve one cell (storage.md, rule 12).

use std::time::Duration;

use clap::Args;

use crate::{
    core::types::Format,
    store::format::{HIGHEST, LOWEST},
};

/// Versions side by side.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Versions")]
pub struct FormatArgs {
    /// Highest format of the log that this broker reads and writes.
    ///
    /// The log is written in the highest format that every broker of the cell reads, and that is never lowered. A broker
    /// with a lower number here keeps it as brokers of an earlier version read it, so that they can come back.
    #[arg(long, env = "CABBAGE_HIGHEST_FORMAT", value_name = "FORMAT", default_value_t = HIGHEST.0)]
    pub highest_format: u8,

    /// How long no broker that reads less may have been there before the log's format is raised, in milliseconds.
    #[arg(long, env = "CABBAGE_FORMAT_RAISE_MS", value_name = "MS", default_value_t = 30_000)]
    pub format_raise_ms: u64,
}

/// A format that this version does not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--highest-format {found} is none that this version writes: it writes {LOWEST} to {HIGHEST}; leave the option out to \
     allow {HIGHEST}"
)]
pub struct FormatError {
    /// What was asked for.
    pub found: Format,
}

impl FormatArgs {
    /// The highest format that this broker reads and writes.
    pub fn highest(&self) -> Format {
        Format(self.highest_format)
    }

    /// How long no broker that reads less may have been there before the format is raised.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.format_raise_ms)
    }

    pub(super) fn check(&self) -> Result<(), FormatError> {
        let found = self.highest();
        if (LOWEST..=HIGHEST).contains(&found) { Ok(()) } else { Err(FormatError { found }) }
    }
}

impl Default for FormatArgs {
    fn default() -> Self {
        Self { highest_format: HIGHEST.0, format_raise_ms: 30_000 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_that_is_not_written_is_refused_with_those_that_are() {
        for (format, is_fine) in [(1, false), (2, true), (3, true), (4, false)] {
            let args = FormatArgs { highest_format: format, ..FormatArgs::default() };
            assert_eq!(args.check().is_ok(), is_fine, "{format}");
        }
        let error = FormatError { found: Format(4) }.to_string();
        assert!(error.contains("--highest-format 4") && error.contains("2 to 3"), "{error}");
    }
}
