//! The writer: one statement per batch, in one round trip. It is a call of one function, but for batches of one row.

use std::ops::Range;

use async_trait::async_trait;
use sqlx::{Row, postgres::PgRow};

use super::{
    batch_rows,
    error::{WriteError, commit_error},
    one_row::OneRow,
    partitions::{PARTITIONS_AHEAD, add_partitions},
    session::Session,
    time::PgTime,
};
use crate::{
    core::{batch::Batch, types::Timestamp},
    store::{CommitError, Committed, LogPosition, Writer, format::encode_facts},
};

/// Seventy-six parameters: see `migrations/sql/0003_commit.sql`.
const COMMIT: &str = "-- cabbage:commit
SELECT committed_at, first_id, end_id FROM commit_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
    $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38,
    $39, $40, $41, $42, $43, $44, $45, $46, $47, $48, $49, $50, $51, $52, $53, $54, $55, $56,
    $57, $58, $59, $60, $61, $62, $63, $64, $65, $66, $67, $68, $69, $70, $71, $72, $73,
    $74, $75, $76)";

/// The one connection that commits batches.
pub(super) struct PgWriter {
    session: Session,
    /// The newest row of the log; read before the first commit, written by ourselves from then on.
    last: Option<LogPosition>,
}

impl PgWriter {
    pub(super) fn new(session: Session) -> Self {
        Self { session, last: None }
    }

    /// Makes the partitions that the first batches need.
    pub(super) async fn first_partitions(&mut self) -> Result<(), CommitError> {
        let query = sqlx::query(
            "-- cabbage:first_partitions
            SELECT add_partitions_1($1, $2, $3, ARRAY[(SELECT s.last_value FROM job_id s)], coalesce(
                (SELECT l.number FROM log l ORDER BY l.number DESC LIMIT 1), 0), $4)",
        );
        let query = self.session.fence.bind(query).bind(PARTITIONS_AHEAD);
        self.session.run(query).await.map(drop).map_err(commit_error)
    }

    async fn newest_row(&mut self) -> Result<LogPosition, CommitError> {
        if let Some(last) = self.last {
            return Ok(last);
        }
        let query = sqlx::query(
            "-- cabbage:newest_log_row
            SELECT coalesce(l.number, 0), coalesce(l.nonce, 0)
            FROM (VALUES (0)) nothing LEFT JOIN LATERAL (
                SELECT n.number, n.nonce FROM log n ORDER BY n.number DESC LIMIT 1) l ON true",
        );
        let row = self.session.run(query).await.map_err(commit_error)?;
        let last = LogPosition { number: integer(&row, 0)? as u64, nonce: integer(&row, 1)? as u64 };
        self.last = Some(last);
        Ok(last)
    }

    /// Writes a batch that has one row beside that of the log. `None`: it has others, or the statement wrote nothing
    /// because something is not as it should be; the function says what.
    async fn write_one_row(&mut self, batch: &Batch, last: LogPosition) -> Result<Option<Committed>, WriteError> {
        let fence = self.session.fence;
        let Some(row) = OneRow::of(batch, last, fence.term) else { return Ok(None) };
        let written = self.session.run(row.query(batch, fence)?).await?;
        let at = written.try_get::<Option<PgTime>, _>(0).map_err(|error| unreadable(&error))?;
        Ok(at.map(|at| Committed { at: at.0, ids: 0..0 }))
    }

    async fn write_all_rows(&mut self, batch: &Batch, last: LogPosition) -> Result<Committed, WriteError> {
        let query = self
            .session
            .fence
            .bind(sqlx::query(COMMIT))
            .bind(batch.number as i64)
            .bind(last.nonce as i64)
            .bind(encode_facts(&batch.facts, batch.format))
            .bind(batch.state_hash.map(|hash| hash as i64))
            .bind(batch.not_before.map(PgTime))
            .bind(batch.reserve_ids as i32);
        let row = self.session.run(batch_rows::bind(query, batch)?).await?;
        let at = row.try_get::<PgTime, _>(0).map_err(|error| unreadable(&error))?.0;
        Ok(Committed { at, ids: integer(&row, 1)?..integer(&row, 2)? })
    }

    /// Makes the partitions of a batch that missed one.
    async fn make_partitions(&mut self, batch: &Batch) -> CommitError {
        let taken = batch.inbox.iter().filter_map(|taken| taken.job.as_ref()).map(|job| job.id);
        let ids = batch.jobs.iter().map(|job| job.id).chain(taken);
        let ids = ids.chain(batch.outcomes.iter().map(|outcome| outcome.job));
        let ids = ids.filter(|id| *id >= batch.kept_below).map(|id| id.0).collect();
        match add_partitions(&mut self.session, ids, batch.number, 0).await {
            Ok(()) => CommitError::Again("a partition was missing and has been made".to_owned()),
            Err(error) => error,
        }
    }
}

#[async_trait]
impl Writer for PgWriter {
    async fn commit(&mut self, batch: &Batch) -> Result<Committed, CommitError> {
        let last = self.newest_row().await?;
        if batch.number != last.number + 1 {
            return Err(CommitError::TermOver(format!("log row {} does not follow row {}", batch.number, last.number)));
        }
        let written = match self.write_one_row(batch, last).await {
            Ok(None) => self.write_all_rows(batch, last).await,
            Ok(Some(committed)) => Ok(committed),
            Err(error) => Err(error),
        };
        match written {
            Ok(committed) => {
                self.last = Some(LogPosition { number: batch.number, nonce: self.session.fence.term.nonce });
                Ok(committed)
            }
            Err(WriteError::PartitionMissing) => Err(self.make_partitions(batch).await),
            Err(WriteError::Commit(error)) => Err(error),
        }
    }

    async fn tick(&mut self) -> Result<Timestamp, CommitError> {
        let row = self.session.beat().await.map_err(commit_error)?;
        Ok(row.try_get::<PgTime, _>(0).map_err(|error| unreadable(&error))?.0)
    }

    async fn reserve(&mut self, ids: u32) -> Result<Range<i64>, CommitError> {
        let query = sqlx::query("-- cabbage:reserve\nSELECT first_id, end_id FROM reserve_1($1, $2, $3, $4)");
        let query = self.session.fence.bind(query).bind(ids as i32);
        let row = self.session.run(query).await.map_err(commit_error)?;
        Ok(integer(&row, 0)?..integer(&row, 1)?)
    }

    async fn release(self: Box<Self>) {
        self.session.release().await;
    }
}

fn integer(row: &PgRow, column: usize) -> Result<i64, CommitError> {
    row.try_get(column).map_err(|error| unreadable(&error))
}

/// It was done, and nobody can say what: the effect is unknown.
fn unreadable(error: &sqlx::Error) -> CommitError {
    CommitError::TermOver(error.to_string())
}
