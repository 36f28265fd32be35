//! What was decided, in the order of decision: the content of the log.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    job::{Rare, Record, Verdict},
    place::{Place, PlaceKey},
    schedule::{Schedule, TickOutcome},
    state::Pause,
    types::{Format, JobId, LockId, QueueNo, SessionNo, Stream, TaskNo, Timestamp},
};

/// One decision. A fact has all that folding it needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A queue got its number.
    QueueNamed {
        /// The number.
        no: QueueNo,
        /// The name.
        name: Arc<str>,
    },
    /// A task got its number.
    TaskNamed {
        /// The number.
        no: TaskNo,
        /// The name.
        name: Arc<str>,
    },
    /// A job came into being.
    Created {
        /// Its id.
        id: JobId,
        /// Its stream.
        stream: Stream,
        /// Whether it is due already.
        waiting: bool,
        /// When it is due.
        due: Timestamp,
        /// The length of its arguments.
        args_bytes: u32,
        /// What few jobs have.
        rare: Option<Box<Rare>>,
    },
    /// A scheduled job's time came.
    Due {
        /// The job.
        id: JobId,
    },
    /// A delivery began.
    Started {
        /// The job.
        id: JobId,
        /// The session that got it.
        session: SessionNo,
        /// When.
        at: Timestamp,
        /// The nonce of the term.
        nonce: u64,
    },
    /// Somebody asked a running job to stop.
    CancelRequested {
        /// The job.
        id: JobId,
    },
    /// A job became final, running or not.
    Finished {
        /// The job.
        id: JobId,
        /// Succeeded, failed or cancelled.
        verdict: Verdict,
    },
    /// A delivery ended and the job goes on.
    Returned {
        /// The job.
        id: JobId,
        /// Retried, snoozed, released or crashed.
        verdict: Verdict,
        /// When it is due again.
        due: Timestamp,
        /// Whether it is due already.
        waiting: bool,
        /// Its stream from now on.
        stream: Stream,
        /// Its lock from now on.
        lock: Option<LockId>,
    },
    /// A job left memory for a place.
    Parked {
        /// The job.
        id: JobId,
        /// Where it lies.
        place: Place,
        /// At which position.
        key: PlaceKey,
    },
    /// A job came back into memory.
    Unparked {
        /// The job.
        id: JobId,
        /// Where it lay.
        place: Place,
        /// At which position.
        key: PlaceKey,
        /// What is remembered of it.
        record: Record,
    },
    /// Nothing in the place has a lower key than this.
    PlaceMoved {
        /// The place.
        place: Place,
        /// Its new low end.
        low: PlaceKey,
    },
    /// A session began.
    SessionOpened {
        /// Its number.
        no: SessionNo,
        /// Its id.
        id: Uuid,
        /// What its resume token must be.
        secret: Uuid,
    },
    /// A session ended; none of its deliveries is open.
    SessionClosed {
        /// Its number.
        no: SessionNo,
    },
    /// A queue was paused or resumed.
    QueuePaused {
        /// The queue.
        no: QueueNo,
        /// Since when, by whom, and why; `None`: it was resumed.
        pause: Option<Pause>,
    },
    /// A final job was opened again (C17).
    Reopened {
        /// The job.
        id: JobId,
        /// How it had ended.
        verdict: Verdict,
        /// What is remembered of it from now on.
        record: Record,
    },
    /// A job that does not run got another due time.
    Rescheduled {
        /// The job.
        id: JobId,
        /// When it is due.
        due: Timestamp,
        /// Whether it is due already.
        waiting: bool,
    },
    /// A job that never started got other arguments (C10).
    Replaced {
        /// The job.
        id: JobId,
        /// Their length.
        args_bytes: u32,
    },
    /// A final job was erased (C17).
    Deleted {
        /// The job.
        id: JobId,
        /// The queue in which it became final.
        queue: QueueNo,
        /// How it had ended.
        verdict: Verdict,
    },
    /// A schedule was created or changed, paused or resumed. What it remembers of its ticks stays.
    SchedulePut {
        /// The schedule.
        schedule: Arc<Schedule>,
        /// Whether it is paused.
        paused: bool,
        /// Its ticks count after this instant.
        decided: Timestamp,
    },
    /// A schedule was taken away.
    ScheduleDeleted {
        /// Its name.
        name: Arc<str>,
    },
    /// A tick of a schedule was decided, and all before it.
    ScheduleTicked {
        /// The schedule's name.
        name: Arc<str>,
        /// The tick.
        tick: Timestamp,
        /// What came of it.
        outcome: TickOutcome,
    },
    /// Rows of lower ids go to the tables of what outlives its partition.
    KeptBelow {
        /// The bound.
        id: JobId,
    },
    /// Of lower ids, only what lies in those tables counts.
    MovedBelow {
        /// The bound.
        id: JobId,
    },
    /// Of the jobs that ended in this queue with this verdict, so many were erased since their time was over.
    Forgotten {
        /// The queue.
        queue: QueueNo,
        /// The verdict.
        verdict: Verdict,
        /// How many, ever.
        jobs: u64,
    },
    /// From this row on, all that is written as bytes has this format.
    FormatRaised {
        /// The format, above the one before.
        format: Format,
    },
}
