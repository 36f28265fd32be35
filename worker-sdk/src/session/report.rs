//! What the log says of attempts that did not succeed, once their ends are recorded.
//!
//! Only then is it known what came of the job: the owner decides by its policy (C8). An end that was not recorded, for
//! the lease was lost, is not reported here: another delivery has the say (C5).

use cabbage_proto::v1::job_result::Outcome;

use super::{
    TaskLimits,
    lease::{Ending, Held},
};

/// Reports a recorded end: a failure that was the job's last one as an error, one that is tried again and a cancellation
/// as information.
pub(super) fn recorded(held: &Held, tasks: &[TaskLimits]) {
    let Some(Ending::Full(outcome)) = &held.ending else {
        return;
    };
    let (job, attempt) = (held.job_id, held.attempt);
    let task = tasks.get(held.task).map(|task| task.name.as_str());
    match &**outcome {
        Outcome::Failed(failed) => {
            let failure = failed.failure.as_ref();
            let told = failure.map(|failure| (failure.kind.as_str(), failure.message.as_str(), failure.trace.as_str()));
            let (kind, error, trace) = told.unwrap_or_default();
            if held.retried {
                tracing::info!(
                    job,
                    task,
                    attempt,
                    kind,
                    error,
                    trace,
                    "an attempt failed; its job will be tried again"
                );
            } else {
                tracing::error!(job, task, attempt, kind, error, trace, "a job failed");
            }
        }
        Outcome::Cancelled(cancelled) => {
            let reason = cancelled.message.as_str();
            tracing::info!(job, task, attempt, reason, "a job was cancelled");
        }
        Outcome::Succeeded(_) | Outcome::Released(_) | Outcome::Snoozed(_) => {}
    }
}
