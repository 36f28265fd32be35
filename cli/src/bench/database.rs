//! What the database itself says about a measurement: read on a connection of our own.

use std::collections::BTreeMap;

use anyhow::Context as _;
use cabbage_migrations::Schema;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

/// Settings that decide what figures mean.
const SETTINGS: [&str; 9] = [
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_compression",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
];

/// The database under a cell.
#[derive(Debug)]
pub(crate) struct Database {
    connection: PgConnection,
    schema: Schema,
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Bytes of WAL ever written.
    pub(crate) wal: i64,
    /// The last row of the log: one per commit.
    pub(crate) log: i64,
}

/// What the tables say at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finals {
    /// Jobs that exist.
    pub(crate) jobs: i64,
    /// Of them, how many have succeeded.
    pub(crate) succeeded: i64,
    /// Outcomes that there are beyond one success for each job.
    pub(crate) surplus: i64,
    /// Of these, how many were no attempt: deliveries that came back unstarted.
    pub(crate) returned: i64,
}

impl Database {
    pub(crate) async fn connect(url: &str, schema: Schema) -> anyhow::Result<Self> {
        let connection = PgConnection::connect(url).await.context("cannot connect to the database")?;
        Ok(Self { connection, schema })
    }

    pub(crate) async fn reading(&mut self) -> anyhow::Result<Reading> {
        let sql = format!(
            "-- cabbage:bench_reading\nSELECT (pg_current_wal_insert_lsn() - '0/0')::bigint, \
             coalesce((SELECT max(number) FROM {}.log), 0)",
            self.schema.quoted()
        );
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut self.connection).await?;
        Ok(Reading { wal: row.try_get(0)?, log: row.try_get(1)? })
    }

    /// The bytes of facts in the log after one reading, up to another.
    pub(crate) async fn fact_bytes(&mut self, after: Reading, up_to: Reading) -> anyhow::Result<i64> {
        let sql = format!(
            "-- cabbage:bench_facts\nSELECT coalesce(sum(length(facts)), 0)::bigint FROM {}.log \
             WHERE number > $1 AND number <= $2",
            self.schema.quoted()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(after.log).bind(up_to.log);
        Ok(query.fetch_one(&mut self.connection).await?.try_get(0)?)
    }

    /// What became of the jobs of this queue.
    pub(crate) async fn finals(&mut self, queue: &str, ids: (i64, i64)) -> anyhow::Result<Finals> {
        let schema = self.schema.quoted();
        let sql = format!(
            "-- cabbage:bench_finals\nSELECT count(DISTINCT j.id), count(DISTINCT o.job) FILTER (WHERE o.verdict = 1), \
             count(o.job), count(o.job) FILTER (WHERE o.verdict = 6) \
             FROM {schema}.job j JOIN {schema}.queue q ON q.number = j.queue LEFT JOIN {schema}.outcome_now o ON o.job = j.id WHERE q.name = $1 AND j.id BETWEEN $2 AND $3"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(queue).bind(ids.0).bind(ids.1);
        let row = query.fetch_one(&mut self.connection).await?;
        let (jobs, succeeded, outcomes): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(Finals { jobs, succeeded, surplus: outcomes - succeeded, returned: row.try_get(3)? })
    }

    pub(crate) async fn settings(&mut self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut settings = BTreeMap::new();
        for name in SETTINGS {
            let query = sqlx::query("-- cabbage:bench_setting\nSELECT current_setting($1)").bind(name);
            settings.insert(name.to_owned(), query.fetch_one(&mut self.connection).await?.try_get(0)?);
        }
        Ok(settings)
    }

    /// Does at once what the server would do by itself within minutes, in the middle of a measurement. The bench of the
    /// peers does it for each of them too.
    pub(crate) async fn settle(&mut self) -> anyhow::Result<()> {
        sqlx::query("VACUUM (ANALYZE)").execute(&mut self.connection).await?;
        self.checkpoint().await
    }

    /// Writes all dirty pages out, so that one phase does not pay for another.
    pub(crate) async fn checkpoint(&mut self) -> anyhow::Result<()> {
        sqlx::query("CHECKPOINT").execute(&mut self.connection).await?;
        Ok(())
    }

    /// Begins a transaction with an id and a snapshot that has seen every job.
    pub(crate) async fn open_transaction(&mut self) -> anyhow::Result<()> {
        sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ").execute(&mut self.connection).await?;
        let sql = format!(
            "-- cabbage:bench_old_snapshot\nSELECT pg_current_xact_id()::text, count(*) FROM {}.job",
            self.schema.quoted()
        );
        sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut self.connection).await?;
        Ok(())
    }

    /// Ends the connection, and what it has open.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        Ok(self.connection.close().await?)
    }
}
