//! What the rows of final jobs say, for opening them again.

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    bounds::{kept_below, moved_below, newest_outcomes, packed_success},
    error::ReadError,
    look_up::verdict,
};
use crate::{
    core::{
        batch::Changed,
        effect::FinishedJob,
        job::Rare,
        types::{JobId, LockId, QueueNo, Stream, TaskNo},
    },
    store::format::decode_options,
};

/// Each job by itself, as everywhere (`LIMIT`). What retries changed has an index of its own, so that a job that was
/// tried again a million times costs no more than others; and a job that ever started did so early in its story.
const FINISHED: &str = concat!(
    "-- cabbage:finished
SELECT k.place, j.queue, j.task, j.priority, octet_length(j.args), j.lock, j.queueing_lock, j.options,
    o.verdict, o.delivery,
    (SELECT x.changed_queue FROM (",
    newest_outcomes!(["o.delivery, o.changed_queue"], "k.job", "1", " AND o.changed_queue IS NOT NULL"),
    ") x),
    (SELECT x.changed_priority FROM (",
    newest_outcomes!(["o.delivery, o.changed_priority"], "k.job", "1", " AND o.changed_priority IS NOT NULL"),
    ") x),
    (SELECT x.changed_lock FROM (",
    newest_outcomes!(["o.delivery, o.changed_lock"], "k.job", "1", " AND o.changed_lock IS NOT NULL"),
    ") x),
    EXISTS (",
    newest_outcomes!(["o.delivery"], "k.job", "1", " AND o.changed_lock = ''"),
    "),
    EXISTS (",
    newest_outcomes!(["o.delivery"], "k.job", "1", " AND o.started_at IS NOT NULL"),
    ")
FROM unnest($1::bigint[]) WITH ORDINALITY k (job, place)
CROSS JOIN LATERAL (SELECT * FROM job_now q WHERE q.id = k.job LIMIT 1) j
CROSS JOIN LATERAL (",
    newest_outcomes!(["o.verdict, o.delivery"], "k.job", "1"),
    ") o
WHERE o.verdict IN (1, 2, 3)"
);

/// What the rows of these jobs say, in their order; `None`: it is not final.
pub(super) async fn finished(
    connection: &mut PgConnection,
    jobs: &[JobId],
) -> Result<Vec<Option<Box<FinishedJob>>>, ReadError> {
    let mut found = vec![None; jobs.len()];
    if jobs.is_empty() {
        return Ok(found);
    }
    let ids: Vec<_> = jobs.iter().map(|job| job.0).collect();
    for row in &sqlx::query(FINISHED).bind(ids).fetch_all(connection).await? {
        found[(row.try_get::<i64, _>(0)? - 1).max(0) as usize] = Some(Box::new(finished_job(row)?));
    }
    Ok(found)
}

fn finished_job(row: &PgRow) -> Result<FinishedJob, ReadError> {
    let text = |column: usize| row.try_get::<Option<&str>, _>(column);
    let options = match row.try_get::<Option<&[u8]>, _>(7)? {
        Some(options) => decode_options(options)?,
        None => Rare::default(),
    };
    Ok(FinishedJob {
        stream: Stream {
            queue: QueueNo(row.try_get::<i32, _>(1)? as u32),
            task: TaskNo(row.try_get::<i32, _>(2)? as u32),
            priority: row.try_get::<i16, _>(3)? as i8,
        },
        args_bytes: row.try_get::<i32, _>(4)? as u32,
        rare: Rare { lock: text(5)?.map(LockId::of), queueing_lock: text(6)?.map(Into::into), ..options },
        verdict: verdict(i64::from(row.try_get::<i16, _>(8)?))?,
        delivery: row.try_get::<i32, _>(9)? as u32,
        changed: Changed {
            queue: text(10)?.map(Into::into),
            priority: row.try_get::<Option<i16>, _>(11)?.map(|priority| priority as i8),
            lock: text(12)?.map(Into::into),
        },
        was_unlocked: row.try_get(13)?,
        has_started: row.try_get(14)?,
    })
}
