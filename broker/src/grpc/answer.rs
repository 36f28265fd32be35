//! What the owner answers to a call, as the wire says it.

use tonic::Status;

use crate::core::{batch::Answer, effect::Reply};

use super::status::{Reason, refusal};

/// The answer, and whether it is that of an earlier call with the same request id.
pub(super) fn done(reply: Reply) -> Result<(Answer, bool), Status> {
    match reply {
        Reply::Done { answer, repeated } => Ok((answer, repeated)),
        Reply::Refused(refused) => Err(refusal(&refused)),
        Reply::Items(_) | Reply::Settled(_) | Reply::Extended(_) => Err(other_kind()),
    }
}

/// The ids of the jobs of a defer.
pub(super) fn job_ids(answer: &Answer) -> Option<Vec<i64>> {
    match answer {
        Answer::Deferred { first, count } => Some((first.0..first.0 + i64::from(*count)).collect()),
        Answer::DeferredIds(ids) => Some(ids.iter().map(|id| id.0).collect()),
        Answer::Cancelled { .. }
        | Answer::Moved { .. }
        | Answer::Deleted
        | Answer::Paused(_)
        | Answer::Resumed
        | Answer::ScheduleChanged
        | Answer::Recorded => None,
    }
}

/// The answer is of another kind than its call.
pub(super) fn other_kind() -> Status {
    internal("an answer of another kind of call")
}

pub(super) fn internal(what: &str) -> Status {
    tracing::error!(what, "a call cannot be answered: this is a bug");
    Reason::Internal.status(format!("a bug in the broker: {what}"))
}
