//! What the shell asks of a database: the seam between cabbage and PostgreSQL, and the in-memory store behind it.
//!
//! All SQL of the broker lives in `postgres/`. [`memory`] is the same in a few hundred lines, for tests and for
//! `dev --store memory`. One behaviour suite runs on both.

pub mod format;
pub mod memory;
pub mod postgres;
mod retention;

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

pub use self::retention::{Holder, Keep, Partition, PartitionState, RetainAsk, Retained, RetentionNow, Upkept, kind};
use crate::core::{
    ask::By,
    batch::{Batch, Outcome},
    effect::{Fetch, Fetched, Found, LookUp},
    fact::Fact,
    inbox::{Intake, Look},
    job::{JobSpec, Verdict},
    place::Place,
    schedule::ScheduleRecord,
    types::{Format, JobId, Term, Timestamp},
};

/// How many entries one page of a list looks at (storage.md, rule 15).
pub const LIST_ENTRIES_MAX: u32 = 10_000;
/// How many rows of the inbox one look gives (storage.md, rule 9).
pub const INBOX_ROWS_MAX: u32 = 5_000;
/// How many outcomes of one job are shown.
pub const OUTCOMES_SHOWN_MAX: u32 = 100;

/// A database with one cell in it. Cheap to clone behind its `Arc`; needs no term.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Brings the schema up to date, or checks that it is. Safe when several brokers do it at once.
    async fn prepare(&self) -> Result<(), StoreError>;

    /// Tries once, without waiting, to take the term of the cell. `None`: another broker holds it.
    /// `address` is where the other brokers find this one.
    async fn take_term(&self, address: &str) -> Result<Option<Tenure>, StoreError>;

    /// Who took the term last, and where it is found; it may be gone. `None`: nobody ever did.
    async fn owner(&self) -> Result<Option<Owner>, StoreError>;

    /// The newest complete checkpoint, in one snapshot. `None`: there is none yet; the log starts at row 1.
    async fn load(&self) -> Result<Option<Checkpoint>, StoreError>;

    /// The rows of the log after `after`, in order, at most `limit`. If the row `after` is not there as it was
    /// (`nonce` differs, or it is gone), answers [`StoreError::LogChanged`]: load again.
    async fn follow(&self, after: LogPosition, limit: u32) -> Result<Vec<LogRow>, StoreError>;

    /// Looks up keys, all in one snapshot.
    async fn look_up(&self, keys: LookUp) -> Result<Found, StoreError>;

    /// The request ids that are remembered, in their order after `after`, each once, at most `limit`. Empty: there are
    /// no more.
    async fn request_ids(&self, after: &str, limit: u32) -> Result<Vec<Arc<str>>, StoreError>;

    /// Fetches a range of a place, in one snapshot.
    async fn fetch(&self, fetch: Fetch) -> Result<Fetched, StoreError>;

    /// The way into the inbox, for one owner. Connects when it is used for the first time.
    fn inbox(&self) -> Box<dyn Inbox>;

    /// The way to keep closed partitions in order, for one owner. Connects while there is something to do.
    fn upkeep(&self) -> Box<dyn Upkeep>;

    /// What was asked for, of these jobs; a job that is not there is left out.
    async fn specs(&self, jobs: &[JobId]) -> Result<Vec<StoredJob>, StoreError>;

    /// One job with its outcomes (the newest 100), oldest first, in one snapshot.
    async fn job(&self, job: JobId) -> Result<Option<JobView>, StoreError>;

    /// A page of jobs, newest first, that looks at 10,000 entries at most.
    async fn list(&self, list: List) -> Result<Listed, StoreError>;

    /// A page of the record of verbs, newest first.
    async fn audit(&self, list: AuditList) -> Result<Vec<AuditEntry>, StoreError>;

    /// How far retention has come.
    async fn retention(&self) -> Result<RetentionNow, StoreError>;

    /// Schedules in the order of their names (by bytes), at most `limit`, in one snapshot.
    async fn schedules(&self, range: ScheduleRange, limit: u32) -> Result<SchedulesAt, StoreError>;

    /// Reads that the database answers and that its clock runs: for readiness.
    async fn ping(&self) -> Result<Timestamp, StoreError>;

    /// Statements sent so far, by kind: for metrics and for the test of an idle broker.
    fn statements(&self) -> u64;
}

/// Finds what applications wrote in transactions of their own, each row once (storage.md, rule 9).
#[async_trait]
pub trait Inbox: Send {
    /// What was committed since the last look, or all of it, at most 5,000 rows, in one snapshot. After an error the
    /// next look finds it.
    async fn look(&mut self, look: Look) -> Result<Intake, StoreError>;

    /// Waits until somebody rings; for ever where nobody can. It may be dropped and called again.
    async fn rung(&mut self);
}

/// Keeps partitions in order that get no new ids any more (storage.md, rule 11). It changes no fact, so no term guards
/// it.
#[async_trait]
pub trait Upkeep: Send {
    /// Does the next piece that is due, which may take long and makes nobody wait, and says what it was. `None`: nothing
    /// is due. It may be dropped in the middle: the server then ends what it was at within a second, and the next
    /// owner begins it anew.
    async fn next(&mut self) -> Result<Option<Upkept>, StoreError>;
}

/// A term of the cell, and the connections that may write under it.
pub struct Tenure {
    /// Its number and nonce.
    pub term: Term,
    /// Writes batches.
    pub writer: Box<dyn Writer>,
    /// Writes checkpoints, and keeps partitions ahead.
    pub duties: Box<dyn Duties>,
}

/// The broker that took the term last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its term.
    pub term: Term,
    /// Where the other brokers find it.
    pub address: Arc<str>,
    /// Since when, by the database's clock.
    pub since: Timestamp,
    /// What brokers of the cell show to the owner. Of this term only.
    pub key: RelayKey,
}

/// A secret of the brokers of a cell, drawn for each term: whoever shows it to the owner reads the cell's own tables,
/// so it is a broker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RelayKey(pub Uuid);

impl fmt::Debug for RelayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayKey(..)")
    }
}

/// The one connection that commits batches.
#[async_trait]
pub trait Writer: Send {
    /// Commits a batch, in one round trip.
    async fn commit(&mut self, batch: &Batch) -> Result<Committed, CommitError>;

    /// Shows the database that the owner lives, and reads its clock. Once a second while nothing is committed.
    async fn tick(&mut self) -> Result<Timestamp, CommitError>;

    /// Reserves ids without a batch: at a start.
    async fn reserve(&mut self, ids: u32) -> Result<Range<i64>, CommitError>;

    /// Resolves when the next tick should not be waited for. May be dropped and called again. Only the store in memory
    /// ever asks for it, when a test has set its clock.
    async fn hurry(&mut self) {
        std::future::pending::<()>().await;
    }

    /// Ends the term in order: the locks are free once this returns.
    async fn release(self: Box<Self>);
}

/// The connection for all other writes of the owner. Each is fenced.
#[async_trait]
pub trait Duties: Send {
    /// Shows the database that the owner lives. Once a second.
    async fn tick(&mut self) -> Result<(), CommitError>;

    /// Writes a checkpoint of the state as of this row of the log, in chunks; keeps the newest two.
    async fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), CommitError>;

    /// Makes partitions ahead of these ids, of this log number, and of this time, where they are missing.
    async fn partitions(&mut self, next_id: JobId, next_log: u64) -> Result<(), CommitError>;

    /// Does the next small part of retention that is due, and says what it was: tens of milliseconds of work at most.
    /// What is done, and how far, is in the database: after a takeover it goes on.
    async fn retain(&mut self, keep: &Keep, ask: &RetainAsk) -> Result<Retained, CommitError>;

    /// Ends the term in order.
    async fn release(self: Box<Self>);
}

/// A batch is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// When, by the database's clock.
    pub at: Timestamp,
    /// The ids that it reserved; empty if it asked for none.
    pub ids: Range<i64>,
}

/// The core's whole state as of one row of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The row.
    pub position: LogPosition,
    /// The state, encoded by [`mod@format`].
    pub data: Bytes,
}

/// A row of the log. Before the first: number 0, nonce 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// Its number.
    pub number: u64,
    /// Its term's nonce.
    pub nonce: u64,
}

/// A row of the log, read back.
#[derive(Clone, Debug)]
pub struct LogRow {
    /// Which.
    pub position: LogPosition,
    /// The term that wrote it.
    pub term: u64,
    /// The format that it has.
    pub format: Format,
    /// What was decided.
    pub facts: Arc<Vec<Fact>>,
    /// The hash of part of the writer's state after it.
    pub state_hash: Option<u64>,
}

/// A job as its row holds it.
#[derive(Clone, Debug)]
pub struct StoredJob {
    /// Its id.
    pub id: JobId,
    /// When it was created.
    pub created: Timestamp,
    /// When it was first due.
    pub due: Timestamp,
    /// What was asked for.
    pub spec: JobSpec,
}

/// A job for people: its row, its outcomes, and where it lies.
#[derive(Clone, Debug)]
pub struct JobView {
    /// Its row.
    pub job: StoredJob,
    /// Its outcomes, oldest first; in a list the newest alone.
    pub outcomes: Vec<Outcome>,
    /// How many workers died while they ran it, since it was last opened, by its newest 100 outcomes.
    pub crashes: u32,
    /// Where it is parked, and when it is due there.
    pub parked: Option<(Place, Timestamp)>,
    /// It is not taken in: its row is one of the inbox.
    pub in_inbox: bool,
}

/// The crashes among verdicts, newest first: an operator's retry begins a new count.
fn crashes_of(newest: impl IntoIterator<Item = Verdict>) -> u32 {
    let counted = newest.into_iter().take_while(|verdict| *verdict != Verdict::Reopened);
    counted.filter(|verdict| *verdict == Verdict::Crashed).count() as u32
}

/// What to list. Every filter that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// Only ids below this one.
    pub below: Option<JobId>,
    /// At most so many.
    pub limit: u32,
    /// Only final jobs with these verdicts, or unfinished ones; see [`ListStates`].
    pub states: ListStates,
    /// Only this queue.
    pub queue: Option<Arc<str>>,
    /// Only this task.
    pub task: Option<Arc<str>>,
    /// Only this lock.
    pub lock: Option<Arc<str>>,
    /// Only this queueing lock.
    pub queueing_lock: Option<Arc<str>>,
    /// Only jobs created then or later.
    pub created_from: Option<Timestamp>,
    /// Only jobs created before.
    pub created_until: Option<Timestamp>,
}

/// Which states a list shows. Unfinished jobs are told apart by the owner, not by the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListStates {
    /// Final jobs with these verdicts.
    pub finals: Vec<Verdict>,
    /// Jobs that are not final.
    pub unfinished: bool,
}

impl Default for ListStates {
    fn default() -> Self {
        Self { finals: vec![Verdict::Succeeded, Verdict::Failed, Verdict::Cancelled], unfinished: true }
    }
}

/// A page of jobs.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The jobs, newest first, each with its newest outcome at most.
    pub jobs: Vec<JobView>,
    /// Go on below this id; `None`: there is nothing more.
    pub next: Option<JobId>,
    /// How many entries were looked at.
    pub looked_at: u32,
}

impl Listed {
    /// Adds jobs that are not taken in, of the range of ids that the page shows; what has no room comes with the next
    /// page.
    fn add_waiting(&mut self, waiting: Vec<JobView>, limit: u32) {
        // One that was taken in meanwhile is there already.
        let waiting = waiting.into_iter().filter(|view| self.jobs.iter().all(|job| job.job.id != view.job.id));
        let waiting: Vec<_> = waiting.collect();
        self.jobs.extend(waiting);
        self.jobs.sort_unstable_by_key(|view| std::cmp::Reverse(view.job.id));
        if self.jobs.len() > limit as usize {
            self.jobs.truncate(limit as usize);
            self.next = self.jobs.last().map(|view| view.job.id);
        }
    }
}

/// Which verbs to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuditList {
    /// Only numbers below this one.
    pub below: Option<i64>,
    /// At most so many.
    pub limit: u32,
    /// Only those about this job.
    pub job: Option<JobId>,
}

/// A verb that was obeyed, or one from SQL that was refused (C17).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Rises with each.
    pub number: i64,
    /// When it was decided.
    pub at: Timestamp,
    /// Its name.
    pub verb: Arc<str>,
    /// The job that it was about.
    pub job: Option<JobId>,
    /// The queue that it was about.
    pub queue: Option<Arc<str>>,
    /// The schedule that it was about.
    pub schedule: Option<Arc<str>>,
    /// Who asked, and why.
    pub by: By,
    /// Why it was not obeyed. `None`: it was.
    pub refused: Option<Arc<str>>,
}

/// Which schedules to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleRange {
    /// The one of this name.
    Named(Arc<str>),
    /// Those whose names come after this one.
    After(Arc<str>),
}

/// Schedules, as they are recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SchedulesAt {
    /// The database's time, just then.
    pub now: Timestamp,
    /// The schedules, by name.
    pub records: Vec<ScheduleRecord>,
}

/// A read that failed, or a term that could not be taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not answer as it should; try again.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The log is not what it was: a restore, or a failover. Load again.
    #[error("the log is not what it was")]
    LogChanged,
    /// A row has a format that this broker does not read.
    #[error(
        "the log has format {found}, and this broker reads formats up to {known}: start a newer version of it, or leave \
         out --highest-format"
    )]
    FormatTooNew {
        /// What was found.
        found: Format,
        /// The highest that this broker reads.
        known: Format,
    },
    /// The database cannot serve as it is; trying again does not help.
    #[error("the database cannot serve: {0}")]
    Unsuitable(String),
    /// The database does not let this role in, or not do what it must.
    #[error("the database refuses us: {0}")]
    Denied(String),
    /// What was read makes no sense: a bug, or damage.
    #[error("the tables contradict themselves: {0}")]
    Corrupt(String),
}

/// A write that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// PostgreSQL refused the content; nothing was written. Decide again, in halves.
    #[error("refused ({sqlstate}): {message}")]
    Refused {
        /// The class of the error.
        sqlstate: String,
        /// What it said.
        message: String,
    },
    /// Nothing was written, and the same batch may be written again as it is: a lock was not to be had in time, the
    /// clock stands before a due time, or a partition was missing and has been made.
    #[error("not now: {0}")]
    Again(String),
    /// The effect is unknown, or the term is lost. The term ends.
    #[error("the term is over: {0}")]
    TermOver(String),
}
