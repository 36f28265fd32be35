//! How long things are kept, and what a step of retention did (storage.md, rules 11 and 12).

use std::{ops::Range, time::Duration};

use crate::core::{
    job::Verdict,
    retention::Milestone,
    types::{JobId, Timestamp},
};

/// The longest time after which a partition is left for the next one.
const ROTATE_AFTER_MAX: Duration = Duration::from_hours(24);

/// How long things are kept. `None`: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Jobs that succeeded, from their end on. `None` turns retention of all jobs off, since whole partitions go by it.
    pub succeeded: Option<Duration>,
    /// Jobs that failed, from their end on. Not shorter than those that succeeded.
    pub failed: Option<Duration>,
    /// Jobs that were cancelled, from their end on. Not shorter than those that succeeded.
    pub cancelled: Option<Duration>,
    /// The record of verbs (C17).
    pub audit: Option<Duration>,
    /// The log before the older checkpoint, in time and, whatever its age, in bytes.
    pub log: Duration,
    /// See [`Self::log`].
    pub log_bytes: u64,
}

impl Default for Keep {
    /// A week of successes, to look back over the last one of everything that runs weekly; a month of what went wrong
    /// and may have to be explained or tried again; a year of who did what; a day of the log.
    fn default() -> Self {
        let days = |days: u64| Duration::from_hours(24 * days);
        Self {
            succeeded: Some(days(7)),
            failed: Some(days(30)),
            cancelled: Some(days(30)),
            audit: Some(days(365)),
            log: days(1),
            log_bytes: 10 << 30,
        }
    }
}

impl Keep {
    /// How long jobs with this final verdict are kept.
    pub fn of(&self, verdict: Verdict) -> Option<Duration> {
        self.succeeded?;
        match verdict {
            Verdict::Succeeded => self.succeeded,
            Verdict::Failed => self.failed,
            Verdict::Cancelled => self.cancelled,
            Verdict::Retried | Verdict::Snoozed | Verdict::Released | Verdict::Crashed | Verdict::Reopened => None,
        }
    }

    /// How old the first job of a partition may be before the next partition begins: so that what lies in one is of
    /// about one age. `None`: a partition is left only when it is half full.
    pub fn rotate_after(&self) -> Option<Duration> {
        self.succeeded.map(|keep| keep.min(ROTATE_AFTER_MAX))
    }
}

/// What the next step of retention did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retained {
    /// Nothing is due.
    Nothing,
    /// The present partition was left; ids go on at this one.
    Closed(JobId),
    /// So many jobs were copied out of a partition that is to go.
    Moved(u64),
    /// So many jobs were erased one by one; the next look begins after this id.
    Erased {
        /// How many.
        jobs: u64,
        /// The last id that was looked at.
        after: JobId,
    },
    /// A table was dropped.
    Dropped(String),
    /// A table is to be dropped, and somebody uses it.
    Blocked(String),
    /// The owner is to record this; until then there is nothing else to do. With it, jobs that were copied last.
    Record(Milestone, u64),
}

/// How far retention has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionNow {
    /// Rows of lower ids go to the tables of what outlives its partition.
    pub kept_below: JobId,
    /// Of lower ids, only what lies in those tables counts.
    pub moved_below: JobId,
    /// The partitions that there are, by ascending ids, at most 1,000.
    pub partitions: Vec<Partition>,
}

/// The tables of one range of ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The ids.
    pub ids: Range<i64>,
    /// How far it is.
    pub state: PartitionState,
    /// What its tables and indexes take.
    pub bytes: u64,
    /// Since when new jobs go to a later one.
    pub closed: Option<Timestamp>,
    /// Since when its rows are frozen.
    pub frozen: Option<Timestamp>,
    /// Since when its jobs are in an index by queue.
    pub indexed: Option<Timestamp>,
    /// How many jobs were copied out of it.
    pub moved_jobs: u64,
    /// The transactions that its drop waits for, the oldest first, at most 10.
    pub waits_for: Vec<Holder>,
}

/// How far a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionState {
    /// Made for ids to come.
    Ahead,
    /// New jobs go to it.
    Open,
    /// New jobs go to a later one.
    Closed,
    /// It is looked through for what outlives it.
    Moving,
    /// It is dropped as soon as nobody uses it.
    Dropping,
}

/// A transaction that a drop waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process of the database server.
    pub pid: i32,
    /// The role.
    pub user: String,
    /// What the connection calls itself.
    pub application: String,
    /// Since when the transaction is open.
    pub since: Timestamp,
}

/// What may be done in a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetainAsk {
    /// Kinds of tables of which none is dropped.
    pub spared: Vec<String>,
    /// Jobs that outlived their partition are looked at for erasing, from after this id on. `None`: they are not.
    pub erase_after: Option<JobId>,
}

/// The kind of a partition: what its name begins with.
pub fn kind(table: &str) -> &str {
    table.split('_').next().unwrap_or(table)
}

/// What was done for a partition that gets no new ids any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upkept {
    /// Its rows were frozen: no vacuum need come back to them.
    Frozen(i64),
    /// Its jobs can be listed by queue.
    Indexed(i64),
    /// What was left of a broken try to index it was removed.
    Cleared(i64),
}
