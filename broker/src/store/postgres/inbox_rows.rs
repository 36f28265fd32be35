//! Rows of the inbox, as they are read: to be taken in, or to be shown.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Deserialize;
use sqlx::{Row, postgres::PgRow, types::Json};

use super::{error::ReadError, jobs::stored, time::PgTime};
use crate::{
    core::{
        ask::{By, Verb},
        inbox::{InboxJob, InboxRow, Wish},
        job::{DueAt, JobSpec, RetryPolicy},
        types::JobId,
    },
    store::JobView,
};

/// The columns that [`inbox_row`] reads, of `inbox` as `i`: all but what stays in the server.
macro_rules! inbox_columns {
    () => {
        "i.number, i.x::text, i.written_at, i.verb, i.job, i.who, i.why, i.queue, i.task, i.priority, i.due_at, \
         octet_length(i.args), i.lock, i.queueing_lock, i.is_strict, i.deadline, i.attempt_timeout, i.retry"
    };
}

/// The columns that [`waiting_job`] reads, of `inbox` as `i`.
macro_rules! waiting_columns {
    () => {
        "i.job, i.written_at, i.due_at, i.queue, i.task, i.priority, i.args, i.lock, i.queueing_lock, NULL::bytea, \
         i.metadata::text, i.traceparent, i.tracestate, i.is_strict, i.deadline, i.attempt_timeout, i.retry"
    };
}

pub(super) use {inbox_columns, waiting_columns};

/// The longest wait of a retry policy that names none.
const MAX_WAIT: Duration = Duration::from_hours(365 * 24);

/// What follows a failed attempt, as the SQL functions write it: waits in microseconds.
#[derive(Deserialize)]
#[serde(default)]
struct Retry {
    max_attempts: u32,
    wait: u64,
    linear_wait: u64,
    exponential_wait: u64,
    exponential_factor: f64,
    max_wait: Option<u64>,
    jitter: f64,
    only_kinds: Vec<String>,
    never_kinds: Vec<String>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 0,
            wait: 0,
            linear_wait: 0,
            exponential_wait: 0,
            exponential_factor: 2.0,
            max_wait: None,
            jitter: 0.0,
            only_kinds: Vec::new(),
            never_kinds: Vec::new(),
        }
    }
}

impl From<Retry> for RetryPolicy {
    fn from(retry: Retry) -> Self {
        Self {
            max_attempts: retry.max_attempts,
            wait: Duration::from_micros(retry.wait),
            linear_wait: Duration::from_micros(retry.linear_wait),
            exponential_wait: Duration::from_micros(retry.exponential_wait),
            exponential_factor: retry.exponential_factor,
            max_wait: retry.max_wait.map_or(MAX_WAIT, Duration::from_micros),
            jitter: retry.jitter,
            only_kinds: retry.only_kinds,
            never_kinds: retry.never_kinds,
        }
    }
}

/// Reads a row to be taken in, from this column on.
pub(super) fn inbox_row(row: &PgRow, first: usize) -> Result<InboxRow, ReadError> {
    let number = row.try_get::<i64, _>(first)? as u64;
    let written = row.try_get::<PgTime, _>(first + 2)?.0;
    let verb: &str = row.try_get(first + 3)?;
    let wish = if verb == "defer" {
        Wish::Defer(inbox_job(row, first)?)
    } else if let Some(verb) = asked_verb(row, first, verb)? {
        let by = By { who: row.try_get::<&str, _>(first + 5)?.into(), why: row.try_get::<&str, _>(first + 6)?.into() };
        Wish::Ask { verb, by, unrecordable: None }
    } else {
        tracing::warn!(number, verb, "a row of the inbox makes no sense; it is dropped");
        Wish::Nothing
    };
    Ok(InboxRow { number, written, wish })
}

/// What a row asks for that is no defer; `None`: no function writes such a row.
fn asked_verb(row: &PgRow, first: usize, name: &str) -> Result<Option<Verb>, sqlx::Error> {
    let job = row.try_get::<Option<i64>, _>(first + 4)?.map(JobId);
    let queue = row.try_get::<Option<&str>, _>(first + 7)?;
    let due = row.try_get::<Option<PgTime>, _>(first + 10)?.map(|due| due.0);
    Ok(match (name, job, queue) {
        ("cancel", Some(job), _) => Some(Verb::Cancel(job)),
        ("retry", Some(job), _) => Some(Verb::Retry { job, due }),
        ("reschedule", Some(job), _) => Some(Verb::Reschedule { job, due }),
        ("pause", _, Some(queue)) => Some(Verb::Pause(queue.into())),
        ("resume", _, Some(queue)) => Some(Verb::Resume(queue.into())),
        _ => None,
    })
}

fn inbox_job(row: &PgRow, first: usize) -> Result<InboxJob, ReadError> {
    let (retry, unrecordable) = match retry(row, first + 17) {
        Ok(retry) => (retry, None),
        Err(error) => (None, Some(format!("retry: {error}").into())),
    };
    let spec = JobSpec {
        queue: row.try_get::<&str, _>(first + 7)?.into(),
        task: row.try_get::<&str, _>(first + 8)?.into(),
        priority: row.try_get::<i16, _>(first + 9)? as i8,
        due: row.try_get::<Option<PgTime>, _>(first + 10)?.map_or(DueAt::Once, |due| DueAt::At(due.0)),
        args: Bytes::new(),
        lock: text(row, first + 12)?,
        queueing_lock: text(row, first + 13)?,
        strict: row.try_get(first + 14)?,
        deadline: row.try_get::<Option<PgTime>, _>(first + 15)?.map(|at| at.0),
        attempt_timeout: micros(row, first + 16)?,
        retry,
        metadata: Vec::new(),
        traceparent: None,
        tracestate: None,
    };
    let args_bytes = row.try_get::<i32, _>(first + 11)? as u32;
    Ok(InboxJob { id: JobId(row.try_get(first + 4)?), spec: Arc::new(spec), args_bytes, unrecordable })
}

/// Reads a job that is not taken in, to be shown.
pub(super) fn waiting_job(row: &PgRow) -> Result<JobView, ReadError> {
    let mut job = stored(row)?;
    job.spec.strict = row.try_get(13)?;
    job.spec.deadline = row.try_get::<Option<PgTime>, _>(14)?.map(|at| at.0);
    job.spec.attempt_timeout = micros(row, 15)?;
    job.spec.retry = retry(row, 16)?;
    Ok(JobView { job, outcomes: Vec::new(), crashes: 0, parked: None, in_inbox: true })
}

fn retry(row: &PgRow, column: usize) -> Result<Option<Arc<RetryPolicy>>, sqlx::Error> {
    let retry = row.try_get::<Option<Json<Retry>>, _>(column)?;
    Ok(retry.map(|Json(retry)| Arc::new(retry.into())))
}

fn micros(row: &PgRow, column: usize) -> Result<Option<Duration>, sqlx::Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(|micros| Duration::from_micros(micros as u64)))
}

fn text(row: &PgRow, column: usize) -> Result<Option<Arc<str>>, sqlx::Error> {
    Ok(row.try_get::<Option<&str>, _>(column)?.map(Arc::from))
}
