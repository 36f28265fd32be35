//! The small words of the core: ids, times, names as numbers.

use std::{fmt, time::Duration};

use chrono::{DateTime, SecondsFormat};
use uuid::Uuid;

/// The id of a job: the order of creation, from one sequence for the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct JobId(pub i64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An instant by the database's clock, in microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The latest instant that is ever recorded: the last second of the year 9999.
    pub const MAX: Self = Self(253_402_300_799_000_000);

    /// This instant and `wait` more, at most [`Self::MAX`].
    #[must_use]
    pub fn plus(self, wait: Duration) -> Self {
        let micros = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros)).min(Self::MAX)
    }

    /// As RFC 3339 has it, in UTC, to the second or as exact as it is.
    pub fn to_rfc3339(self) -> String {
        DateTime::from_timestamp_micros(self.0)
            .map_or_else(|| self.0.to_string(), |at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }

    /// How long this instant comes after `earlier`; zero if it does not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// What the clocks say. The core never reads one by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The database's time, never later than the database would say. Decides what is due (C7).
    pub db: Timestamp,
    /// The database's time, never earlier than the database would say. Waits are counted from it (C8).
    pub db_latest: Timestamp,
    /// A monotonic clock of this process. Decides timeouts of sessions, and nothing else.
    pub mono: Duration,
}

/// The format of what is kept as bytes: rows of the log, checkpoints, records, answers. Whoever reads one reads all that
/// are lower, but for those that were given up long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Format(pub u8);

impl Default for Format {
    /// What the log of a new cell begins with.
    fn default() -> Self {
        Self(2)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A queue's name as a number of the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueNo(pub u32);

/// A task's name as a number of the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskNo(pub u32);

/// A session as a small number; never used twice in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionNo(pub u32);

/// A stream of jobs: all of one queue, task and priority. Within it, the lowest id goes first (C15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// The queue.
    pub queue: QueueNo,
    /// The task.
    pub task: TaskNo,
    /// -100 to 100, higher first.
    pub priority: i8,
}

/// A lock's string as 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockId(pub Uuid);

impl LockId {
    /// The id of the lock of this name; the same in every version of cabbage.
    pub fn of(name: &str) -> Self {
        Self(Uuid::new_v5(&Uuid::from_u128(0x6361_6262_6167_6520_6c6f_636b_0000_0001), name.as_bytes()))
    }
}

/// The right of one session to run one delivery (C4, C5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease {
    /// The job.
    pub job: JobId,
    /// The delivery, from 1.
    pub delivery: u32,
    /// The nonce of the term that recorded the start.
    pub nonce: u64,
}

impl Lease {
    /// How long a token is.
    pub const TOKEN_BYTES: usize = 20;

    /// The opaque token that goes to the worker.
    pub fn token(self) -> [u8; Self::TOKEN_BYTES] {
        let mut token = [0; Self::TOKEN_BYTES];
        token[..8].copy_from_slice(&self.job.0.to_be_bytes());
        token[8..12].copy_from_slice(&self.delivery.to_be_bytes());
        token[12..].copy_from_slice(&self.nonce.to_be_bytes());
        token
    }

    /// Reads a token; `None` if it is malformed.
    pub fn parse(token: &[u8]) -> Option<Self> {
        let token: &[u8; Self::TOKEN_BYTES] = token.try_into().ok()?;
        Some(Self {
            job: JobId(i64::from_be_bytes(token[..8].try_into().ok()?)),
            delivery: u32::from_be_bytes(token[8..12].try_into().ok()?),
            nonce: u64::from_be_bytes(token[12..].try_into().ok()?),
        })
    }
}

/// The owner's term of a cell, and the nonce that names it beyond a failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Rises with each takeover.
    pub number: u64,
    /// Random.
    pub nonce: u64,
}
