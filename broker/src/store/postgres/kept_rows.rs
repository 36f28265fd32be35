//! The rows of a batch whose partition is to go, or is gone: they lie in `job_kept` and `outcome_kept`, and travel with
//! the rare rows. Those of all other jobs are bound as arrays.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::batch_rows::{metadata_json, text};
use crate::{
    core::batch::{Batch, NewJob, Outcome},
    store::{CommitError, format::encode_options},
};

/// The jobs and outcomes of a batch, by where their rows go.
pub(super) struct Split<'b> {
    /// To the partition of their id.
    pub(super) jobs: Vec<&'b NewJob>,
    /// To the partition of their job.
    pub(super) outcomes: Vec<&'b Outcome>,
    /// As `write_kept_1` wants them.
    pub(super) kept: Map<String, Value>,
}

impl<'b> Split<'b> {
    pub(super) fn of(batch: &'b Batch) -> Result<Self, CommitError> {
        let (kept_jobs, jobs): (Vec<_>, Vec<_>) = batch.jobs.iter().partition(|job| job.id < batch.kept_below);
        let (kept_outcomes, outcomes): (Vec<_>, Vec<_>) =
            batch.outcomes.iter().partition(|outcome| outcome.job < batch.kept_below);
        let mut kept = Map::new();
        if !kept_jobs.is_empty() {
            let rows = kept_jobs.into_iter().map(|job| job_json(job, batch)).collect::<Result<_, _>>()?;
            kept.insert("kept_jobs".to_owned(), Value::Array(rows));
        }
        if !kept_outcomes.is_empty() {
            let rows = kept_outcomes.into_iter().map(outcome_json).collect::<Result<_, _>>()?;
            kept.insert("kept_outcomes".to_owned(), Value::Array(rows));
        }
        Ok(Self { jobs, outcomes, kept })
    }
}

fn job_json(job: &NewJob, batch: &Batch) -> Result<Value, CommitError> {
    let spec = &job.spec;
    Ok(json!({
        "id": job.id.0,
        "taken_in": batch.taken_in.map(|at| at.0),
        "due": job.due_in_row().map(|due| due.0),
        "queue": job.queue.0,
        "task": job.task.0,
        "priority": spec.priority,
        "args": text(&spec.args)?,
        "lock": spec.lock.as_deref(),
        "queueing_lock": spec.queueing_lock.as_deref(),
        "options": encode_options(spec, batch.format).map(|options| hex(&options)),
        "metadata": metadata_json(&spec.metadata)?,
        "traceparent": spec.traceparent.as_deref(),
        "tracestate": spec.tracestate.as_deref(),
    }))
}

fn outcome_json(outcome: &Outcome) -> Result<Value, CommitError> {
    let more = outcome.more.as_deref();
    let failure = more.and_then(|more| more.failure.as_ref());
    let changed = more.and_then(|more| more.changed.as_ref());
    let result = more.and_then(|more| more.result.as_ref()).map(|result| text(result)).transpose()?;
    Ok(json!({
        "job": outcome.job.0,
        "started": outcome.started.map(|at| at.0),
        "finished": outcome.finished.0,
        "delivery": outcome.delivery,
        "attempt": outcome.attempt,
        "verdict": outcome.verdict as i16,
        "session": outcome.session.map(|session| session.to_string()),
        "reason": more.and_then(|more| more.reason.as_deref()),
        "error_kind": failure.map(|failure| &failure.kind),
        "error_message": failure.map(|failure| &failure.message),
        "error_trace": failure.map(|failure| &failure.trace),
        "result": result,
        "next_due": more.and_then(|more| more.next_due).map(|due| due.0),
        "changed_queue": changed.and_then(|changed| changed.queue.as_deref()),
        "changed_priority": changed.and_then(|changed| changed.priority),
        "changed_lock": changed.and_then(|changed| changed.lock.as_deref()),
    }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A string takes anything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
