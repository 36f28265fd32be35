//! Keeps closed partitions in order: their rows frozen, their jobs in an index by queue (storage.md, rule 11).
//!
//! Both are done outside of transactions, take minutes, and lock out nobody but each other and a `DROP`, which comes
//! again. So they have a connection of their own, without a deadline, that lives while there is work. Whoever drops it
//! closes it, and the server, which looks at it twice a second, ends what it was at. What is done, the tables and the
//! catalog say; an index that a broken try left behind is not valid, and is removed.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use futures::FutureExt;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{
    connect::Role,
    dial::Dialer,
    error::{ReadError, read_error},
    readers::Readers,
};
use crate::store::{StoreError, Upkeep, Upkept};

const DUE: &str = "-- cabbage:upkeep_due\nSELECT part, work FROM upkeep_due()";

/// The way to keep closed partitions in order.
pub(super) struct PgUpkeep {
    dialer: Dialer,
    readers: Arc<Readers>,
    connection: Option<PgConnection>,
    statements: Arc<AtomicU64>,
}

/// What is to be done for a partition.
#[derive(Clone, Copy, Debug)]
enum Work {
    Freeze,
    Index,
    /// The index is there; that is to be noted.
    Note,
    Unindex,
}

impl PgUpkeep {
    pub(super) fn new(dialer: Dialer, readers: Arc<Readers>, statements: Arc<AtomicU64>) -> Self {
        Self { dialer, readers, connection: None, statements }
    }

    async fn execute(&mut self, sql: String) -> Result<(), StoreError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.dialer.dial(Role::Upkeep).await.map_err(StoreError::from)?.connection,
        };
        self.statements.fetch_add(1, Ordering::Relaxed);
        // After an error it is closed: the next try begins anew.
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.map_err(read_error)?;
        self.connection = Some(connection);
        Ok(())
    }
}

#[async_trait]
impl Upkeep for PgUpkeep {
    async fn next(&mut self) -> Result<Option<Upkept>, StoreError> {
        let Some((part, work)) = self.readers.read(|connection| due(connection).boxed()).await? else {
            self.connection = None;
            return Ok(None);
        };
        let note = |column: &str| {
            format!(
                "-- cabbage:upkeep_done\nUPDATE closed_partition SET {column} = clock_timestamp() WHERE part = {part}"
            )
        };
        Ok(Some(match work {
            Work::Freeze => {
                // An empty end is left as it is: to cut it off would lock everybody out.
                let sql = format!(
                    "-- cabbage:freeze\nVACUUM (FREEZE, ANALYZE, TRUNCATE off) outcome_{part}, success_{part}, job_{part}"
                );
                self.execute(sql).await?;
                self.execute(note("frozen_at")).await?;
                Upkept::Frozen(part)
            }
            Work::Index => {
                let sql = format!(
                    "-- cabbage:index\nCREATE INDEX CONCURRENTLY job_{part}_by_queue ON job_{part} (queue, id)"
                );
                self.execute(sql).await?;
                self.execute(note("indexed_at")).await?;
                Upkept::Indexed(part)
            }
            Work::Note => {
                self.execute(note("indexed_at")).await?;
                Upkept::Indexed(part)
            }
            Work::Unindex => {
                let sql = format!("-- cabbage:unindex\nDROP INDEX CONCURRENTLY job_{part}_by_queue");
                self.execute(sql).await?;
                Upkept::Cleared(part)
            }
        }))
    }
}

async fn due(connection: &mut PgConnection) -> Result<Option<(i64, Work)>, ReadError> {
    let row = sqlx::query(DUE).fetch_one(connection).await?;
    let Some(part) = row.try_get::<Option<i64>, _>(0)? else { return Ok(None) };
    let work = match row.try_get::<&str, _>(1)? {
        "freeze" => Work::Freeze,
        "index" => Work::Index,
        "note" => Work::Note,
        "unindex" => Work::Unindex,
        other => return Err(StoreError::Corrupt(format!("upkeep is due as {other}")).into()),
    };
    Ok(Some((part, work)))
}
