//! What the shell does for the core: after a commit, or between two.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::{
    batch::{Answer, Changed, RequestRow},
    inbox::{InboxRow, Look},
    job::{Rare, Record, Verdict},
    place::{ParkedJob, Place, PlaceKey},
    types::{JobId, Lease, LockId, SessionNo, Stream, Timestamp},
};

/// A unary call that waits for its answer; numbered by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// A worker's open stream; numbered by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Something that may happen only after the batch that holds it is committed.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answer a call.
    Reply(CallId, Reply),
    /// Welcome a worker.
    Welcome {
        /// Its stream.
        link: LinkId,
        /// The session's id.
        session: Uuid,
        /// The session's number.
        no: SessionNo,
        /// The secret to resume it with.
        secret: Uuid,
        /// Whether it went on.
        resumed: bool,
        /// Leases that it thought it had.
        lost: Vec<Lease>,
    },
    /// Refuse a worker, and end its stream.
    Refuse {
        /// Its stream.
        link: LinkId,
        /// Why.
        error: Refusal,
    },
    /// Hand out jobs.
    Deliver {
        /// To this stream.
        link: LinkId,
        /// These, in this order.
        deliveries: Vec<Delivery>,
    },
    /// Acknowledge a frame of results.
    SettleAck {
        /// To this stream.
        link: LinkId,
        /// The frame; `None`: only the exceptions.
        through: Option<u64>,
        /// What is not plainly recorded.
        exceptions: Vec<(Lease, SettleCode)>,
        /// Failed attempts whose jobs will be tried again.
        retried: Vec<Lease>,
    },
    /// Tell a handler to stop.
    Cancel {
        /// To this stream.
        link: LinkId,
        /// The delivery.
        lease: Lease,
        /// Why.
        reason: CancelReason,
    },
    /// Nothing more follows on this stream.
    DrainAck {
        /// The stream.
        link: LinkId,
    },
    /// Nothing startable is left for this worker, and it holds nothing.
    CaughtUp {
        /// The stream.
        link: LinkId,
    },
    /// End a stream: its session moved, or fell silent.
    Close {
        /// The stream.
        link: LinkId,
        /// Why.
        error: Refusal,
    },
}

/// One job on its way to a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The lease.
    pub lease: Lease,
    /// What is remembered of the job, as it starts.
    pub record: Record,
}

/// The answer to a unary call.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Done, or done before.
    Done {
        /// What came of it.
        answer: Answer,
        /// It is the answer of an earlier call with the same request id.
        repeated: bool,
    },
    /// An independent batch: each item has its own answer.
    Items(Vec<Result<Created, Refusal>>),
    /// What became of each result.
    Settled(Vec<(Lease, SettleCode)>),
    /// The session lives this much longer.
    Extended(Duration),
    /// No.
    Refused(Refusal),
}

/// The answer to one item of an independent batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// The job.
    pub job: JobId,
    /// It is the answer of an earlier call with the same request id.
    pub repeated: bool,
    /// It was there before, and carried the queueing lock: it was moved or replaced (C10).
    pub existing: bool,
}

/// Why the core says no. Each has its status on the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// C10.
    #[error("the queueing lock is taken by job {by}")]
    QueueingLockTaken {
        /// The job that carries it.
        by: JobId,
        /// The item of the batch.
        item: Option<u32>,
    },
    /// C10: two jobs of one batch carry the same queueing lock.
    #[error("item {item} carries the same queueing lock as item {first}")]
    QueueingLockTwice {
        /// The first item.
        first: u32,
        /// The second.
        item: u32,
    },
    /// C2.
    #[error("the request id was used before for another request")]
    RequestIdReused {
        /// The item of the batch.
        item: Option<u32>,
    },
    /// There is no such job.
    #[error("no such job")]
    JobNotFound,
    /// Only what is final can be opened again or erased (C17).
    #[error("the job is not final: cancel it first")]
    JobNotFinal,
    /// A final job has no due time.
    #[error("the job is final: retry it to run it again")]
    JobFinal,
    /// A running job has no due time.
    #[error("the job runs: wait for its end, or cancel it")]
    JobRunning,
    /// There is no such queue.
    #[error("no such queue")]
    QueueNotFound,
    /// There is no such schedule.
    #[error("there is no schedule of this name")]
    ScheduleNotFound,
    /// The job's partition is being looked through for what outlives it. For seconds, at most minutes.
    #[error("job {job} lies among finished ones that retention moves just now")]
    Moving {
        /// The job.
        job: JobId,
    },
    /// PostgreSQL refuses what was asked.
    #[error("the database refuses it: {message}")]
    Unrecordable {
        /// What it said.
        message: Arc<str>,
    },
    /// A named limit (C14).
    #[error("the limit {limit} is reached ({value})")]
    LimitReached {
        /// Its name.
        limit: &'static str,
        /// Its value.
        value: u64,
    },
    /// The session is not known, or its secret is another.
    #[error("no such session")]
    SessionNotFound,
    /// The session goes on over another stream.
    #[error("the session goes on over another stream")]
    SessionMoved,
    /// Nothing was heard of the worker for the watchdog's time, or it does not read.
    #[error("nothing was heard from the worker in time")]
    Silent,
}

impl Refusal {
    /// The same, said of an item of a batch.
    #[must_use]
    pub(super) fn of_item(self, number: u32) -> Self {
        match self {
            Self::QueueingLockTaken { by, .. } => Self::QueueingLockTaken { by, item: Some(number) },
            Self::RequestIdReused { .. } => Self::RequestIdReused { item: Some(number) },
            other => other,
        }
    }
}

/// What became of one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SettleCode {
    /// Committed.
    Recorded,
    /// It had been, with the same verdict.
    AlreadyRecorded,
    /// It had been, with another verdict.
    VerdictConflict,
    /// The delivery had ended without the worker.
    LeaseLost,
    /// No such job.
    NotFound,
    /// PostgreSQL refuses it as it is.
    Unrecordable,
}

/// Why a handler should stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// Somebody cancelled the job.
    Requested,
    /// The attempt took too long.
    Timeout,
    /// The lease is lost.
    LeaseLost,
}

/// A question to the store, between two commits. Its answer comes back as an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// Look up keys.
    LookUp(LookUp),
    /// Fetch parked jobs.
    Fetch(Fetch),
    /// Look into the inbox.
    Look(Look),
}

/// Keys to look up together, in one snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LookUp {
    /// Comes back with the answer.
    pub id: u64,
    /// Calls that may have been made before.
    pub requests: Vec<Arc<str>>,
    /// Queueing locks that a parked job may carry.
    pub queueing_locks: Vec<Arc<str>>,
    /// Jobs that are not in memory.
    pub jobs: Vec<JobId>,
    /// Deliveries that are not open.
    pub deliveries: Vec<(JobId, u32)>,
    /// Whether a parked job carries this lock and has a lower id than this.
    pub locks_before: Vec<(LockId, JobId)>,
    /// Final jobs that are to be opened again or erased.
    pub finished: Vec<JobId>,
}

/// What was found, in the order of the keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The id of the question.
    pub id: u64,
    /// The number of the newest log row that the snapshot saw.
    pub snapshot: u64,
    /// For each request: the call.
    pub requests: Vec<Option<RequestRow>>,
    /// For each queueing lock: the parked job that carries it.
    pub queueing_locks: Vec<Option<JobId>>,
    /// For each job: what it is.
    pub jobs: Vec<JobFound>,
    /// For each delivery: how it ended, if it did; `None` if there is no such outcome.
    pub deliveries: Vec<Option<Verdict>>,
    /// For each lock: whether there is one.
    pub locks_before: Vec<bool>,
    /// For each final job: what its rows say; `None`: it is not final. What they say may be newer than the snapshot:
    /// it changes only by facts that concern the job.
    pub finished: Vec<Option<Box<FinishedJob>>>,
}

/// What the rows of a final job say of it.
#[derive(Clone, Debug, PartialEq)]
pub struct FinishedJob {
    /// The stream that was asked for.
    pub stream: Stream,
    /// What was asked for beyond, the queueing lock too.
    pub rare: Rare,
    /// The length of its arguments.
    pub args_bytes: u32,
    /// What retries changed, the latest of each.
    pub changed: Changed,
    /// Whether a retry once took its lock away; that ends the mode `strict`.
    pub was_unlocked: bool,
    /// How it ended.
    pub verdict: Verdict,
    /// The number of that end.
    pub delivery: u32,
    /// Whether it ever started.
    pub has_started: bool,
}

/// What the tables know of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum JobFound {
    /// Nothing.
    Unknown,
    /// It is parked.
    Parked(ParkedJob),
    /// Its newest outcome is final.
    Final {
        /// Which.
        verdict: Verdict,
        /// The delivery of that outcome.
        delivery: u32,
    },
    /// It exists, and is in the owner's memory.
    Active,
    /// It was deferred from SQL, and is not taken in.
    Inbox(Arc<InboxRow>),
}

/// A range of a place to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Comes back with the answer.
    pub id: u64,
    /// The place.
    pub place: Place,
    /// The lowest key.
    pub from: PlaceKey,
    /// In a [`Place::Due`]: only what is due by then.
    pub until: Timestamp,
    /// At most so many.
    pub limit: u32,
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    /// The id of the question.
    pub id: u64,
    /// The number of the newest log row that the snapshot saw.
    pub snapshot: u64,
    /// The jobs, in the order of their keys.
    pub jobs: Vec<ParkedJob>,
    /// The key of the first one after them, due or not; `None`: there is none.
    pub next: Option<PlaceKey>,
}
