//! Parked jobs, by range.

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::error::ReadError;
use crate::{
    core::{
        effect::{Fetch, Fetched},
        place::{ParkedJob, Place, PlaceKey},
        types::JobId,
    },
    store::format::{decode_record, encode_place},
};

/// One range of one place, with the number of the log's newest row in the same snapshot. One row more than asked for
/// says what comes next.
const FETCH: &str = "-- cabbage:fetch
SELECT s.number, p.sort, p.job, p.record
FROM (SELECT coalesce((SELECT l.number FROM log l ORDER BY l.number DESC LIMIT 1), 0)) s (number)
LEFT JOIN LATERAL (
    SELECT q.sort, q.job, q.record FROM parked q
    WHERE q.place = $1 AND (q.sort, q.job) >= ($2, $3)
    ORDER BY q.place, q.sort, q.job LIMIT $4
) p ON true";

/// Fetches a range of a place.
pub(super) async fn fetch(connection: &mut PgConnection, fetch: Fetch) -> Result<Fetched, ReadError> {
    let rows = sqlx::query(FETCH)
        .bind(encode_place(fetch.place))
        .bind(fetch.from.sort)
        .bind(fetch.from.id.0)
        .bind(i64::from(fetch.limit) + 1)
        .fetch_all(connection)
        .await?;
    let due_until = if matches!(fetch.place, Place::Due(_)) { fetch.until.0 } else { i64::MAX };
    let mut fetched = Fetched { id: fetch.id, snapshot: 0, jobs: Vec::with_capacity(rows.len()), next: None };
    for row in &rows {
        fetched.snapshot = row.try_get::<i64, _>(0)? as u64;
        let Some(key) = key(row)? else { break };
        if fetched.jobs.len() == fetch.limit as usize || key.sort > due_until {
            fetched.next = Some(key);
            break;
        }
        let record = decode_record(row.try_get(3)?)?;
        fetched.jobs.push(ParkedJob { id: key.id, place: fetch.place, key, record });
    }
    Ok(fetched)
}

fn key(row: &PgRow) -> Result<Option<PlaceKey>, sqlx::Error> {
    let (sort, id): (Option<i64>, Option<i64>) = (row.try_get(1)?, row.try_get(2)?);
    Ok(sort.zip(id).map(|(sort, id)| PlaceKey { sort, id: JobId(id) }))
}
