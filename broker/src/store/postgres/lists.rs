//! Pages of jobs, for people.

use std::sync::Arc;

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    bounds::{ids_below, ids_of_queue, kept_below, moved_below, newest_outcomes, packed_success},
    error::ReadError,
    inbox,
    jobs::{JOB_COLUMNS, OUTCOME_COLUMNS, job_columns, outcome, outcome_columns, parked, stored},
    look_up::verdict,
    parked_blocks::parked_row,
    time::PgTime,
};
use crate::{
    core::{
        job::Verdict,
        types::{JobId, Timestamp},
    },
    store::{JobView, LIST_ENTRIES_MAX, List, Listed, crashes_of},
};

/// The first look; each that finds too little is followed by a four times bigger one.
const FIRST_LOOK_ENTRIES: u32 = 128;

/// One look at a range of ids: which entries fit, and how far it went. Only what the filters need is read of all
/// entries; the rest of those that fit.
macro_rules! list_query {
    ($name:literal, $($entries:tt)+) => {
        concat!(
            "-- cabbage:",
            $name,
            "\nWITH entry AS MATERIALIZED (SELECT e.id, row_number() OVER () AS rank FROM (",
            $($entries)+,
            ") e), page AS MATERIALIZED (
                SELECT e.id, e.rank FROM entry e
                CROSS JOIN LATERAL (SELECT * FROM job_now r WHERE r.id = e.id LIMIT 1) j
                LEFT JOIN LATERAL (",
            newest_outcomes!(["o.verdict, o.delivery"], "e.id", "1"),
            ") n ON true
                WHERE ($4::text IS NULL OR j.queue = (SELECT x.number FROM queue x WHERE x.name = $4))
                    AND ($5::text IS NULL OR j.task = (SELECT x.number FROM task x WHERE x.name = $5))
                    AND ($6::text IS NULL OR j.lock = $6)
                    AND ($7::text IS NULL OR j.queueing_lock = $7)
                    AND ($8::timestamptz IS NULL OR j.created_at >= $8)
                    AND ($9::timestamptz IS NULL OR j.created_at < $9)
                    AND CASE WHEN n.verdict BETWEEN 1 AND 3 THEN n.verdict = ANY($10::smallint[]) ELSE $11 END
                ORDER BY e.rank LIMIT $3
            )
            SELECT ",
            job_columns!(),
            ", ",
            outcome_columns!(),
            ", p.place, p.record, p.records, s.low, s.entries, g.rank, ARRAY(SELECT v.verdict FROM (",
            newest_outcomes!(["o.verdict, o.delivery"], "g.id", "100"),
            ") v ORDER BY v.delivery DESC)
            FROM (SELECT min(e.id), count(*) FROM entry e) s (low, entries)
            LEFT JOIN (page g
                CROSS JOIN LATERAL (SELECT * FROM job_now r WHERE r.id = g.id LIMIT 1) j
                JOIN queue q ON q.number = j.queue
                JOIN task t ON t.number = j.task
                LEFT JOIN LATERAL ",
            parked_row!("g.id"),
            " p ON true
                LEFT JOIN LATERAL (",
            newest_outcomes!([outcome_columns!()], "g.id", "1"),
            ") o ON true
            ) ON true
            ORDER BY g.rank"
        )
    };
}

const LIST: &str = list_query!("list", ids_below!("id", "job", ""));

const LIST_OF_QUEUE: &str =
    list_query!("list_of_queue", ids_of_queue!("(SELECT x.number FROM queue x WHERE x.name = $4)"));

/// What failed or was cancelled has an index of its own. A job that was opened again may be there twice.
const LIST_UNSUCCESSFUL: &str = list_query!(
    "list_unsuccessful",
    "SELECT DISTINCT o.id FROM (",
    ids_below!("job", "outcome", " AND n.verdict IN (2, 3)"),
    ") o ORDER BY o.id DESC"
);

const PARKED_COLUMN: usize = JOB_COLUMNS + OUTCOME_COLUMNS;

/// A page of jobs, newest first.
pub(super) async fn list(connection: &mut PgConnection, list: Arc<List>) -> Result<Listed, ReadError> {
    // First those that are not taken in: what leaves the inbox meanwhile is met below.
    let mut waiting = inbox::list(connection, &list).await?;
    let mut listed = list_taken_in(connection, &list).await?;
    waiting.retain(|view| listed.next.is_none_or(|next| view.job.id >= next));
    listed.add_waiting(waiting, list.limit);
    Ok(listed)
}

async fn list_taken_in(connection: &mut PgConnection, list: &List) -> Result<Listed, ReadError> {
    let finals = &list.states.finals;
    let unsuccessful = !list.states.unfinished && !finals.contains(&Verdict::Succeeded);
    let sql = match (unsuccessful, &list.queue) {
        (true, _) => LIST_UNSUCCESSFUL,
        (false, Some(_)) => LIST_OF_QUEUE,
        (false, None) => LIST,
    };
    let verdicts: Vec<_> = finals.iter().map(|verdict| *verdict as i16).collect();
    let time = |at: Option<Timestamp>| at.map(PgTime);
    let mut listed = Listed { jobs: Vec::new(), next: None, looked_at: 0 };
    let mut below = list.below.map_or(i64::MAX, |below| below.0);
    let mut look = FIRST_LOOK_ENTRIES.max(list.limit.saturating_add(1));
    loop {
        look = look.min(LIST_ENTRIES_MAX - listed.looked_at);
        let wanted = (list.limit as usize).saturating_sub(listed.jobs.len());
        if wanted == 0 || look == 0 {
            listed.next = Some(JobId(below));
            return Ok(listed);
        }
        let rows = sqlx::query(sql)
            .bind(below)
            .bind(i64::from(look))
            .bind(wanted as i64)
            .bind(list.queue.as_deref())
            .bind(list.task.as_deref())
            .bind(list.lock.as_deref())
            .bind(list.queueing_lock.as_deref())
            .bind(time(list.created_from))
            .bind(time(list.created_until))
            .bind(&verdicts)
            .bind(list.states.unfinished)
            .fetch_all(&mut *connection)
            .await?;
        let (mut entries, mut rank) = (0, 0);
        for row in &rows {
            let Some(low) = row.try_get::<Option<i64>, _>(PARKED_COLUMN + 3)? else { break };
            below = low;
            entries = row.try_get::<i64, _>(PARKED_COLUMN + 4)?;
            let Some(at) = row.try_get::<Option<i64>, _>(PARKED_COLUMN + 5)? else { break };
            rank = at;
            let newest = row.try_get::<Option<i64>, _>(JOB_COLUMNS)?;
            let job = stored(row)?;
            listed.jobs.push(JobView {
                outcomes: newest.map(|_| outcome(row, JOB_COLUMNS)).transpose()?.into_iter().collect(),
                crashes: crashes_of(verdicts_of(row)?),
                parked: parked(row, PARKED_COLUMN, job.id)?,
                job,
                in_inbox: false,
            });
        }
        let full = listed.jobs.len() >= list.limit as usize;
        if full && rank < entries {
            // More entries were read; the next page begins behind the last that was shown.
            listed.looked_at += rank as u32;
            listed.next = listed.jobs.last().map(|view| view.job.id);
            return Ok(listed);
        }
        listed.looked_at += entries as u32;
        // In the index of what failed, a look may have met one job twice: only an empty one is the end.
        if entries == 0 || (!unsuccessful && entries < i64::from(look)) {
            return Ok(listed);
        }
        look = look.saturating_mul(4);
    }
}

/// What ended the newest deliveries of the job of a row, newest first.
fn verdicts_of(row: &PgRow) -> Result<Vec<Verdict>, ReadError> {
    let numbers = row.try_get::<Vec<i16>, _>(PARKED_COLUMN + 6)?;
    Ok(numbers.into_iter().map(|number| verdict(i64::from(number))).collect::<Result<_, _>>()?)
}
