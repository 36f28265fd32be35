//! Jobs of long ago, and what the tables say of them.

use anyhow::{Context as _, bail};
use cabbage_migrations::Schema;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _, postgres::PgRow};

use super::STRAGGLER;

/// How many jobs one statement writes.
const CHUNK_JOBS: i64 = 250_000;
/// One of so many has failed.
const ONE_FAILED_OF: i64 = 1_000;

/// The tables of the cell that is measured.
pub(in crate::bench) struct History {
    connection: PgConnection,
    schema: String,
}

/// What was written.
pub(in crate::bench) struct Past {
    /// The first id of the next partition.
    pub(super) boundary: i64,
    /// Of the finished jobs, how many have failed: they are kept for longer.
    pub(super) failed: i64,
    /// What the partition takes.
    pub(super) freed_bytes: i64,
}

/// How far retention has come.
pub(super) struct Bounds {
    pub(super) kept_below: i64,
    pub(super) moved_below: i64,
}

impl History {
    pub(in crate::bench) async fn connect(url: &str, schema: &Schema) -> anyhow::Result<Self> {
        let connection = PgConnection::connect(url).await.context("cannot connect to the database")?;
        Ok(Self { connection, schema: schema.quoted() })
    }

    /// Closes the partition that is in use, and writes finished jobs behind those that are in it.
    pub(in crate::bench) async fn write(&mut self, jobs: i64) -> anyhow::Result<Past> {
        let schema = self.schema.clone();
        let row = self
            .one(format!(
                "WITH used AS MATERIALIZED (SELECT last_value AS last, last_value >> 24 AS part FROM {schema}.job_id)
                SELECT last, part, setval('{schema}.job_id', (part + 1) << 24, false) FROM used"
            ))
            .await?;
        let (last, part, boundary): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let first = last + 1;
        if first + jobs > boundary {
            bail!("{jobs} finished jobs do not fit behind {last} into one partition");
        }
        // As if it were frozen and indexed, so that nothing is done for it before that is measured.
        self.run(format!(
            "INSERT INTO {schema}.closed_partition (part, closed_at, moved_to, frozen_at, indexed_at)
            VALUES ({part}, now(), {part}::bigint << 24, now(), now())
            ON CONFLICT (part) DO UPDATE SET frozen_at = now(), indexed_at = now()"
        ))
        .await?;
        let mut written = 0;
        while written < jobs {
            let (from, to) = (first + written, first + (written + CHUNK_JOBS).min(jobs) - 1);
            self.run(format!(
                "INSERT INTO {schema}.job (id, created_at, queue, task, priority, args)
                SELECT n, now() - interval '9 days', 0, 0, 0, '{{\"pad\":\"' || repeat('x', 90) || '\"}}'
                FROM generate_series({from}::bigint, {to}) n"
            ))
            .await?;
            // As the store writes them: plain successes are packed.
            self.run(format!(
                "INSERT INTO {schema}.outcome (job, started_at, finished_at, delivery, attempt, verdict, session)
                SELECT n, now() - interval '8 days', now() - interval '8 days', 1, 1, 2, gen_random_uuid()
                FROM generate_series({from}::bigint, {to}) n WHERE n % {ONE_FAILED_OF} = 0"
            ))
            .await?;
            self.run(format!(
                "INSERT INTO {schema}.success (first, finished_at, places, took, sessions)
                SELECT min(n), now() - interval '8 days', array_agg((n & 127)::smallint ORDER BY n),
                    array_agg(1000), ARRAY[gen_random_uuid()]
                FROM generate_series({from}::bigint, {to}) n WHERE n % {ONE_FAILED_OF} <> 0 GROUP BY n / 128"
            ))
            .await?;
            written = to - first + 1;
        }
        let failed = (first + jobs - 1) / ONE_FAILED_OF - (first - 1) / ONE_FAILED_OF;
        let row = self
            .one(format!(
                "SELECT sum(pg_total_relation_size(('{schema}.' || kind || '_{part}')::regclass))::bigint
                FROM unnest(ARRAY['job', 'outcome', 'success']) kind"
            ))
            .await?;
        Ok(Past { boundary, failed, freed_bytes: row.try_get(0)? })
    }

    /// Makes the closed partition as old as its jobs.
    pub(super) async fn age(&mut self) -> anyhow::Result<()> {
        let sql = format!("UPDATE {}.closed_partition SET closed_at = now() - interval '8 days'", self.schema);
        self.run(sql).await
    }

    /// From now on the closed partition is to be frozen and indexed.
    pub(super) async fn want_upkeep(&mut self) -> anyhow::Result<()> {
        self.run(format!("UPDATE {}.closed_partition SET frozen_at = NULL, indexed_at = NULL", self.schema)).await
    }

    /// Whether the closed partition is frozen and indexed.
    pub(super) async fn is_kept_up(&mut self) -> anyhow::Result<bool> {
        let sql = format!(
            "SELECT count(*) FILTER (WHERE frozen_at IS NULL OR indexed_at IS NULL) = 0 FROM {}.closed_partition",
            self.schema
        );
        Ok(self.one(sql).await?.try_get(0)?)
    }

    /// Makes the server tell of locks that are waited for, and answers which process commits.
    pub(super) async fn log_locks(&mut self) -> anyhow::Result<u32> {
        for sql in ["log_lock_waits = on", "deadlock_timeout = '10ms'", "log_checkpoints = on"] {
            self.run(format!("ALTER SYSTEM SET {sql}")).await?;
        }
        self.run("SELECT pg_reload_conf()".to_owned()).await?;
        let row = self.one(format!("SELECT pid FROM {}.fence WHERE writer = 1", self.schema)).await?;
        Ok(row.try_get::<i32, _>(0)?.try_into()?)
    }

    pub(super) async fn bounds(&mut self) -> anyhow::Result<Bounds> {
        let row = self.one(format!("SELECT kept_below, moved_below FROM {}.retention", self.schema)).await?;
        Ok(Bounds { kept_below: row.try_get(0)?, moved_below: row.try_get(1)? })
    }

    /// Begins a transaction that has read every table, and stays open.
    pub(super) async fn begin_to_read(&mut self) -> anyhow::Result<()> {
        self.run("BEGIN ISOLATION LEVEL REPEATABLE READ".to_owned()).await?;
        let schema = &self.schema;
        let read = ["job", "outcome", "success", "log"].map(|table| format!("EXISTS (SELECT FROM {schema}.{table})"));
        self.run(format!("SELECT {}", read.join(", "))).await
    }

    pub(super) async fn end_to_read(&mut self) -> anyhow::Result<()> {
        self.run("ROLLBACK".to_owned()).await
    }

    /// Whether the tables of the old partition are gone.
    pub(super) async fn is_dropped(&mut self) -> anyhow::Result<bool> {
        let schema = &self.schema;
        let sql = format!(
            "SELECT NOT EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                WHERE i.inhparent IN ('{schema}.job'::regclass, '{schema}.outcome'::regclass,
                        '{schema}.success'::regclass)
                    AND {schema}.part_of(c.relname) < (SELECT moved_below >> 24 FROM {schema}.retention))"
        );
        Ok(self.one(sql).await?.try_get(0)?)
    }

    /// How many jobs were copied, and how many old ones the view still shows. Ids that the broker had drawn before the
    /// partition was closed went to the load; they do not count.
    pub(super) async fn left(&mut self, boundary: i64) -> anyhow::Result<(i64, i64)> {
        let schema = &self.schema;
        let sql = format!(
            "SELECT (SELECT sum(moved_jobs)::bigint FROM {schema}.closed_partition),
                (SELECT count(*) FROM {schema}.jobs WHERE id < {boundary} AND queue = '{STRAGGLER}')"
        );
        let row = self.one(sql).await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    async fn run(&mut self, sql: String) -> anyhow::Result<()> {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut self.connection).await?;
        Ok(())
    }

    async fn one(&mut self, sql: String) -> anyhow::Result<PgRow> {
        Ok(sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut self.connection).await?)
    }
}
