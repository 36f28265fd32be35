//! Keys of all kinds, looked up together: one statement, one snapshot.

use std::sync::Arc;

use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    bounds::{kept_below, moved_below, newest_outcomes, packed_success},
    error::ReadError,
    finished::finished,
    inbox,
    parked_blocks::{parked, parked_row},
};
use crate::{
    core::{
        batch::RequestRow,
        effect::{Found, JobFound, LookUp},
        job::Verdict,
        place::{ParkedJob, PlaceKey},
        types::JobId,
    },
    store::{StoreError, format::decode_answer},
};

const SNAPSHOT: i32 = 0;
const REQUEST: i32 = 1;
const QUEUEING_LOCK: i32 = 2;
const JOB: i32 = 3;
const DELIVERY: i32 = 4;
const LOCK_BEFORE: i32 = 5;
const IN_INBOX: i32 = 6;

/// The number of the newest row of the log, and the calls with a request id: what both statements begin with. Should a
/// request id have been used again after its time, the newest call counts.
macro_rules! snapshot_and_requests {
    () => {
        "SELECT 0 AS kind, 0::bigint AS place, (SELECT l.number FROM log l ORDER BY l.number DESC LIMIT 1) AS first,
    NULL::bigint AS second, NULL::uuid AS digest, NULL::bytea AS bytes, NULL::bytea AS more, NULL::bytea AS records
UNION ALL
SELECT 1, k.place, NULL, NULL, r.digest, r.answer, NULL, NULL
FROM unnest($1::text[]) WITH ORDINALITY k (id, place)
CROSS JOIN LATERAL (SELECT q.digest, q.answer FROM request q WHERE q.id = k.id ORDER BY q.day DESC LIMIT 1) r"
    };
}

/// Request ids alone, as plain defers ask for them: a statement that names `job` and `outcome` locks every partition of
/// theirs, whether it is asked for jobs or not.
const LOOK_UP_REQUESTS: &str = concat!("-- cabbage:look_up_requests\n", snapshot_and_requests!());

/// Rows: the kind of key, its position among the keys (from 1), and what was found, by kind. Each key is looked up by
/// itself: `LIMIT` forbids plans that begin with the other table.
const LOOK_UP: &str = concat!(
    "-- cabbage:look_up\n",
    snapshot_and_requests!(),
    "
UNION ALL
-- The parked job that carries a queueing lock.
SELECT 2, k.place, p.job, NULL, NULL, NULL, NULL, NULL
FROM unnest($2::text[]) WITH ORDINALITY k (queueing_lock, place)
CROSS JOIN LATERAL (
    SELECT q.job FROM parked q WHERE q.queueing_lock = k.queueing_lock ORDER BY q.job LIMIT 1) p
UNION ALL
-- A job: where it is parked, its newest outcome, or nothing but its row.
SELECT 3, k.place, o.verdict, coalesce(o.delivery, p.sort), NULL, p.place, p.record, p.records
FROM unnest($3::bigint[]) WITH ORDINALITY k (job, place)
CROSS JOIN LATERAL (SELECT q.id FROM job_now q WHERE q.id = k.job LIMIT 1) j
LEFT JOIN LATERAL ",
    parked_row!("k.job"),
    " p ON true
LEFT JOIN LATERAL (",
    newest_outcomes!(["o.verdict, o.delivery"], "k.job", "1"),
    ") o ON p.place IS NULL
UNION ALL
-- How a delivery ended.
SELECT 4, k.place, o.verdict, NULL, NULL, NULL, NULL, NULL
FROM unnest($4::bigint[], $5::integer[]) WITH ORDINALITY k (job, delivery, place)
CROSS JOIN LATERAL (
    (SELECT q.verdict FROM outcome q
    WHERE q.job = k.job AND q.delivery = k.delivery AND k.job >= ",
    moved_below!(),
    " LIMIT 1)
    UNION ALL
    (SELECT q.verdict FROM ",
    packed_success!("k.job"),
    " q WHERE k.delivery = 1 AND k.job >= ",
    moved_below!(),
    " LIMIT 1)
    UNION ALL
    (SELECT q.verdict FROM outcome_kept q
    WHERE q.job = k.job AND q.delivery = k.delivery AND k.job < ",
    kept_below!(),
    " AND (k.job < ",
    moved_below!(),
    " OR NOT q.copied) LIMIT 1)
    LIMIT 1) o
UNION ALL
-- Whether a lower id is parked behind a lock.
SELECT 5, k.place, p.job, NULL, NULL, NULL, NULL, NULL
FROM unnest($6::uuid[], $7::bigint[]) WITH ORDINALITY k (lock, job, place)
CROSS JOIN LATERAL (
    (SELECT q.job FROM parked q WHERE q.lock = k.lock AND q.job < k.job ORDER BY q.job LIMIT 1)
    UNION ALL
    (SELECT q.block << 6 FROM parked_block q
    WHERE q.lock = k.lock AND (q.lock, q.block) <= (k.lock, k.job >> 6) AND (q.block < k.job >> 6
        OR (q.present & ~((-1)::bigint << (k.job & 63)::integer)) <> 0)
    LIMIT 1)
    LIMIT 1) p
UNION ALL
-- A job that is not taken in: its row of the inbox.
SELECT 6, k.place, i.number, NULL, NULL, NULL, NULL, NULL
FROM unnest($3::bigint[]) WITH ORDINALITY k (job, place)
CROSS JOIN LATERAL (SELECT q.number FROM inbox q WHERE q.job = k.job AND q.verb = 'defer' LIMIT 1) i"
);

/// An id that was used again after its time is there once more.
const REQUEST_IDS: &str = "-- cabbage:request_ids
SELECT r.id FROM request r WHERE r.id > $1 ORDER BY r.id LIMIT $2";

/// Request ids in their order.
pub(super) async fn request_ids(
    connection: &mut PgConnection,
    after: Arc<str>,
    limit: u32,
) -> Result<Vec<Arc<str>>, ReadError> {
    let rows = sqlx::query(REQUEST_IDS).bind(&*after).bind(i64::from(limit)).fetch_all(connection).await?;
    let mut ids = rows.iter().map(|row| row.try_get::<&str, _>(0).map(Arc::from)).collect::<Result<Vec<_>, _>>()?;
    ids.dedup();
    Ok(ids)
}

/// Looks up keys.
pub(super) async fn look_up(connection: &mut PgConnection, keys: Arc<LookUp>) -> Result<Found, ReadError> {
    let rows = ask(connection, &keys).await?;
    let mut in_inbox = Vec::new();
    let mut found = Found {
        id: keys.id,
        snapshot: 0,
        requests: vec![None; keys.requests.len()],
        queueing_locks: vec![None; keys.queueing_locks.len()],
        jobs: vec![JobFound::Unknown; keys.jobs.len()],
        deliveries: vec![None; keys.deliveries.len()],
        locks_before: vec![false; keys.locks_before.len()],
        // Few look-ups ask for it. It may see more than the snapshot, which its reader knows.
        finished: finished(connection, &keys.finished).await?,
    };
    for row in &rows {
        let first: Option<i64> = row.try_get(2)?;
        let at = (row.try_get::<i64, _>(1)? - 1).max(0) as usize;
        match row.try_get::<i32, _>(0)? {
            SNAPSHOT => found.snapshot = first.unwrap_or(0) as u64,
            REQUEST => {
                found.requests[at] = Some(RequestRow {
                    id: keys.requests[at].clone(),
                    digest: row.try_get(4)?,
                    answer: decode_answer(row.try_get(5)?)?,
                });
            }
            QUEUEING_LOCK => found.queueing_locks[at] = first.map(JobId),
            JOB => found.jobs[at] = job_found(row, keys.jobs[at], first)?,
            DELIVERY => found.deliveries[at] = first.map(verdict).transpose()?,
            LOCK_BEFORE => found.locks_before[at] = true,
            IN_INBOX => in_inbox.push((at, first.unwrap_or(0))),
            kind => return Err(StoreError::Corrupt(format!("a key of kind {kind}")).into()),
        }
    }
    if !in_inbox.is_empty() {
        let numbers = in_inbox.iter().map(|(_, number)| *number).collect();
        let rows: Vec<_> = inbox::rows(connection, numbers).await?.into_iter().map(Arc::new).collect();
        for (at, number) in in_inbox {
            let row = rows.iter().find(|row| row.number == number as u64);
            // One that has been taken in since exists; where, the next snapshot knows.
            found.jobs[at] = row.map_or(JobFound::Active, |row| JobFound::Inbox(row.clone()));
        }
    }
    Ok(found)
}

async fn ask(connection: &mut PgConnection, keys: &LookUp) -> Result<Vec<PgRow>, sqlx::Error> {
    let LookUp { id: _, requests, queueing_locks, jobs, deliveries, locks_before, finished: _ } = keys;
    let requests: Vec<&str> = requests.iter().map(AsRef::as_ref).collect();
    if queueing_locks.is_empty() && jobs.is_empty() && deliveries.is_empty() && locks_before.is_empty() {
        return sqlx::query(LOOK_UP_REQUESTS).bind(requests).fetch_all(connection).await;
    }
    sqlx::query(LOOK_UP)
        .bind(requests)
        .bind(queueing_locks.iter().map(AsRef::as_ref).collect::<Vec<&str>>())
        .bind(jobs.iter().map(|job| job.0).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(job, _)| job.0).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(_, delivery)| *delivery as i32).collect::<Vec<_>>())
        .bind(locks_before.iter().map(|(lock, _)| lock.0).collect::<Vec<Uuid>>())
        .bind(locks_before.iter().map(|(_, job)| job.0).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
}

fn job_found(row: &PgRow, id: JobId, newest: Option<i64>) -> Result<JobFound, ReadError> {
    let second: Option<i64> = row.try_get(3)?;
    if let Some((place, record)) = parked(row, 5, id)? {
        let key = PlaceKey { sort: second.unwrap_or(0), id };
        return Ok(JobFound::Parked(ParkedJob { id, place, key, record }));
    }
    Ok(match newest.map(verdict).transpose()? {
        Some(verdict) if verdict.is_final() => JobFound::Final { verdict, delivery: second.unwrap_or(0) as u32 },
        Some(_) | None => JobFound::Active,
    })
}

/// A verdict, as a row holds it.
pub(super) fn verdict(number: i64) -> Result<Verdict, StoreError> {
    let verdict = u8::try_from(number).ok().and_then(Verdict::from_number);
    verdict.ok_or_else(|| StoreError::Corrupt(format!("an unknown verdict {number}")))
}
