//! How far retention has come, for people.

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{error::ReadError, time::PgTime};
use crate::{
    core::types::JobId,
    store::{Holder, Partition, PartitionState, RetentionNow, StoreError},
};

/// How many partitions are shown, and how many transactions that hold one of them up.
const PARTITIONS_MAX: i64 = 1_000;
const HOLDERS_MAX: usize = 10;

const BOUNDS: &str = "-- cabbage:retention_bounds\nSELECT r.kept_below, r.moved_below FROM retention r";

const PARTITIONS: &str = "-- cabbage:partitions
SELECT p.first_id, p.end_id, p.state, p.bytes, p.closed_at, p.frozen_at, p.indexed_at, p.moved_jobs
FROM partitions p ORDER BY p.part LIMIT $1";

const HOLDERS: &str = "-- cabbage:drop_waits_for
SELECT w.part << 24, w.pid, coalesce(w.usename, ''), coalesce(w.application_name, ''), w.xact_start
FROM drop_waits_for w ORDER BY w.part, w.xact_start";

pub(super) async fn now(connection: &mut PgConnection) -> Result<RetentionNow, ReadError> {
    let bounds = sqlx::query(BOUNDS).fetch_one(&mut *connection).await?;
    let rows = sqlx::query(PARTITIONS).bind(PARTITIONS_MAX).fetch_all(&mut *connection).await?;
    let mut partitions = rows.iter().map(partition).collect::<Result<Vec<_>, _>>()?;
    if partitions.iter().any(|partition| partition.state == PartitionState::Dropping) {
        for row in &sqlx::query(HOLDERS).fetch_all(connection).await? {
            let first: i64 = row.try_get(0)?;
            let holder = Holder {
                pid: row.try_get(1)?,
                user: row.try_get(2)?,
                application: row.try_get(3)?,
                since: row.try_get::<PgTime, _>(4)?.0,
            };
            let waiting = partitions.iter_mut().find(|partition| partition.ids.start == first);
            if let Some(waiting) = waiting.filter(|partition| partition.waits_for.len() < HOLDERS_MAX) {
                waiting.waits_for.push(holder);
            }
        }
    }
    let bound = |column: usize| bounds.try_get(column).map(JobId);
    Ok(RetentionNow { kept_below: bound(0)?, moved_below: bound(1)?, partitions })
}

fn partition(row: &PgRow) -> Result<Partition, ReadError> {
    let at = |column: usize| Ok::<_, sqlx::Error>(row.try_get::<Option<PgTime>, _>(column)?.map(|at| at.0));
    let state = match row.try_get::<&str, _>(2)? {
        "ahead" => PartitionState::Ahead,
        "open" => PartitionState::Open,
        "closed" => PartitionState::Closed,
        "moving" => PartitionState::Moving,
        "dropping" => PartitionState::Dropping,
        other => return Err(StoreError::Corrupt(format!("a partition is {other}")).into()),
    };
    Ok(Partition {
        ids: row.try_get(0)?..row.try_get(1)?,
        state,
        bytes: row.try_get::<i64, _>(3)? as u64,
        closed: at(4)?,
        frozen: at(5)?,
        indexed: at(6)?,
        moved_jobs: row.try_get::<i64, _>(7)? as u64,
        waits_for: Vec::new(),
    })
}
