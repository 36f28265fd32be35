//! How a command ends: the documented exit codes, and the error that carries one.

use std::{fmt, process::ExitCode};

/// The exit codes. Scripts depend on them, so a number is never given another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Something went wrong that has no code of its own; also a job that was waited for and failed.
    Failure = 1,
    /// The command line, or what was asked for, is not valid.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// What is there stands in the way.
    Conflict = 4,
    /// Not allowed.
    Denied = 5,
    /// Nobody serves the call now; nothing was changed.
    Unavailable = 6,
    /// Nobody knows whether the call was done, or the time was up.
    Unknown = 7,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    remedies: Vec<String>,
}

/// What every command answers.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string(), remedies: Vec::new() }
    }

    /// What was asked for is not valid.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// An error with all its causes.
    pub(crate) fn from_error(exit: Exit, doing: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(exit, format!("{doing}: {}", causes(error)))
    }

    /// Adds a line that says what to do about it.
    #[must_use]
    pub(crate) fn remedy(mut self, remedy: impl fmt::Display) -> Self {
        self.remedies.push(remedy.to_string());
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.remedies.iter().try_for_each(|remedy| write!(f, "\n  {remedy}"))
    }
}

/// Whatever has no better code: local trouble such as a full disk.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failure, format!("{error:#}"))
    }
}

/// An error and its causes in one line, each said once: many errors repeat their cause in their own text.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let codes = [
            (Exit::Failure, 1),
            (Exit::Usage, 2),
            (Exit::NotFound, 3),
            (Exit::Conflict, 4),
            (Exit::Denied, 5),
            (Exit::Unavailable, 6),
            (Exit::Unknown, 7),
        ];
        for (exit, number) in codes {
            assert_eq!(exit as u8, number);
            assert!(include_str!("../README.md").contains(&format!("| {number} |")), "{number} is not documented");
        }
    }

    #[test]
    fn remedies_follow_the_message_on_lines_of_their_own() {
        let failure = Failure::usage("no").remedy("try this").remedy("or that");
        assert_eq!(failure.to_string(), "no\n  try this\n  or that");
        assert_eq!(failure.exit(), Exit::Usage);
    }
}
