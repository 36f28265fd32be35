//! One of the owner's connections: it ends with its term, and is never replaced.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, Connection, PgConnection, Postgres,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use super::{
    error::{WriteError, write_error},
    notices::Notices,
};
use crate::{core::types::Term, store::CommitError};

/// The writer's row in `fence`.
pub(super) const WRITER: i16 = 1;
/// The duties' row in `fence`.
pub(super) const DUTIES: i16 = 2;

/// A connection under a term.
pub(super) struct Session {
    /// Gone as soon as the effect of a statement is unknown. So it is too when a future is dropped in the middle.
    connection: Option<PgConnection>,
    pub(super) fence: Fence,
    deadline: Duration,
    notices: Notices,
    statements: Arc<AtomicU64>,
}

/// What every write begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fence {
    pub(super) writer: i16,
    pub(super) term: Term,
}

impl Fence {
    /// Binds the first three parameters.
    pub(super) fn bind(self, query: Query<'_, Postgres, PgArguments>) -> Query<'_, Postgres, PgArguments> {
        query.bind(self.writer).bind(self.term.number as i64).bind(self.term.nonce as i64)
    }
}

impl Session {
    pub(super) fn new(connection: PgConnection, fence: Fence, deadline: Duration, statements: Arc<AtomicU64>) -> Self {
        Self { connection: Some(connection), fence, deadline, notices: Notices::new(), statements }
    }

    /// Runs a statement that gives one row. After an unknown effect the connection is gone.
    pub(super) async fn run(&mut self, query: Query<'_, Postgres, PgArguments>) -> Result<PgRow, WriteError> {
        self.supervise(async |connection| query.fetch_one(connection).await).await
    }

    /// Runs a statement without parameters that gives nothing, and that must stand outside of any transaction.
    pub(super) async fn execute(&mut self, sql: String) -> Result<(), WriteError> {
        let statement = sqlx::raw_sql(AssertSqlSafe(sql));
        self.supervise(async |connection| statement.execute(connection).await.map(drop)).await
    }

    async fn supervise<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, WriteError> {
        let over = |why: &str| WriteError::Commit(CommitError::TermOver(why.to_owned()));
        let mut connection = self.connection.take().ok_or_else(|| over("the connection is gone"))?;
        self.statements.fetch_add(1, Ordering::Relaxed);
        let running = self.notices.watch(work(&mut connection));
        let result = match tokio::time::timeout(self.deadline, running).await {
            Err(_) => Err(over("the database did not answer in time")),
            Ok(Err(error)) => Err(write_error(&error)),
            Ok(Ok(_)) if self.notices.take() => Err(over("the server warned: perhaps not replicated")),
            Ok(Ok(done)) => Ok(done),
        };
        if result.as_ref().err().is_none_or(WriteError::leaves_term) {
            self.connection = Some(connection);
        }
        result
    }

    /// The beat of the owner: reads the clock, and whether the term still holds. Locks nothing.
    pub(super) async fn beat(&mut self) -> Result<PgRow, WriteError> {
        let query = sqlx::query(
            "-- cabbage:beat
            SELECT clock_timestamp(), EXISTS (
                SELECT FROM fence f WHERE f.writer = $1 AND f.term = $2 AND f.nonce = $3)",
        );
        let row = self.run(self.fence.bind(query)).await?;
        if sqlx::Row::get::<bool, _>(&row, 1) {
            Ok(row)
        } else {
            self.connection = None;
            Err(WriteError::Commit(CommitError::TermOver(format!("term {} is over", self.fence.term.number))))
        }
    }

    /// Frees the cell's lock, and ends.
    pub(super) async fn release(mut self) {
        let freed = self.run(sqlx::query("-- cabbage:release\nSELECT pg_advisory_unlock_all()")).await;
        if let (Ok(_), Some(connection)) = (freed, self.connection.take()) {
            // The locks are free already; a server that does not wait for our farewell changes nothing.
            let _closed = tokio::time::timeout(self.deadline, connection.close()).await;
        }
    }
}
