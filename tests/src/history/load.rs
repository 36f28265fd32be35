//! Reads what the database holds.

use anyhow::Context as _;
use cabbage_broker::{
    core::{job::Verdict, types::Timestamp},
    store::format::{HIGHEST, decode_facts},
};
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _, postgres::PgConnectOptions};

use super::{Database, JobRow, LogRow, OutcomeRow};

/// Reads every table of the cell, in one snapshot.
pub async fn load_database(url: &str, schema: &cabbage_migrations::Schema) -> anyhow::Result<Database> {
    let options: PgConnectOptions = url.parse()?;
    let mut connection = options.connect().await?;
    let mut database = Database::default();
    let schema = schema.quoted();
    sqlx::raw_sql("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut connection).await?;

    let micros = |column: &str| format!("(extract(epoch FROM {column}) * 1000000)::bigint");
    let sql = format!(
        "-- cabbage:history_log\nSELECT number, term, nonce, after_nonce, {}, facts FROM {schema}.log ORDER BY number",
        micros("committed_at")
    );
    let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut connection);
    while let Some(row) = rows.try_next().await? {
        let number = row.try_get::<i64, _>(0)? as u64;
        database.log.push(LogRow {
            number,
            term: row.try_get::<i64, _>(1)? as u64,
            nonce: row.try_get::<i64, _>(2)? as u64,
            after_nonce: row.try_get::<i64, _>(3)? as u64,
            at: Timestamp(row.try_get(4)?),
            facts: decode_facts(row.try_get(5)?, HIGHEST).with_context(|| format!("log row {number}"))?.1,
        });
    }
    drop(rows);

    let sql = format!(
        "-- cabbage:history_jobs\nSELECT id, args::json ->> 'key', queueing_lock, metadata ->> 'cabbage.schedule', {} \
         FROM {schema}.job ORDER BY id",
        micros("(metadata ->> 'cabbage.tick')::timestamptz")
    );
    let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut connection);
    while let Some(row) = rows.try_next().await? {
        let schedule: Option<String> = row.try_get(3)?;
        database.jobs.push(JobRow {
            id: row.try_get(0)?,
            key: row.try_get(1)?,
            queueing_lock: row.try_get(2)?,
            tick: schedule.zip(row.try_get::<Option<i64>, _>(4)?.map(Timestamp)),
        });
    }
    drop(rows);

    let sql = format!(
        "-- cabbage:history_outcomes\nSELECT job, delivery, attempt, verdict, reason, {}, session, {} \
         FROM {schema}.outcome_now ORDER BY job, delivery",
        micros("finished_at"),
        micros("next_due_at")
    );
    let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut connection);
    while let Some(row) = rows.try_next().await? {
        let verdict: i16 = row.try_get(3)?;
        database.outcomes.push(OutcomeRow {
            job: row.try_get(0)?,
            delivery: row.try_get::<i32, _>(1)? as u32,
            attempt: row.try_get::<i32, _>(2)? as u32,
            verdict: Verdict::from_number(verdict as u8).with_context(|| format!("verdict {verdict}"))?,
            reason: row.try_get(4)?,
            finished: Timestamp(row.try_get(5)?),
            session: row.try_get(6)?,
            next_due: row.try_get::<Option<i64>, _>(7)?.map(Timestamp),
        });
    }
    drop(rows);

    let sql = format!(
        "-- cabbage:history_parked
        SELECT job FROM {schema}.parked
        UNION ALL
        SELECT 64 * b.block + bit FROM {schema}.parked_block b
        CROSS JOIN generate_series(0, 63) bit WHERE (b.present >> bit & 1) = 1
        ORDER BY 1"
    );
    database.parked = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(database)
}
