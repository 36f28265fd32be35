//! Partitions, made before they are needed (storage.md, rule 11).

use super::{error::commit_error, session::Session};
use crate::store::CommitError;

/// How many partitions of each table are there beyond the present one.
pub(super) const PARTITIONS_AHEAD: i32 = 2;

/// Makes the partitions of these ids, of this row of the log and of today, and `ahead` more of each.
pub(super) async fn add_partitions(
    session: &mut Session,
    mut ids: Vec<i64>,
    log_number: u64,
    ahead: i32,
) -> Result<(), CommitError> {
    // One id of each partition says it all.
    ids.sort_unstable();
    ids.dedup_by_key(|id| *id >> 24);
    let query = sqlx::query("-- cabbage:add_partitions\nSELECT add_partitions_1($1, $2, $3, $4, $5, $6)");
    let query = session.fence.bind(query).bind(ids).bind(log_number as i64).bind(ahead);
    session.run(query).await.map(drop).map_err(commit_error)
}
