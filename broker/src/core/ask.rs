//! What people ask of things that exist: jobs, queues.

use std::sync::Arc;

use super::{
    effect::CallId,
    event::Request,
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
        }
    }

    /// The job that it is about.
    pub fn job(&self) -> Option<JobId> {
        match self {
            Self::Cancel(job) | Self::Retry { job, .. } | Self::Reschedule { job, .. } | Self::Delete(job) => {
                Some(*job)
            }
            Self::Pause(_) | Self::Resume(_) => None,
        }
    }

    /// The queue that it is about.
    pub fn queue(&self) -> Option<&Arc<str>> {
        match self {
            Self::Cancel(_) | Self::Retry { .. } | Self::Reschedule { .. } | Self::Delete(_) => None,
            Self::Pause(queue) | Self::Resume(queue) => Some(queue),
        }
    }

    /// Whether it is about jobs that are final, of which only the tables know.
    pub(super) fn wants_final(&self) -> bool {
        matches!(self, Self::Retry { .. } | Self::Delete(_))
    }
}

/// A verb that was obeyed, as it is kept for people.
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
    /// Who asked, and why.
    pub by: By,
}
