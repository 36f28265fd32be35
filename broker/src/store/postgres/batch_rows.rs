//! A batch as the parallel arrays of `commit_1`. What is the same everywhere, or the default, is left out: the
//! function fills it in again.

use serde::Serializer;
use serde_json::{Map, Value, json};
use sqlx::{Postgres, postgres::PgArguments, query::Query};
use uuid::Uuid;

use super::{
    kept_rows::Split,
    packed::{Packed, pack},
    parked_blocks::{self, Blocks},
    schedules,
    time::PgTime,
};
use crate::{
    core::{
        ask::AuditRow,
        batch::{Batch, NewJob, Outcome, RareRow, RequestRow, Unparked},
        job::Failure,
        place::ParkedJob,
        retention::Milestone,
        state::Pause,
        types::Format,
    },
    store::{
        CommitError,
        format::{encode_answer, encode_options, encode_place, encode_record},
    },
};

type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Binds all rows of a batch, in the order of the function's parameters.
pub(super) fn bind<'q>(query: Statement<'q>, batch: &'q Batch) -> Result<Statement<'q>, CommitError> {
    let Split { jobs, outcomes, kept } = Split::of(batch)?;
    let (packed, outcomes) = pack(outcomes);
    let query = bind_jobs(query, &jobs, batch.format)?;
    let query = bind_outcomes(query, &outcomes)?;
    let query = bind_packed(query, packed);
    let (blocks, parked) = parked_blocks::pack(&batch.parked, batch.format);
    let query = bind_parked(query, &parked, batch.format);
    let query = bind_blocks(query, blocks);
    let query = bind_unparked(query, &batch.unparked);
    let query = bind_requests(query, &batch.requests, batch.format);
    let (queues, queue_names): (Vec<_>, Vec<&str>) =
        batch.queues.iter().map(|(no, name)| (no.0 as i32, name.as_ref())).unzip();
    let taken = || batch.inbox.iter().map(|taken| taken.job.as_ref());
    let (tasks, task_names): (Vec<_>, Vec<&str>) =
        batch.tasks.iter().map(|(no, name)| (no.0 as i32, name.as_ref())).unzip();
    Ok(query
        .bind(unless_empty(queues))
        .bind(unless_empty(queue_names))
        .bind(unless_empty(tasks))
        .bind(unless_empty(task_names))
        .bind(batch.taken_in.map(PgTime))
        .bind(rare_json(kept, batch)?)
        .bind(unless_empty(batch.inbox.iter().map(|taken| taken.number as i64).collect::<Vec<_>>()))
        .bind(unless_none(taken().map(|job| Some(job?.queue.0 as i32)).collect()))
        .bind(unless_none(taken().map(|job| Some(job?.task.0 as i32)).collect()))
        .bind(unless_none(taken().map(|job| encode_options(&job?.spec, batch.format)).collect())))
}

fn bind_jobs<'q>(query: Statement<'q>, jobs: &[&'q NewJob], format: Format) -> Result<Statement<'q>, CommitError> {
    let ids: Vec<_> = jobs.iter().map(|job| job.id.0).collect();
    let queues = same_once(jobs.iter().map(|job| job.queue.0 as i32).collect());
    let tasks = same_once(jobs.iter().map(|job| job.task.0 as i32).collect());
    let priorities = unless_all(0, jobs.iter().map(|job| i16::from(job.spec.priority)).collect());
    let dues = jobs.iter().map(|job| job.due_in_row().map(PgTime));
    let args = jobs.iter().map(|job| text(&job.spec.args)).collect::<Result<Vec<_>, _>>()?;
    let metadata = jobs.iter().map(|job| metadata_json(&job.spec.metadata)).collect::<Result<Vec<_>, _>>()?;
    Ok(query
        .bind(unless_empty(ids))
        .bind(queues)
        .bind(tasks)
        .bind(priorities)
        .bind(unless_none(dues.collect()))
        .bind(unless_empty(args))
        .bind(unless_none(jobs.iter().map(|job| job.spec.lock.as_deref()).collect()))
        .bind(unless_none(jobs.iter().map(|job| job.spec.queueing_lock.as_deref()).collect()))
        .bind(unless_none(jobs.iter().map(|job| encode_options(&job.spec, format)).collect()))
        .bind(unless_none(metadata))
        .bind(unless_none(jobs.iter().map(|job| job.spec.traceparent.as_deref()).collect()))
        .bind(unless_none(jobs.iter().map(|job| job.spec.tracestate.as_deref()).collect())))
}

fn bind_outcomes<'q>(query: Statement<'q>, outcomes: &[&'q Outcome]) -> Result<Statement<'q>, CommitError> {
    let query = query
        .bind(unless_empty(outcomes.iter().map(|outcome| outcome.job.0).collect::<Vec<_>>()))
        .bind(unless_all(1, outcomes.iter().map(|outcome| outcome.delivery as i32).collect()))
        .bind(unless_all(1, outcomes.iter().map(|outcome| outcome.attempt as i32).collect()))
        .bind(same_once(outcomes.iter().map(|outcome| outcome.verdict as i16).collect()))
        .bind(unless_none(outcomes.iter().map(|outcome| outcome.started.map(PgTime)).collect()))
        .bind(same_once(outcomes.iter().map(|outcome| PgTime(outcome.finished)).collect()))
        .bind(unless_none(outcomes.iter().map(|outcome| outcome.session).collect::<Vec<Option<Uuid>>>()));
    let has_more = outcomes.iter().any(|outcome| outcome.more.is_some());
    let with_more = if has_more { outcomes } else { &[] };
    let more = || with_more.iter().map(|outcome| outcome.more.as_deref());
    let failure = |part: fn(&Failure) -> &String| {
        unless_none(more().map(|more| more?.failure.as_ref().map(|failure| part(failure).as_str())).collect())
    };
    let changed = || more().map(|more| more?.changed.as_ref());
    let results = more().map(|more| more.and_then(|more| more.result.as_ref()).map(|result| text(result)).transpose());
    Ok(query
        .bind(unless_none(more().map(|more| more?.reason.as_deref()).collect()))
        .bind(failure(|failure| &failure.kind))
        .bind(failure(|failure| &failure.message))
        .bind(failure(|failure| &failure.trace))
        .bind(unless_none(results.collect::<Result<Vec<_>, _>>()?))
        .bind(unless_none(more().map(|more| more?.next_due.map(PgTime)).collect()))
        .bind(unless_none(changed().map(|changed| changed?.queue.as_deref()).collect()))
        .bind(unless_none(changed().map(|changed| changed?.priority.map(i16::from)).collect()))
        .bind(unless_none(changed().map(|changed| changed?.lock.as_deref()).collect())))
}

fn bind_packed(query: Statement<'_>, packed: Packed) -> Statement<'_> {
    query
        .bind(unless_empty(packed.firsts))
        .bind(same_once(packed.finished))
        .bind(unless_empty(packed.ends))
        .bind(unless_empty(packed.places))
        .bind(unless_empty(packed.took))
        .bind(unless_empty(packed.earlier))
        .bind(unless_empty(packed.session_ends))
        .bind(unless_empty(packed.sessions))
        .bind(unless_empty(packed.session_of))
}

fn bind_parked<'q>(query: Statement<'q>, parked: &[&'q ParkedJob], format: Format) -> Statement<'q> {
    let locks = parked.iter().map(|parked| parked.record.lock().map(|lock| lock.0));
    let queueing_locks = parked.iter().map(|parked| parked.record.queueing_lock().map(AsRef::as_ref));
    query
        .bind(unless_empty(parked.iter().map(|parked| parked.id.0).collect::<Vec<_>>()))
        .bind(unless_empty(parked.iter().map(|parked| encode_place(parked.place)).collect::<Vec<_>>()))
        .bind(unless_all(0, parked.iter().map(|parked| parked.key.sort).collect()))
        .bind(unless_none(locks.collect::<Vec<Option<Uuid>>>()))
        .bind(unless_none(queueing_locks.collect::<Vec<Option<&str>>>()))
        .bind(unless_empty(parked.iter().map(|parked| encode_record(&parked.record, format)).collect::<Vec<_>>()))
}

fn bind_blocks(query: Statement<'_>, blocks: Blocks) -> Statement<'_> {
    query
        .bind(unless_empty(blocks.places))
        .bind(unless_empty(blocks.numbers))
        .bind(unless_empty(blocks.present))
        .bind(unless_none(blocks.locks))
        .bind(unless_empty(blocks.records))
}

fn bind_unparked<'q>(query: Statement<'q>, unparked: &[Unparked]) -> Statement<'q> {
    let leaving = parked_blocks::leaving(unparked);
    query
        .bind(unless_empty(unparked.iter().map(|unparked| unparked.id.0).collect::<Vec<_>>()))
        .bind(unless_empty(unparked.iter().map(|unparked| encode_place(unparked.place)).collect::<Vec<_>>()))
        .bind(unless_empty(unparked.iter().map(|unparked| unparked.key.sort).collect::<Vec<_>>()))
        .bind(unless_empty(leaving.places))
        .bind(unless_empty(leaving.numbers))
        .bind(unless_empty(leaving.jobs))
}

fn bind_requests<'q>(query: Statement<'q>, requests: &'q [RequestRow], format: Format) -> Statement<'q> {
    query
        .bind(unless_empty(requests.iter().map(|request| request.id.as_ref()).collect::<Vec<&str>>()))
        .bind(unless_empty(requests.iter().map(|request| request.digest).collect::<Vec<_>>()))
        .bind(unless_empty(requests.iter().map(|request| encode_answer(&request.answer, format)).collect::<Vec<_>>()))
}

/// Rare rows as `write_rare_1` wants them, with what is kept; `None`: there are none.
fn rare_json(mut kinds: Map<String, Value>, batch: &Batch) -> Result<Option<Value>, CommitError> {
    for row in &batch.rare_rows {
        let (kind, value) = match row {
            RareRow::Audit(AuditRow { at, verb, job, queue, schedule, by, refused }) => (
                "audit",
                json!({
                    "at": at.0, "verb": verb, "job": job.map(|job| job.0), "queue": queue.as_deref(),
                    "schedule": schedule.as_deref(), "who": &*by.who, "why": &*by.why, "refused": refused.as_deref(),
                }),
            ),
            RareRow::Due { job, delivery, due } => ("due", json!({ "job": job.0, "delivery": delivery, "due": due.0 })),
            RareRow::Args { job, args } => ("args", json!({ "job": job.0, "args": text(args)? })),
            RareRow::Deleted(job) => ("deleted", json!({ "job": job.0 })),
            RareRow::Pause { queue, pause: Some(Pause { since, by }) } => {
                ("pause", json!({ "queue": queue.0, "since": since.0, "who": &*by.who, "why": &*by.why }))
            }
            RareRow::Pause { queue, pause: None } => ("pause", json!({ "queue": queue.0 })),
            RareRow::Schedule(record) => ("schedules", schedules::row_json(record, batch.format).map_err(no_text)?),
            RareRow::ScheduleDeleted(name) => ("schedules", schedules::gone_json(name)),
            RareRow::Ticked(record) => ("ticks", schedules::tick_json(record)),
            RareRow::Milestone(Milestone::KeptBelow(id)) => ("bounds", json!({ "kept_below": id.0 })),
            RareRow::Milestone(Milestone::MovedBelow(id)) => ("bounds", json!({ "moved_below": id.0 })),
            RareRow::Milestone(Milestone::Forgotten { queue, verdict, jobs }) => {
                ("forgotten", json!({ "queue": queue.0, "verdict": *verdict as i16, "jobs": jobs }))
            }
        };
        if let Value::Array(values) = kinds.entry(kind).or_insert_with(|| Value::Array(Vec::new())) {
            values.push(value);
        }
    }
    Ok((!kinds.is_empty()).then_some(Value::Object(kinds)))
}

/// Null for an empty array: PL/pgSQL copies each array that it is given into a memory context of its own.
fn unless_empty<T>(values: Vec<T>) -> Option<Vec<T>> {
    (!values.is_empty()).then_some(values)
}

/// One value for all, where all are the same. Only for columns that are never null.
fn same_once<T: PartialEq>(mut values: Vec<T>) -> Option<Vec<T>> {
    if values.windows(2).all(|pair| pair[0] == pair[1]) {
        values.truncate(1);
    }
    unless_empty(values)
}

/// Nothing, where all are this.
fn unless_all<T: PartialEq + Copy>(default: T, values: Vec<T>) -> Option<Vec<T>> {
    values.iter().any(|value| *value != default).then_some(values)
}

/// Nothing, where there is nothing.
fn unless_none<T>(values: Vec<Option<T>>) -> Option<Vec<Option<T>>> {
    values.iter().any(Option::is_some).then_some(values)
}

/// What is no text PostgreSQL would refuse too; this way it is not even sent.
pub(super) fn text(bytes: &[u8]) -> Result<&str, CommitError> {
    std::str::from_utf8(bytes).map_err(no_text)
}

fn no_text(error: std::str::Utf8Error) -> CommitError {
    CommitError::Refused { sqlstate: "22021".to_owned(), message: error.to_string() }
}

/// Labels as a JSON object, in their order.
pub(super) fn metadata_json(metadata: &[(String, String)]) -> Result<Option<String>, CommitError> {
    if metadata.is_empty() {
        return Ok(None);
    }
    let mut json = Vec::new();
    serde_json::Serializer::new(&mut json)
        .collect_map(metadata.iter().map(|(key, value)| (key, value)))
        .map_err(|error| CommitError::Refused { sqlstate: "22000".to_owned(), message: error.to_string() })?;
    text(&json).map(|json| Some(json.to_owned()))
}
