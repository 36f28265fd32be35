//! Applies the steps, one transaction each.

use std::{cmp::Ordering, time::Duration};

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use uuid::Uuid;

use crate::{MigrateError, STEPS, Schema, Step};

/// The oldest server that is supported.
const SERVER_VERSION_MIN: i32 = 150_000;
/// How long to wait between two tries for the lock.
const LOCK_RETRY: Duration = Duration::from_millis(50);
/// How often the lock is tried for: a minute.
const LOCK_TRIES_MAX: u32 = 1_200;
/// How long a step waits for a table that somebody uses. Whoever wants the table meanwhile queues up behind the step, so
/// it gives up soon, and tries again.
const TABLE_WAIT_MILLISECONDS: u32 = 50;
/// How long between two tries of a step, and how often: some five minutes.
const STEP_RETRY: Duration = Duration::from_millis(500);
const STEP_TRIES_MAX: u32 = 600;
/// What the server says to a statement that waited for a lock for too long.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// What was found in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Every step is applied.
    Current,
    /// Steps are missing after this version; 0: there is nothing yet.
    Behind(i32),
    /// A newer version of cabbage has applied steps up to this version, with which this one still works.
    Ahead(i32),
}

/// Compares the schema with the steps. Changes nothing.
pub async fn status(connection: &mut PgConnection, schema: &Schema) -> Result<Status, MigrateError> {
    check_server(connection).await?;
    let table = sqlx::query("-- cabbage:migration_table\nSELECT to_regclass($1) IS NOT NULL")
        .bind(format!("{}.migration", schema.quoted()))
        .fetch_one(&mut *connection)
        .await?;
    if !table.try_get::<bool, _>(0)? {
        return Ok(Status::Behind(0));
    }
    // By its name within the row, since a table of an early version has no such column.
    let sql = format!(
        "-- cabbage:migration_status
        SELECT m.version, m.checksum, coalesce((to_jsonb(m) ->> 'serves_from')::integer, m.version)
        FROM {}.migration m ORDER BY m.version",
        schema.quoted()
    );
    // The name of a schema is checked, so it is safe in SQL.
    let applied = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *connection).await?;
    let (mut version, mut serves_from) = (0, 0);
    for row in &applied {
        version = row.try_get::<i32, _>(0)?;
        serves_from = serves_from.max(row.try_get::<i32, _>(2)?);
        let Some(step) = STEPS.iter().find(|step| step.version == version) else { continue };
        if row.try_get::<Uuid, _>(1)? != step.checksum() {
            return Err(MigrateError::Changed { schema: schema.clone(), version });
        }
    }
    let known = STEPS.len() as i32;
    if serves_from > known {
        return Err(MigrateError::Ahead { schema: schema.clone(), found: version, serves_from, known });
    }
    Ok(match version.cmp(&known) {
        Ordering::Less => Status::Behind(version),
        Ordering::Equal => Status::Current,
        Ordering::Greater => Status::Ahead(version),
    })
}

/// Brings the schema up to date. Safe when several do it at once, and when nothing is to be done.
///
/// The connection is closed: it held a lock.
pub async fn prepare(connection: PgConnection, schema: &Schema) -> Result<(), MigrateError> {
    prepare_until(connection, schema, STEPS.len() as i32).await
}

/// The same, up to this version only: for tests of what an upgrade does to a cell that is in use.
pub async fn prepare_until(mut connection: PgConnection, schema: &Schema, version: i32) -> Result<(), MigrateError> {
    if matches!(status(&mut connection, schema).await?, Status::Behind(_)) {
        lock(&mut connection, schema).await?;
        apply(&mut connection, schema, version).await?;
    }
    connection.close().await?;
    Ok(())
}

async fn check_server(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let row = sqlx::query(
        "-- cabbage:migration_server\nSELECT current_setting('server_encoding'), \
         current_setting('server_version_num')::integer, current_setting('server_version')",
    )
    .fetch_one(connection)
    .await?;
    let encoding: String = row.try_get(0)?;
    if encoding != "UTF8" {
        return Err(MigrateError::NotUtf8(encoding));
    }
    if row.try_get::<i32, _>(1)? < SERVER_VERSION_MIN {
        return Err(MigrateError::TooOld(row.try_get(2)?));
    }
    Ok(())
}

/// Tries until the lock is ours. Never waits for it in the database: a statement that waits keeps a snapshot.
async fn lock(connection: &mut PgConnection, schema: &Schema) -> Result<(), MigrateError> {
    for _ in 0..LOCK_TRIES_MAX {
        let row = sqlx::query("-- cabbage:migration_lock\nSELECT pg_try_advisory_lock($1)")
            .bind(lock_key(schema))
            .fetch_one(&mut *connection)
            .await?;
        if row.try_get(0)? {
            return Ok(());
        }
        tokio::time::sleep(LOCK_RETRY).await;
    }
    Err(MigrateError::Busy(schema.clone()))
}

async fn apply(connection: &mut PgConnection, schema: &Schema, until: i32) -> Result<(), MigrateError> {
    // Somebody else may have done it while we tried for the lock.
    let Status::Behind(version) = status(connection, schema).await? else { return Ok(()) };
    if version == 0 {
        let quoted = schema.quoted();
        run(
            connection,
            &format!(
                "-- cabbage:migration_begin
                CREATE SCHEMA IF NOT EXISTS {quoted};
                CREATE TABLE IF NOT EXISTS {quoted}.migration (
                    version integer PRIMARY KEY,
                    name text NOT NULL,
                    checksum uuid NOT NULL,
                    serves_from integer,
                    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
                );
                REVOKE ALL ON {quoted}.migration FROM PUBLIC;"
            ),
        )
        .await?;
    } else {
        let table = format!("{}.migration", schema.quoted());
        let script =
            format!("-- cabbage:migration_column\nALTER TABLE {table} ADD COLUMN IF NOT EXISTS serves_from integer;");
        run_patiently(connection, version + 1, &script, schema).await?;
    }
    for step in STEPS.iter().filter(|step| step.version > version && step.version <= until) {
        run_patiently(connection, step.version, &script(step, schema), schema).await?;
    }
    Ok(())
}

/// A step and its row. Sent as one message, it is one transaction, and there is no `BEGIN` to be left open.
fn script(step: &Step, schema: &Schema) -> String {
    format!(
        "-- cabbage:migration_step\n{}\nINSERT INTO {}.migration (version, name, checksum, serves_from) \
         VALUES ({}, '{}', '{}', {});",
        step.for_schema(schema),
        schema.quoted(),
        step.version,
        step.name,
        step.checksum(),
        step.serves_from
    )
}

/// Runs the script of a step, again and again while somebody uses a table that it changes.
async fn run_patiently(
    connection: &mut PgConnection,
    version: i32,
    script: &str,
    schema: &Schema,
) -> Result<(), MigrateError> {
    for _ in 0..STEP_TRIES_MAX {
        match run(connection, script).await {
            Err(MigrateError::Database(sqlx::Error::Database(error)))
                if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE) =>
            {
                tokio::time::sleep(STEP_RETRY).await;
            }
            ended => return ended,
        }
    }
    Err(MigrateError::InUse { schema: schema.clone(), version })
}

async fn run(connection: &mut PgConnection, script: &str) -> Result<(), MigrateError> {
    // Quiet, since `IF NOT EXISTS` talks.
    let script = format!(
        "SET LOCAL lock_timeout = {TABLE_WAIT_MILLISECONDS}; SET LOCAL client_min_messages = warning; {script}"
    );
    sqlx::raw_sql(AssertSqlSafe(script)).execute(connection).await?;
    Ok(())
}

/// The advisory lock of the migrations of this schema; locks are per database already.
fn lock_key(schema: &Schema) -> i64 {
    let namespace = Uuid::from_u128(0x6361_6262_6167_6520_6d69_6772_0000_0001);
    Uuid::new_v5(&namespace, schema.name().as_bytes()).as_u64_pair().0 as i64
}
