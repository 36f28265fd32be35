//! What one commit writes, and what may happen only after it.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::{
    ask::AuditRow,
    effect::Effect,
    fact::Fact,
    inbox::TakenRow,
    job::{DueAt, Failure, JobSpec, Verdict},
    place::{ParkedJob, Place, PlaceKey},
    retention::Milestone,
    schedule::ScheduleRecord,
    state::Pause,
    types::{Format, JobId, QueueNo, TaskNo, Timestamp},
};

/// One commit: facts for the log, rows for the tables. All of it or nothing.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The number of the log row: the one before, plus one.
    pub number: u64,
    /// What is written as bytes has this format, which is that of the state after it.
    pub format: Format,
    /// What was decided.
    pub facts: Arc<Vec<Fact>>,
    /// New jobs, in the order of their ids.
    pub jobs: Vec<NewJob>,
    /// When the first of them was taken in: that is when they were created, if the commit's clock does not say earlier.
    pub taken_in: Option<Timestamp>,
    /// Rows that leave the inbox, in the order of decision.
    pub inbox: Vec<TakenRow>,
    /// Ended deliveries.
    pub outcomes: Vec<Outcome>,
    /// Jobs that leave memory.
    pub parked: Vec<ParkedJob>,
    /// Jobs that leave their places; each must be there.
    pub unparked: Vec<Unparked>,
    /// Calls to remember (C2).
    pub requests: Vec<RequestRow>,
    /// Queues that got a number.
    pub queues: Vec<(QueueNo, Arc<str>)>,
    /// Tasks that got a number.
    pub tasks: Vec<(TaskNo, Arc<str>)>,
    /// Rows that few batches have, in the order of decision.
    pub rare_rows: Vec<RareRow>,
    /// Rows of lower ids go to the tables of what outlives its partition.
    pub kept_below: JobId,
    /// The latest due time among the starts: the commit waits for it, or refuses (C7).
    pub not_before: Option<Timestamp>,
    /// How many ids to reserve for the batches after this one.
    pub reserve_ids: u32,
    /// The hash of part of the state after this batch, on every 1,000th row.
    pub state_hash: Option<u64>,
    /// What to do once it is committed, in this order.
    pub effects: Vec<Effect>,
}

impl Batch {
    /// Whether there is anything to write.
    pub fn writes(&self) -> bool {
        !self.facts.is_empty()
            || !self.requests.is_empty()
            || !self.rare_rows.is_empty()
            || !self.inbox.is_empty()
            || self.reserve_ids > 0
    }
}

/// The row of a new job.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its id.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueNo,
    /// Its task.
    pub task: TaskNo,
    /// When it is due.
    pub due: Timestamp,
    /// What was asked for.
    pub spec: Arc<JobSpec>,
}

impl NewJob {
    /// When it is due, as its row says it: `None` where that is at its creation.
    pub fn due_in_row(&self) -> Option<Timestamp> {
        (self.spec.due != DueAt::Once).then_some(self.due)
    }
}

/// The row of an ended delivery, or of a final state without one.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The job.
    pub job: JobId,
    /// The delivery, from 1. A final without a delivery takes the next number.
    pub delivery: u32,
    /// Attempts after it.
    pub attempt: u32,
    /// How it ended.
    pub verdict: Verdict,
    /// When it started; `None` where it never did.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Timestamp,
    /// The session that ran it.
    pub session: Option<Uuid>,
    /// What few outcomes have.
    pub more: Option<Box<OutcomeMore>>,
}

/// What few outcomes have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutcomeMore {
    /// A word of the documented list: `CRASHED`, `TIMEOUT`, `DEADLINE`, …
    pub reason: Option<Arc<str>>,
    /// What went wrong.
    pub failure: Option<Failure>,
    /// JSON text.
    pub result: Option<Bytes>,
    /// When the next attempt is due.
    pub next_due: Option<Timestamp>,
    /// The new queue, task and priority number of a retry that changed them.
    pub changed: Option<Changed>,
}

/// What a retry changed of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changed {
    /// The new queue.
    pub queue: Option<Arc<str>>,
    /// The new priority.
    pub priority: Option<i8>,
    /// The new lock; the empty string: none any more.
    pub lock: Option<Arc<str>>,
}

/// A row that few batches have.
#[derive(Clone, Debug, PartialEq)]
pub enum RareRow {
    /// A verb was obeyed (C17).
    Audit(AuditRow),
    /// A job got another due time.
    Due {
        /// The job.
        job: JobId,
        /// Its last ended delivery: that is where the tables say when it is due. 0: the job's own row.
        delivery: u32,
        /// The new time.
        due: Timestamp,
    },
    /// A job got other arguments.
    Args {
        /// The job.
        job: JobId,
        /// JSON text.
        args: Bytes,
    },
    /// A job is erased with its outcomes (C17).
    Deleted(JobId),
    /// A queue was paused, or resumed (`None`).
    Pause {
        /// The queue.
        queue: QueueNo,
        /// Since when, by whom, and why.
        pause: Option<Pause>,
    },
    /// A schedule was created or changed, paused or resumed: the whole row.
    Schedule(ScheduleRecord),
    /// The schedule of this name was taken away.
    ScheduleDeleted(Arc<str>),
    /// A tick was decided: what the row of its schedule remembers now.
    Ticked(ScheduleRecord),
    /// Retention has come this far.
    Milestone(Milestone),
}

/// A job that leaves its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unparked {
    /// The job.
    pub id: JobId,
    /// Where it lies.
    pub place: Place,
    /// At which position.
    pub key: PlaceKey,
}

/// A call that must be remembered (C2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRow {
    /// The client's id of the call.
    pub id: Arc<str>,
    /// A digest of what was asked.
    pub digest: Uuid,
    /// What was answered.
    pub answer: Answer,
}

/// What was answered to a call that is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Jobs were created: `count` ids from `first` on, without a gap.
    Deferred {
        /// The first id.
        first: JobId,
        /// How many.
        count: u32,
    },
    /// Jobs were created with these ids.
    DeferredIds(Vec<JobId>),
    /// A job was cancelled, or told to: its state then, as the wire's number.
    Cancelled {
        /// The job's state.
        state: u8,
    },
    /// A job was opened again, or got another due time: its state then, as the wire's number.
    Moved {
        /// The job's state.
        state: u8,
    },
    /// A job was erased.
    Deleted,
    /// A queue is paused.
    Paused(Pause),
    /// A queue is not paused.
    Resumed,
    /// A schedule is as it was asked for.
    ScheduleChanged,
    /// What was asked for is recorded, and changes nothing in the core.
    Recorded,
}
