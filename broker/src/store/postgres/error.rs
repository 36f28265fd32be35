//! What an error of PostgreSQL means for a read, and for a write under a term.

use sqlx::Error;

use super::failure::DialError;
use crate::store::{CommitError, StoreError};

/// Our own SQLSTATEs, raised by the functions of `migrations/`.
const TERM_OVER: &str = "CB001";
const CLOCK_BEHIND: &str = "CB002";
const LOCK_NOT_AVAILABLE: &str = "55P03";
const CHECK_VIOLATION: &str = "23514";
const UNIQUE_VIOLATION: &str = "23505";
const INSUFFICIENT_PRIVILEGE: &str = "42501";
const UNDEFINED: [&str; 3] = ["42P01", "42883", "3F000"];

/// Why a read failed, before it is known whether it is tried again.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The database, or the way to it.
    Sqlx(Error),
    /// What it answered.
    Store(StoreError),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Sqlx(error)
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<DialError> for ReadError {
    fn from(error: DialError) -> Self {
        Self::Store(error.into())
    }
}

impl ReadError {
    /// Whether the connection was found broken, so that another one may do.
    pub(super) fn is_broken_connection(&self) -> bool {
        match self {
            // 57P01 to 57P05: the server ended it. 08: connection exceptions.
            Self::Sqlx(Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
            }
            Self::Sqlx(error) => matches!(error, Error::Io(_) | Error::Protocol(_) | Error::WorkerCrashed),
            Self::Store(_) => false,
        }
    }
}

impl From<ReadError> for StoreError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Sqlx(error) => read_error(error),
            ReadError::Store(error) => error,
        }
    }
}

/// What a read's error means.
pub(super) fn read_error(error: Error) -> StoreError {
    let text = describe(&error);
    match error {
        Error::Database(error) if error.code().is_some_and(|code| UNDEFINED.contains(&code.as_ref())) => {
            StoreError::Unsuitable(format!("{text}; has the schema been made?"))
        }
        Error::Database(error) if error.code().as_deref() == Some(INSUFFICIENT_PRIVILEGE) => {
            StoreError::Denied(format!("{text}: GRANT it to the role that logs in"))
        }
        Error::ColumnDecode { .. } | Error::Decode(_) => StoreError::Corrupt(text),
        Error::Configuration(_) | Error::Tls(_) => StoreError::Unsuitable(text),
        _ => StoreError::Unavailable(text),
    }
}

/// What a write's error means.
#[derive(Debug)]
pub(super) enum WriteError {
    /// It is what the seam says.
    Commit(CommitError),
    /// A row found no partition; nothing was written.
    PartitionMissing,
}

impl From<CommitError> for WriteError {
    fn from(error: CommitError) -> Self {
        Self::Commit(error)
    }
}

impl WriteError {
    /// Whether the connection is good for another statement.
    pub(super) fn leaves_term(&self) -> bool {
        !matches!(self, Self::Commit(CommitError::TermOver(_)))
    }
}

/// What a write's error means. Each is one transaction, so an error that the server reports has written nothing.
pub(super) fn write_error(error: &Error) -> WriteError {
    let text = describe(error);
    let refused = |sqlstate: &str| CommitError::Refused { sqlstate: sqlstate.to_owned(), message: text.clone() };
    WriteError::Commit(match error {
        Error::Database(error) => match error.code().unwrap_or_default().as_ref() {
            // Routing to a partition violates no check that has a name. One that has is somebody's own: ours have none.
            CHECK_VIOLATION if error.constraint().is_none() => return WriteError::PartitionMissing,
            LOCK_NOT_AVAILABLE | CLOCK_BEHIND => CommitError::Again(text),
            // Every key was looked up or drawn before it was written: a bug, or a look-up that has gone stale.
            UNIQUE_VIOLATION | TERM_OVER => CommitError::TermOver(text),
            code if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => refused(code),
            _ => CommitError::TermOver(text),
        },
        // Not even sent.
        Error::Encode(_) => refused("22000"),
        _ => CommitError::TermOver(text),
    })
}

/// The same, where no row can miss a partition.
pub(super) fn commit_error(error: WriteError) -> CommitError {
    match error {
        WriteError::Commit(error) => error,
        WriteError::PartitionMissing => CommitError::Again("a partition is missing".to_owned()),
    }
}

fn describe(error: &Error) -> String {
    match error {
        Error::Database(error) => format!("{} ({})", error.message(), error.code().unwrap_or_default()),
        error => error.to_string(),
    }
}
