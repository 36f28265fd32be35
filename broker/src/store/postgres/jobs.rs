//! Jobs as their rows hold them, with their outcomes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use sqlx::{Connection, PgConnection, Row, postgres::PgRow};

use super::{
    bounds::{kept_below, moved_below, newest_outcomes, packed_success},
    error::ReadError,
    follow::SNAPSHOT,
    inbox,
    look_up::verdict,
    parked_blocks::{self, parked_row},
    time::PgTime,
};
use crate::{
    core::{
        batch::{Changed, Outcome, OutcomeMore},
        job::{DueAt, Failure, JobSpec, Rare},
        place::Place,
        types::{JobId, Timestamp},
    },
    store::{JobView, OUTCOMES_SHOWN_MAX, StoreError, StoredJob, crashes_of, format::decode_options},
};

/// The columns that [`stored`] reads, of `job` as `j`, `queue` as `q` and `task` as `t`.
macro_rules! job_columns {
    () => {
        job_columns!("q.name, t.name")
    };
    ($queue_and_task:literal) => {
        concat!(
            "j.id, j.created_at, j.due_at, ",
            $queue_and_task,
            ", j.priority, j.args, j.lock, j.queueing_lock, j.options, j.metadata::text, j.traceparent, j.tracestate"
        )
    };
}
/// How many they are.
pub(super) const JOB_COLUMNS: usize = 13;

/// The columns that [`outcome`] reads, of `outcome` as `o`.
macro_rules! outcome_columns {
    () => {
        "o.job, o.delivery, o.attempt, o.verdict, o.started_at, o.finished_at, o.session, o.reason, o.error_kind, \
         o.error_message, o.error_trace, o.result, o.next_due_at, o.changed_queue, o.changed_priority, o.changed_lock"
    };
}
/// How many they are.
pub(super) const OUTCOME_COLUMNS: usize = 16;

pub(super) use {job_columns, outcome_columns};

/// By runs of ids, one after the other: a list in a condition would look into every partition, and a plain join may be
/// turned around and read all that lies between the ids; `LIMIT` forbids that. The bounds leave out partitions at the
/// start. To look for the names of each row would take longer than all else.
const SPECS: &str = concat!(
    "-- cabbage:specs\nSELECT ",
    job_columns!("j.queue, j.task"),
    " FROM unnest($1::bigint[], $2::bigint[]) k (low, high)
    CROSS JOIN LATERAL (
        SELECT * FROM job_now n
        WHERE n.id >= k.low AND n.id <= k.high AND n.id >= $3 AND n.id <= $4 LIMIT k.high - k.low + 1) j"
);

/// The names of queues, then of tasks, by number.
const NAMES: &str = "-- cabbage:names
SELECT 0, n.number, n.name FROM unnest($1::integer[]) k (number)
CROSS JOIN LATERAL (SELECT q.number, q.name FROM queue q WHERE q.number = k.number LIMIT 1) n
UNION ALL
SELECT 1, n.number, n.name FROM unnest($2::integer[]) k (number)
CROSS JOIN LATERAL (SELECT t.number, t.name FROM task t WHERE t.number = k.number LIMIT 1) n";

const JOB: &str = concat!(
    "-- cabbage:job\nSELECT ",
    job_columns!(),
    ", p.place, p.record, p.records FROM job_now j
    JOIN queue q ON q.number = j.queue
    JOIN task t ON t.number = j.task
    LEFT JOIN LATERAL ",
    parked_row!("j.id"),
    " p ON true
    WHERE j.id = $1"
);

const OUTCOMES: &str = concat!("-- cabbage:outcomes\n", newest_outcomes!([outcome_columns!()], "$1", "$2"));

/// What was asked for, of these jobs, in no order. What was deferred together is read together.
pub(super) async fn specs(connection: &mut PgConnection, ids: Arc<[i64]>) -> Result<Vec<StoredJob>, ReadError> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let runs = ids.chunk_by(|id, next| id + 1 == *next).map(|run| (run[0], run[run.len() - 1]));
    let (lows, highs): (Vec<_>, Vec<_>) = runs.unzip();
    let (low, high) = (ids.first().copied(), ids.last().copied());
    let rows = sqlx::query(SPECS).bind(lows).bind(highs).bind(low).bind(high).fetch_all(&mut *connection).await?;
    let names = Names::read(connection, &rows).await?;
    let spec = |row| stored_as(row, names.of_queue(row.try_get(3)?)?, names.of_task(row.try_get(4)?)?);
    rows.iter().map(spec).collect()
}

/// Names by number, shared by all that have them.
struct Names {
    queues: BTreeMap<i32, Arc<str>>,
    tasks: BTreeMap<i32, Arc<str>>,
}

impl Names {
    /// The names of these jobs, which have numbers where others have names.
    async fn read(connection: &mut PgConnection, jobs: &[PgRow]) -> Result<Self, ReadError> {
        let numbers = |column: usize| jobs.iter().map(|row| row.try_get(column)).collect::<Result<BTreeSet<i32>, _>>();
        let [queues, tasks] = [numbers(3)?, numbers(4)?].map(Vec::from_iter);
        let mut names = Self { queues: BTreeMap::new(), tasks: BTreeMap::new() };
        for row in sqlx::query(NAMES).bind(queues).bind(tasks).fetch_all(connection).await? {
            let of = if row.try_get::<i32, _>(0)? == 0 { &mut names.queues } else { &mut names.tasks };
            of.insert(row.try_get(1)?, row.try_get::<&str, _>(2)?.into());
        }
        Ok(names)
    }

    fn of_queue(&self, number: i32) -> Result<Arc<str>, StoreError> {
        self.queues.get(&number).cloned().ok_or_else(|| StoreError::Corrupt(format!("no queue has number {number}")))
    }

    fn of_task(&self, number: i32) -> Result<Arc<str>, StoreError> {
        self.tasks.get(&number).cloned().ok_or_else(|| StoreError::Corrupt(format!("no task has number {number}")))
    }
}

/// One job with its newest outcomes.
pub(super) async fn job(connection: &mut PgConnection, job: JobId) -> Result<Option<JobView>, ReadError> {
    let mut snapshot = connection.begin_with(SNAPSHOT).await?;
    let row = sqlx::query(JOB).bind(job.0).fetch_optional(&mut *snapshot).await?;
    let outcomes = match row {
        Some(_) => {
            sqlx::query(OUTCOMES).bind(job.0).bind(i64::from(OUTCOMES_SHOWN_MAX)).fetch_all(&mut *snapshot).await?
        }
        None => Vec::new(),
    };
    let waiting = if row.is_none() { inbox::job(&mut snapshot, job).await? } else { None };
    snapshot.commit().await?;
    let Some(row) = row else { return Ok(waiting) };
    let outcomes = outcomes.iter().rev().map(|row| outcome(row, 0)).collect::<Result<Vec<_>, _>>()?;
    let parked = parked(&row, JOB_COLUMNS, job)?;
    let crashes = crashes_of(outcomes.iter().rev().map(|outcome| outcome.verdict));
    Ok(Some(JobView { job: stored(&row)?, outcomes, crashes, parked, in_inbox: false }))
}

/// Reads a job, from the first column on.
pub(super) fn stored(row: &PgRow) -> Result<StoredJob, ReadError> {
    stored_as(row, row.try_get::<&str, _>(3)?.into(), row.try_get::<&str, _>(4)?.into())
}

/// Reads a job of this queue and task.
fn stored_as(row: &PgRow, queue: Arc<str>, task: Arc<str>) -> Result<StoredJob, ReadError> {
    let created = row.try_get::<PgTime, _>(1)?.0;
    let due = row.try_get::<Option<PgTime>, _>(2)?.map(|due| due.0);
    let rare = match row.try_get::<Option<&[u8]>, _>(9)? {
        Some(options) => decode_options(options)?,
        None => Rare::default(),
    };
    let spec = JobSpec {
        queue,
        task,
        priority: row.try_get::<i16, _>(5)? as i8,
        args: Bytes::copy_from_slice(row.try_get::<&str, _>(6)?.as_bytes()),
        lock: text(row, 7)?,
        strict: rare.strict,
        queueing_lock: text(row, 8)?,
        due: due.map_or(DueAt::Once, DueAt::At),
        deadline: rare.deadline,
        attempt_timeout: rare.attempt_timeout,
        retry: rare.retry,
        metadata: row.try_get::<Option<&str>, _>(10)?.map(metadata).transpose()?.unwrap_or_default(),
        traceparent: text(row, 11)?,
        tracestate: text(row, 12)?,
    };
    Ok(StoredJob { id: JobId(row.try_get(0)?), created, due: due.unwrap_or(created), spec })
}

/// Reads an outcome, from this column on.
pub(super) fn outcome(row: &PgRow, first: usize) -> Result<Outcome, ReadError> {
    let failure = match row.try_get::<Option<String>, _>(first + 8)? {
        Some(kind) => Some(Failure {
            kind,
            message: row.try_get::<Option<String>, _>(first + 9)?.unwrap_or_default(),
            trace: row.try_get::<Option<String>, _>(first + 10)?.unwrap_or_default(),
        }),
        None => None,
    };
    let changed = Changed {
        queue: text(row, first + 13)?,
        priority: row.try_get::<Option<i16>, _>(first + 14)?.map(|priority| priority as i8),
        lock: text(row, first + 15)?,
    };
    let more = OutcomeMore {
        reason: text(row, first + 7)?,
        failure,
        result: row.try_get::<Option<&str>, _>(first + 11)?.map(|json| Bytes::copy_from_slice(json.as_bytes())),
        next_due: row.try_get::<Option<PgTime>, _>(first + 12)?.map(|due| due.0),
        changed: (changed != Changed::default()).then_some(changed),
    };
    Ok(Outcome {
        job: JobId(row.try_get(first)?),
        delivery: row.try_get::<i32, _>(first + 1)? as u32,
        attempt: row.try_get::<i32, _>(first + 2)? as u32,
        verdict: verdict(i64::from(row.try_get::<i16, _>(first + 3)?))?,
        started: row.try_get::<Option<PgTime>, _>(first + 4)?.map(|at| at.0),
        finished: row.try_get::<PgTime, _>(first + 5)?.0,
        session: row.try_get(first + 6)?,
        more: (more != OutcomeMore::default()).then(|| Box::new(more)),
    })
}

/// Reads where a job is parked and when it is due there, from this column on.
pub(super) fn parked(row: &PgRow, first: usize, job: JobId) -> Result<Option<(Place, Timestamp)>, ReadError> {
    Ok(parked_blocks::parked(row, first, job)?.map(|(place, record)| (place, record.due)))
}

fn text(row: &PgRow, column: usize) -> Result<Option<Arc<str>>, sqlx::Error> {
    Ok(row.try_get::<Option<&str>, _>(column)?.map(Arc::from))
}

/// Labels from a JSON object, in their order.
fn metadata(json: &str) -> Result<Vec<(String, String)>, StoreError> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, String)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of strings")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            std::iter::from_fn(|| map.next_entry().transpose()).collect()
        }
    }
    serde_json::Deserializer::from_str(json)
        .deserialize_map(Pairs)
        .map_err(|error| StoreError::Corrupt(format!("metadata: {error}")))
}
