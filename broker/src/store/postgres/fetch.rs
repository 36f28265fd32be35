//! Parked jobs, by range.

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    error::ReadError,
    parked_blocks::{block_of, first_of, present},
};
use crate::{
    core::{
        effect::{Fetch, Fetched},
        place::{ParkedJob, Place, PlaceKey},
        types::JobId,
    },
    store::format::{decode_record, encode_place},
};

/// One range of one place, with the number of the log's newest row in the same snapshot: rows of one job, of which one
/// more than asked for says what comes next; and then rows of many, so many, and all of the last one's block.
const FETCH: &str = "-- cabbage:fetch
SELECT s.number, p.sort, p.job, p.record, p.block, p.present
FROM (SELECT coalesce((SELECT l.number FROM log l ORDER BY l.number DESC LIMIT 1), 0)) s (number)
LEFT JOIN LATERAL (
    (SELECT q.sort, q.job, q.record, NULL::bigint AS block, NULL::bigint AS present FROM parked q
    WHERE q.place = $1 AND (q.sort, q.job) >= ($2, $3)
    ORDER BY q.place, q.sort, q.job LIMIT $4)
    UNION ALL
    (SELECT NULL, NULL, q.records, q.block, q.present FROM parked_block q
    WHERE q.place = $1 AND q.block >= $5 AND q.block <= (SELECT max(n.block) FROM (
        SELECT m.block FROM parked_block m
        WHERE m.place = $1 AND m.block >= $5 ORDER BY m.place, m.block, m.number LIMIT $6) n)
    ORDER BY q.place, q.block, q.number)
) p ON true";

/// How many jobs a row of many has at least, most often: so few rows are asked for.
const BLOCK_JOBS_LEAST: u32 = 16;

/// Fetches a range of a place.
pub(super) async fn fetch(connection: &mut PgConnection, fetch: Fetch) -> Result<Fetched, ReadError> {
    let Fetch { id, place, from, until, limit } = fetch;
    let blocks = i64::from(limit.div_ceil(BLOCK_JOBS_LEAST));
    let rows = sqlx::query(FETCH)
        .bind(encode_place(place))
        .bind(from.sort)
        .bind(from.id.0)
        .bind(i64::from(limit) + 1)
        .bind(block_of(from.id))
        .bind(blocks)
        .fetch_all(connection)
        .await?;
    let mut fetched = Fetched { id, snapshot: 0, jobs: Vec::with_capacity(limit as usize + 1), next: None };
    let limit = limit as usize;
    // What came is complete up to here only. It begins with jobs that have a row of their own.
    let mut end: Option<PlaceKey> = None;
    let (mut shared_rows, mut shared_jobs, mut last_block) = (0, 0, 0);
    for row in &rows {
        fetched.snapshot = row.try_get::<i64, _>(0)? as u64;
        if let Some(key) = key(row)? {
            if fetched.jobs.len() == limit {
                end = Some(key);
            } else {
                let record = decode_record(row.try_get(3)?)?;
                fetched.jobs.push(ParkedJob { id: key.id, place, key, record });
            }
        } else if let Some(block) = row.try_get(4)? {
            if shared_jobs > limit && block != last_block {
                end = sooner(end, first_of(block));
                break;
            }
            last_block = block;
            shared_rows += 1;
            if shared_rows == blocks {
                end = sooner(end, first_of(block + 1));
            }
            let shared = present(place, block, row.try_get(5)?, row.try_get(3)?)?;
            shared_jobs += shared.len();
            fetched.jobs.extend(shared);
        }
    }
    fetched.jobs.retain(|job| job.key >= from);
    fetched.jobs.sort_unstable_by_key(|job| job.key);
    let due_until = if matches!(place, Place::Due(_)) { until.0 } else { i64::MAX };
    let complete = fetched.jobs.partition_point(|job| end.is_none_or(|end| job.key < end) && job.key.sort <= due_until);
    let taken = if complete > limit { whole_blocks(&fetched.jobs, limit) } else { complete };
    let following = fetched.jobs.get(taken).map(|job| job.key);
    fetched.next = following.into_iter().chain(end).min();
    fetched.jobs.truncate(taken);
    Ok(fetched)
}

fn sooner(end: Option<PlaceKey>, first: JobId) -> Option<PlaceKey> {
    end.into_iter().chain([PlaceKey { sort: 0, id: first }]).min()
}

/// How many jobs to take, at most so many, and fewer than there are: what shares a row leaves together, if that is not
/// far fewer.
fn whole_blocks(jobs: &[ParkedJob], limit: usize) -> usize {
    let block = block_of(jobs[limit].id);
    let whole = jobs[..limit].iter().rposition(|job| block_of(job.id) != block).map_or(0, |at| at + 1);
    if whole > limit / 2 { whole } else { limit }
}

fn key(row: &PgRow) -> Result<Option<PlaceKey>, sqlx::Error> {
    let (sort, id): (Option<i64>, Option<i64>) = (row.try_get(1)?, row.try_get(2)?);
    Ok(sort.zip(id).map(|(sort, id)| PlaceKey { sort, id: JobId(id) }))
}
