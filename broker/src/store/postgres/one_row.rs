//! The commit of a batch with one row beside that of the log, a new job or an ended delivery: on a quiet cell most are
//! such. A plain statement with few parameters takes PostgreSQL, and us, a quarter less time than `commit_1`, which has
//! seventy-six and a statement for each table.
//!
//! The function stays the arbiter: where anything is not as it should be, the statement writes nothing, and the function
//! is called, which waits, or says why not.

use sqlx::{Postgres, postgres::PgArguments, query::Query};

use super::{
    batch_rows::{metadata_json, text},
    session::Fence,
    time::PgTime,
};
use crate::{
    core::{
        batch::{Batch, NewJob, Outcome, RequestRow},
        types::Term,
    },
    store::{
        CommitError, LogPosition,
        format::{encode_answer, encode_facts, encode_options},
    },
};

/// Such a statement. It begins with what `fenced` asks, the clock, whether it is late enough (C7), and the row of the log.
/// `timely` has one row, or nothing is written.
macro_rules! one_row {
    ($name:literal, $($rows:tt)+) => {
        concat!(
            "-- cabbage:",
            $name,
            "
            WITH held AS MATERIALIZED (
                SELECT clock_timestamp() AS at FROM fence f
                WHERE f.writer = $1 AND f.term = $2 AND f.nonce = $3
                    AND (current_setting('cabbage.synchronous', true) IS DISTINCT FROM 'required'
                        OR current_setting('synchronous_standby_names') <> '')
                FOR SHARE
            ), timely AS MATERIALIZED (
                SELECT h.at FROM held h WHERE h.at >= coalesce($7, '-infinity')
            ), log_row AS (
                INSERT INTO log (number, term, nonce, after_nonce, committed_at, state_hash, facts)
                    SELECT $4, $2, $3, $3, t.at, $6, $5 FROM timely t
            ), ",
            $($rows)+,
            " SELECT (SELECT t.at FROM timely t)"
        )
    };
}

macro_rules! job_row {
    () => {
        "job_row AS (
            INSERT INTO job (id, created_at, due_at, queue, task, priority, args, lock, queueing_lock, options,
                    metadata, traceparent, tracestate)
                SELECT $8, least(t.at, $9), $10, $11, $12, $13, $14, $15, $16, $17, $18::json, $19, $20 FROM timely t
        )"
    };
}

const JOB: &str = one_row!("commit_one_job", job_row!());

/// The same, of a call that is remembered (C2).
const JOB_OF_REQUEST: &str = one_row!(
    "commit_one_job_of_request",
    job_row!(),
    ", request_row AS (
        INSERT INTO request (day, id, digest, answer)
            SELECT (t.at AT TIME ZONE 'UTC')::date, $21, $22, $23 FROM timely t
    )"
);

const OUTCOME: &str = one_row!(
    "commit_one_outcome",
    "outcome_row AS (
        INSERT INTO outcome (job, started_at, finished_at, delivery, attempt, verdict, session)
            SELECT $8, $9, $10, $11, $12, $13, $14 FROM timely t
    )"
);

/// What a batch writes beside the row of the log, where that is one row: two where a call is remembered.
pub(super) enum OneRow<'b> {
    Job(&'b NewJob, Option<&'b RequestRow>),
    Outcome(&'b Outcome),
}

impl<'b> OneRow<'b> {
    /// `None`: it has others, or may have to look whether the log is as the owner saw it.
    pub(super) fn of(batch: &'b Batch, last: LogPosition, term: Term) -> Option<Self> {
        // By name, so that what comes to be written by a batch is thought of here too.
        let Batch {
            jobs,
            outcomes,
            requests,
            inbox,
            parked,
            unparked,
            queues,
            tasks,
            rare_rows,
            kept_below,
            reserve_ids,
            // All statements have these.
            number: _,
            format: _,
            facts: _,
            taken_in: _,
            not_before: _,
            state_hash: _,
            // What follows.
            effects: _,
        } = batch;
        let has_others = !(inbox.is_empty()
            && parked.is_empty()
            && unparked.is_empty()
            && queues.is_empty()
            && tasks.is_empty()
            && rare_rows.is_empty()
            && *reserve_ids == 0);
        if has_others || last.nonce != term.nonce {
            return None;
        }
        match (jobs.as_slice(), outcomes.as_slice(), requests.as_slice()) {
            ([job], [], requests @ ([] | [_])) if job.id >= *kept_below => Some(Self::Job(job, requests.first())),
            ([], [outcome], []) if outcome.job >= *kept_below && outcome.more.is_none() => Some(Self::Outcome(outcome)),
            _ => None,
        }
    }

    /// The statement. It answers the time of the commit; null: nothing was written.
    pub(super) fn query(
        &self,
        batch: &'b Batch,
        fence: Fence,
    ) -> Result<Query<'b, Postgres, PgArguments>, CommitError> {
        let sql = match self {
            Self::Job(_, None) => JOB,
            Self::Job(_, Some(_)) => JOB_OF_REQUEST,
            Self::Outcome(_) => OUTCOME,
        };
        let query = fence
            .bind(sqlx::query(sql))
            .bind(batch.number as i64)
            .bind(encode_facts(&batch.facts, batch.format))
            .bind(batch.state_hash.map(|hash| hash as i64))
            .bind(batch.not_before.map(PgTime));
        let (job, request) = match self {
            Self::Job(job, request) => (job, request),
            Self::Outcome(outcome) => {
                return Ok(query
                    .bind(outcome.job.0)
                    .bind(outcome.started.map(PgTime))
                    .bind(PgTime(outcome.finished))
                    .bind(outcome.delivery as i32)
                    .bind(outcome.attempt as i32)
                    .bind(outcome.verdict as i16)
                    .bind(outcome.session));
            }
        };
        let spec = &*job.spec;
        let query = query
            .bind(job.id.0)
            .bind(batch.taken_in.map(PgTime))
            .bind(job.due_in_row().map(PgTime))
            .bind(job.queue.0 as i32)
            .bind(job.task.0 as i32)
            .bind(i16::from(spec.priority))
            .bind(text(&spec.args)?)
            .bind(spec.lock.as_deref())
            .bind(spec.queueing_lock.as_deref())
            .bind(encode_options(spec, batch.format))
            .bind(metadata_json(&spec.metadata)?)
            .bind(spec.traceparent.as_deref())
            .bind(spec.tracestate.as_deref());
        Ok(match request {
            None => query,
            Some(request) => {
                query.bind(&*request.id).bind(request.digest).bind(encode_answer(&request.answer, batch.format))
            }
        })
    }
}
