//! Jobs that are deferred in your own transaction: they exist if it commits, and never existed if it does not.
//!
//! Switched on by the feature `sqlx`. The functions write by `cabbage.defer_batch` and its like, over a connection of
//! yours to the database that holds the cell. Its role needs the right to do so, which whoever migrates gives once:
//! `SELECT cabbage.grant_producer('your_role')`. The options are those of [`Client::defer`](crate::Client::defer); a
//! request id has no meaning here, since the transaction itself is done once or not at all.
//!
//! ```no_run
//! # use cabbage_worker::{Context, Task, TaskError};
//! # struct Greet;
//! # impl Task for Greet {
//! #     const NAME: &'static str = "greet";
//! #     type Args = String;
//! #     type Output = ();
//! #     type Error = TaskError;
//! #     type State = ();
//! #     async fn run(_: String, _: Context) -> Result<(), TaskError> { Ok(()) }
//! # }
//! # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
//! use cabbage_worker::transaction;
//!
//! let mut tx = pool.begin().await?;
//! sqlx::query("UPDATE account SET greeted = true WHERE id = 7").execute(&mut *tx).await?;
//! let job_id = transaction::defer::<Greet>(&mut tx, "Ada".to_owned()).queue("mail").await?;
//! tx.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A queueing lock that is taken is found only when the owner takes the job in: the job becomes `CANCELLED`, with the
//! reason `DUPLICATE` and the id of the first (C10).

mod json;

use std::{
    borrow::Borrow,
    future::{Future, IntoFuture},
    pin::Pin,
};

use sqlx::{AssertSqlSafe, PgConnection, Row};

use crate::{Batch, Error, JobBuilder, NewJob, Task};

/// The schema of a cell that has no other name.
const DEFAULT_SCHEMA: &str = "cabbage";

/// Why nothing was written. The transaction can only be rolled back, unless there was a savepoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// The job could not be described.
    #[error(transparent)]
    Job(#[from] Error),
    /// An option has no meaning in a transaction.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The database refuses it, and says which field, limit and remedy; or it failed.
    #[error("the database refuses it: {0}")]
    Database(#[from] sqlx::Error),
}

/// A connection of the caller, in a transaction or not.
#[derive(Debug)]
pub struct InTransaction<'c> {
    connection: &'c mut PgConnection,
    schema: String,
}

/// A job that will be written over the caller's connection: `.await` it for its id.
pub type TransactionDefer<'c> = JobBuilder<InTransaction<'c>>;

/// A job of a task; write it with `.await`.
pub fn defer<T: Task>(connection: &mut PgConnection, args: impl Borrow<T::Args>) -> TransactionDefer<'_> {
    defer_job(connection, NewJob::of::<T>(args))
}

/// A job that was described before; write it with `.await`.
pub fn defer_job(connection: &mut PgConnection, job: impl Into<NewJob>) -> TransactionDefer<'_> {
    job.into().with(InTransaction { connection, schema: DEFAULT_SCHEMA.to_owned() })
}

/// All jobs of a batch, at most 1,000. The ids are in the order of the batch.
pub async fn defer_all(connection: &mut PgConnection, batch: Batch) -> Result<Vec<i64>, TransactionError> {
    write(connection, DEFAULT_SCHEMA, batch.into_jobs()).await
}

/// Cancels a job, once the transaction has committed and the owner took that in: within a second (C11). The job may be
/// one of this transaction.
pub async fn cancel(connection: &mut PgConnection, job_id: i64, reason: &str) -> Result<(), TransactionError> {
    let sql = "-- cabbage:sdk_cancel\nSELECT cabbage.cancel($1, $2)";
    sqlx::query(sql).bind(job_id).bind(reason).execute(connection).await?;
    Ok(())
}

/// The state of a job as this transaction sees it: `scheduled`, `waiting`, `active`, `succeeded`, `failed` or
/// `cancelled`. A job that is `active` is due and in the broker's memory, where it waits or runs:
/// [`Client::get`](crate::Client::get) says which. `None`: there is no such job.
pub async fn state(connection: &mut PgConnection, job_id: i64) -> Result<Option<String>, TransactionError> {
    let row = sqlx::query("-- cabbage:sdk_state\nSELECT cabbage.state($1)").bind(job_id).fetch_one(connection).await?;
    Ok(row.try_get(0)?)
}

impl TransactionDefer<'_> {
    /// The schema of the cell; `cabbage` without one.
    pub fn in_schema(mut self, schema: impl Into<String>) -> Self {
        self.client.schema = schema.into();
        self
    }
}

impl<'c> IntoFuture for TransactionDefer<'c> {
    type Output = Result<i64, TransactionError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (job, InTransaction { connection, schema }) = self.without_client();
            let ids = write(connection, &schema, vec![job]).await?;
            ids.first().copied().ok_or(TransactionError::Job(Error::Malformed("a batch with too few answers")))
        })
    }
}

async fn write(connection: &mut PgConnection, schema: &str, jobs: Vec<NewJob>) -> Result<Vec<i64>, TransactionError> {
    let specs = jobs.into_iter().map(NewJob::into_spec).collect::<Result<Vec<_>, _>>()?;
    let text = json::text(&specs)?;
    // The name is quoted, so it is safe in SQL.
    let schema = format!("\"{}\"", schema.replace('"', "\"\""));
    let sql = format!("-- cabbage:sdk_defer\nSELECT d.id FROM {schema}.defer_batch($1::text::json) d (id)");
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(text).fetch_all(connection).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}
