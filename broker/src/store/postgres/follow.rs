//! What a follower reads: the newest checkpoint, and the log after it.

use std::sync::Arc;

use sqlx::{Connection, PgConnection, Row};

use super::error::ReadError;
use crate::store::{
    Checkpoint, LogPosition, LogRow, StoreError,
    format::{HIGHEST, decode_facts},
};

/// Begins to read several statements in one snapshot. On a task that is never cancelled only.
pub(super) const SNAPSHOT: &str = "-- cabbage:snapshot\nBEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// The newest complete checkpoint.
pub(super) async fn load(connection: &mut PgConnection) -> Result<Option<Checkpoint>, ReadError> {
    let mut snapshot = connection.begin_with(SNAPSHOT).await?;
    let newest = sqlx::query(
        "-- cabbage:newest_checkpoint
        SELECT c.number, c.nonce, c.chunk FROM checkpoint c WHERE c.is_last ORDER BY c.number DESC LIMIT 1",
    )
    .fetch_optional(&mut *snapshot)
    .await?;
    let Some(newest) = newest else {
        snapshot.commit().await?;
        return Ok(None);
    };
    let (number, nonce, last): (i64, i64, i32) = (newest.try_get(0)?, newest.try_get(1)?, newest.try_get(2)?);
    let chunks = sqlx::query(
        "-- cabbage:checkpoint_chunks\nSELECT c.chunk, c.data FROM checkpoint c WHERE c.number = $1 ORDER BY c.chunk",
    )
    .bind(number)
    .fetch_all(&mut *snapshot)
    .await?;
    snapshot.commit().await?;
    let mut data = Vec::new();
    for (expected, row) in (0..=last).zip(&chunks) {
        if row.try_get::<i32, _>(0)? != expected {
            return Err(StoreError::Corrupt(format!("chunk {expected} of checkpoint {number} is missing")).into());
        }
        data.extend_from_slice(row.try_get::<&[u8], _>(1)?);
    }
    if chunks.len() as i64 != i64::from(last) + 1 {
        return Err(StoreError::Corrupt(format!("checkpoint {number} has {} chunks", chunks.len())).into());
    }
    let position = LogPosition { number: number as u64, nonce: nonce as u64 };
    Ok(Some(Checkpoint { position, data: data.into() }))
}

/// The rows of the log after this one, which must still be what it was.
pub(super) async fn follow(
    connection: &mut PgConnection,
    after: LogPosition,
    limit: u32,
) -> Result<Vec<LogRow>, ReadError> {
    let rows = sqlx::query(
        "-- cabbage:follow
        SELECT l.number, l.nonce, l.after_nonce, l.term, l.state_hash,
            CASE WHEN l.number > $1 THEN l.facts ELSE '' END
        FROM log l WHERE l.number >= $1 ORDER BY l.number LIMIT $2",
    )
    .bind(after.number as i64)
    .bind(i64::from(limit) + 1)
    .fetch_all(connection)
    .await?;
    let mut before = LogPosition::default();
    let mut follows = Vec::with_capacity(rows.len());
    for row in &rows {
        let integer = |column: usize| row.try_get::<i64, _>(column).map(|value| value as u64);
        let position = LogPosition { number: integer(0)?, nonce: integer(1)? };
        if position.number == after.number {
            before = position;
            continue;
        }
        if before != after {
            return Err(StoreError::LogChanged.into());
        }
        if follows.len() == limit as usize {
            break;
        }
        let last = follows.last().map_or(before, |row: &LogRow| row.position);
        if follows.is_empty() && position.number != last.number + 1 {
            // The rows in between have been dropped: there is a checkpoint instead.
            return Err(StoreError::LogChanged.into());
        }
        if position.number != last.number + 1 || integer(2)? != last.nonce {
            return Err(
                StoreError::Corrupt(format!("log row {} does not follow its predecessor", position.number)).into()
            );
        }
        let (format, facts) = decode_facts(row.try_get(5)?, HIGHEST)?;
        follows.push(LogRow {
            position,
            term: integer(3)?,
            format,
            facts: Arc::new(facts),
            state_hash: row.try_get::<Option<i64>, _>(4)?.map(|hash| hash as u64),
        });
    }
    if before == after { Ok(follows) } else { Err(StoreError::LogChanged.into()) }
}
