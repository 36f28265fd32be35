//! What people ask of things that exist: jobs, queues, schedules.

use std::sync::Arc;

use super::{
    effect::CallId,
    event::Request,
    schedule::Schedule,
    types::{JobId, Timestamp},
};

/// Somebody asks for something to be done. Recorded with who and why (C17).
#[derive(Clone, Debug)]
pub struct Ask {
    /// Where the answer goes.
    pub call: CallId,
    /// The client's id of the call.
    pub request: Option<Request>,
    /// Who asks, and why.
    pub by: By,
    /// What to do.
    pub verb: Verb,
}

/// Who asks, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct By {
    /// As whom the caller is known, or says that it is.
    pub who: Arc<str>,
    /// For the record; may be empty.
    pub why: Arc<str>,
}

/// What can be asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    /// Cancel a job (C11).
    Cancel(JobId),
    /// Run a final job again, with a new budget of attempts (C17).
    Retry {
        /// The job.
        job: JobId,
        /// When it becomes due; `None`: now.
        due: Option<Timestamp>,
    },
    /// Move a job that does not run to another due time.
    Reschedule {
        /// The job.
        job: JobId,
        /// When it becomes due; `None`: now.
        due: Option<Timestamp>,
    },
    /// Erase a final job with its outcomes (C17).
    Delete(JobId),
    /// Start no job of this queue any more (C11).
    Pause(Arc<str>),
    /// Start the jobs of this queue again.
    Resume(Arc<str>),
    /// Create a schedule, or change the one of that name (C12). Whether it is paused counts when it is created; later
    /// only [`Self::PauseSchedule`] and [`Self::ResumeSchedule`] change that.
    PutSchedule {
        /// The schedule.
        schedule: Arc<Schedule>,
        /// Whether it begins paused.
        paused: bool,
    },
    /// Take the schedule of this name away.
    DeleteSchedule(Arc<str>),
    /// Defer no tick of the schedule of this name any more.
    PauseSchedule(Arc<str>),
    /// Defer its ticks again, from now on.
    ResumeSchedule(Arc<str>),
    /// Defer its job now, beside its ticks.
    RunSchedule(Arc<str>),
    /// Hand the cell over to another broker. Who does so comes next; what the core has to do with it is the record.
    HandOver,
}

impl Verb {
    /// Its name in the record.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cancel(_) => "cancel",
            Self::Retry { .. } => "retry",
            Self::Reschedule { .. } => "reschedule",
            Self::Delete(_) => "delete",
            Self::Pause(_) => "pause",
            Self::Resume(_) => "resume",
            Self::PutSchedule { .. } => "put schedule",
            Self::DeleteSchedule(_) => "delete schedule",
            Self::PauseSchedule(_) => "pause schedule",
            Self::ResumeSchedule(_) => "resume schedule",
            Self::RunSchedule(_) => "run schedule",
            Self::HandOver => "hand over",
        }
    }

    /// The job that it is about.
    pub fn job(&self) -> Option<JobId> {
        match self {
            Self::Cancel(job) | Self::Retry { job, .. } | Self::Reschedule { job, .. } | Self::Delete(job) => {
                Some(*job)
            }
            Self::Pause(_)
            | Self::Resume(_)
            | Self::PutSchedule { .. }
            | Self::DeleteSchedule(_)
            | Self::PauseSchedule(_)
            | Self::ResumeSchedule(_)
            | Self::RunSchedule(_)
            | Self::HandOver => None,
        }
    }

    /// The name of the schedule that it is about.
    pub fn schedule(&self) -> Option<&Arc<str>> {
        match self {
            Self::Cancel(_)
            | Self::Retry { .. }
            | Self::Reschedule { .. }
            | Self::Delete(_)
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::HandOver => None,
            Self::PutSchedule { schedule, .. } => Some(&schedule.name),
            Self::DeleteSchedule(name)
            | Self::PauseSchedule(name)
            | Self::ResumeSchedule(name)
            | Self::RunSchedule(name) => Some(name),
        }
    }

    /// The queue that it is about.
    pub fn queue(&self) -> Option<&Arc<str>> {
        match self {
            Self::Cancel(_)
            | Self::Retry { .. }
            | Self::Reschedule { .. }
            | Self::Delete(_)
            | Self::PutSchedule { .. }
            | Self::DeleteSchedule(_)
            | Self::PauseSchedule(_)
            | Self::ResumeSchedule(_)
            | Self::RunSchedule(_)
            | Self::HandOver => None,
            Self::Pause(queue) | Self::Resume(queue) => Some(queue),
        }
    }

    /// Whether it is about jobs that are final, of which only the tables know.
    pub(super) fn wants_final(&self) -> bool {
        matches!(self, Self::Retry { .. } | Self::Delete(_))
    }
}

/// A verb that was obeyed, or one from SQL that was refused, as it is kept for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// When it was decided.
    pub at: Timestamp,
    /// The verb's name.
    pub verb: &'static str,
    /// The job that it was about.
    pub job: Option<JobId>,
    /// The queue that it was about.
    pub queue: Option<Arc<str>>,
    /// The name of the schedule that it was about.
    pub schedule: Option<Arc<str>>,
    /// Who asked, and why.
    pub by: By,
    /// Why it was not obeyed, where nobody waited for an answer: it came from SQL. `None`: it was.
    pub refused: Option<Arc<str>>,
}
