//! What the database holds.

use cabbage_broker::core::{fact::Fact, job::Verdict, types::Timestamp};
use uuid::Uuid;

/// The tables of a cell, read at the end of a run.
#[derive(Clone, Debug, Default)]
pub struct Database {
    /// Every row of the log, by number.
    pub log: Vec<LogRow>,
    /// Every row of `job`, by id.
    pub jobs: Vec<JobRow>,
    /// Every row of `outcome`, by job and delivery.
    pub outcomes: Vec<OutcomeRow>,
    /// The jobs that are parked.
    pub parked: Vec<i64>,
}

/// One commit.
#[derive(Clone, Debug)]
pub struct LogRow {
    /// Its number, from 1, without a gap.
    pub number: u64,
    /// The term that wrote it.
    pub term: u64,
    /// The nonce of that term.
    pub nonce: u64,
    /// The nonce of the row before.
    pub after_nonce: u64,
    /// When, by the database's clock.
    pub at: Timestamp,
    /// What was decided, in order.
    pub facts: Vec<Fact>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// The job.
    pub id: i64,
    /// The key that its client gave it, in its arguments.
    pub key: Option<String>,
    /// Its queueing lock.
    pub queueing_lock: Option<String>,
    /// The schedule and the tick that it was deferred for, as its labels say.
    pub tick: Option<(String, Timestamp)>,
}

/// How a delivery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomeRow {
    /// The job.
    pub job: i64,
    /// The delivery.
    pub delivery: u32,
    /// Attempts after it.
    pub attempt: u32,
    /// How it ended.
    pub verdict: Verdict,
    /// A word of the documented list.
    pub reason: Option<String>,
    /// When it was decided, by the database's clock as the owner knew it.
    pub finished: Timestamp,
    /// The session that ran it.
    pub session: Option<Uuid>,
    /// When the next attempt is due.
    pub next_due: Option<Timestamp>,
}
