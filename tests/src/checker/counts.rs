//! What happened how often.

use serde::Serialize;

/// The figures of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Jobs that clients asked for.
    pub attempted: u64,
    /// Jobs that clients were promised.
    pub acknowledged: u64,
    /// Jobs that were refused.
    pub refused: u64,
    /// Jobs of which their clients never heard.
    pub unknown: u64,
    /// Of those, jobs that exist.
    pub unknown_and_there: u64,
    /// Calls that their caller repeated after an unknown outcome.
    pub asked_again: u64,
    /// Repeated calls that had been done the first time.
    pub done_before: u64,
    /// Jobs that exist.
    pub jobs: u64,
    /// Deliveries that were recorded.
    pub deliveries: u64,
    /// Handlers that began.
    pub executions: u64,
    /// Executions of a job that an earlier execution of it might have done already.
    pub duplicates: u64,
    /// Of those, explained by a lease that had ended in between.
    pub duplicates_explained: u64,
    /// Results that were acknowledged as recorded.
    pub settled: u64,
    /// Results that were answered as recorded before.
    pub settled_again: u64,
    /// Results that were answered LEASE_LOST.
    pub lease_lost: u64,
    /// Finals.
    pub succeeded: u64,
    /// Finals.
    pub failed: u64,
    /// Finals.
    pub cancelled: u64,
    /// Jobs that are not final.
    pub unfinished: u64,
    /// Attempts that were followed by another.
    pub retried: u64,
    /// Deliveries that ended with their worker.
    pub crashed: u64,
    /// Deliveries that came back unstarted.
    pub released: u64,
    /// Jobs with a lock.
    pub locked: u64,
    /// Of those, in mode `strict`.
    pub strict: u64,
    /// Jobs that were due later than created.
    pub scheduled: u64,
    /// Refusals because of a queueing lock.
    pub queueing_locks_taken: u64,
    /// Cancels that were answered OK.
    pub cancels: u64,
    /// Finals that were opened again.
    pub reopened: u64,
    /// Finals that were erased.
    pub erased: u64,
    /// Ticks that were deferred.
    pub ticks: u64,
    /// Ticks that were skipped by their schedule's rule, or because of its queueing lock.
    pub ticks_skipped: u64,
    /// Calls that the database refused to record.
    pub unrecordable: u64,
    /// Starts after which a session ran all that it may hold.
    pub full_windows: u64,
    /// Jobs that left memory.
    pub parkings: u64,
    /// Jobs that came back.
    pub fetched: u64,
    /// The most that one of them did.
    pub parkings_of_one_job: u64,
    /// Changes of the owner.
    pub takeovers: u64,
    /// Of those, while jobs ran.
    pub takeovers_with_jobs_in_flight: u64,
}

/// Something that a run must have reached, or it has tested nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sometimes {
    /// A delivery ended with its worker.
    CrashedDelivery,
    /// A late result was answered LEASE_LOST.
    RefusedLateWrite,
    /// The owner changed while jobs ran.
    TakeoverWithJobsInFlight,
    /// A call whose outcome was unknown was repeated, by its caller or by the client that it uses.
    UnknownOutcomeAskedAgain,
    /// A failed attempt was followed by another.
    Retry,
    /// A job was due later.
    Scheduled,
    /// A job had a lock.
    Locked,
    /// A job had a lock in mode `strict`.
    Strict,
    /// A defer was refused because of a queueing lock.
    QueueingLockTaken,
    /// A job was cancelled.
    Cancelled,
    /// A job was run again, and its first lease had ended.
    ExplainedDuplicate,
    /// A worker had all that it may hold.
    FullWindow,
    /// A job left memory for a row, and came back.
    ParkedAndFetched,
    /// The database refused a batch, and the culprit was found in it.
    RefusedBatch,
    /// A tick was deferred.
    Tick,
    /// A final was opened again.
    Reopened,
    /// A final was erased.
    Erased,
}

impl Counts {
    /// How often it was reached.
    pub fn of(&self, sometimes: Sometimes) -> u64 {
        match sometimes {
            Sometimes::CrashedDelivery => self.crashed,
            Sometimes::RefusedLateWrite => self.lease_lost,
            Sometimes::TakeoverWithJobsInFlight => self.takeovers_with_jobs_in_flight,
            // A client asks again by itself, and then only the answer shows it.
            Sometimes::UnknownOutcomeAskedAgain => self.asked_again.max(self.done_before),
            Sometimes::Retry => self.retried,
            Sometimes::Scheduled => self.scheduled,
            Sometimes::Locked => self.locked,
            Sometimes::Strict => self.strict,
            Sometimes::QueueingLockTaken => self.queueing_locks_taken,
            Sometimes::Cancelled => self.cancels,
            Sometimes::ExplainedDuplicate => self.duplicates_explained,
            Sometimes::FullWindow => self.full_windows,
            Sometimes::ParkedAndFetched => self.fetched,
            Sometimes::RefusedBatch => self.unrecordable,
            Sometimes::Tick => self.ticks,
            Sometimes::Reopened => self.reopened,
            Sometimes::Erased => self.erased,
        }
    }
}

impl Sometimes {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::CrashedDelivery,
        Self::RefusedLateWrite,
        Self::TakeoverWithJobsInFlight,
        Self::UnknownOutcomeAskedAgain,
        Self::Retry,
        Self::Scheduled,
        Self::Locked,
        Self::Strict,
        Self::QueueingLockTaken,
        Self::Cancelled,
        Self::ExplainedDuplicate,
        Self::FullWindow,
        Self::ParkedAndFetched,
        Self::RefusedBatch,
        Self::Tick,
        Self::Reopened,
        Self::Erased,
    ];
}
