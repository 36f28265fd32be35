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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// As whom the caller is known, or says that it is.
    pub who: Arc<str>,
    /// For the record; may be empty.
    pub why: Arc<str>,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Cancel a job (C11).
    Cancel(JobId),
}

impl Verb {
    /// Its name in the record.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cancel(_) => "cancel",
        }
    }

    /// The job that it is about.
    pub fn job(self) -> Option<JobId> {
        match self {
            Self::Cancel(job) => Some(job),
        }
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
    /// Who asked, and why.
    pub by: By,
}
