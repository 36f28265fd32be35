//! The duties' connection: checkpoints, and partitions ahead.

use async_trait::async_trait;

use super::{
    error::commit_error,
    partitions::{PARTITIONS_AHEAD, add_partitions},
    primary::PrimaryWatch,
    retention::retain,
    session::Session,
};
use crate::{
    core::types::JobId,
    store::{Checkpoint, CommitError, Duties, Keep, RetainAsk, Retained},
};

/// The size of a chunk of a checkpoint.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// The connection for all other writes of the owner.
pub(super) struct PgDuties {
    session: Session,
    watch: PrimaryWatch,
}

impl PgDuties {
    pub(super) fn new(session: Session, watch: PrimaryWatch) -> Self {
        Self { session, watch }
    }
}

#[async_trait]
impl Duties for PgDuties {
    async fn tick(&mut self) -> Result<(), CommitError> {
        if let Some(host) = self.watch.successor().await {
            return Err(CommitError::TermOver(format!("{host} is the primary now")));
        }
        self.session.beat().await.map(drop).map_err(commit_error)
    }

    async fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), CommitError> {
        // An empty state is one empty chunk.
        let last = checkpoint.data.len().saturating_sub(1) / CHUNK_BYTES;
        for chunk in 0..=last {
            let end = checkpoint.data.len().min((chunk + 1) * CHUNK_BYTES);
            let query = sqlx::query("-- cabbage:checkpoint\nSELECT checkpoint_1($1, $2, $3, $4, $5, $6, $7, $8)");
            let query = self
                .session
                .fence
                .bind(query)
                .bind(checkpoint.position.number as i64)
                .bind(checkpoint.position.nonce as i64)
                .bind(chunk as i32)
                .bind(chunk == last)
                .bind(&checkpoint.data[chunk * CHUNK_BYTES..end]);
            self.session.run(query).await.map_err(commit_error)?;
        }
        Ok(())
    }

    async fn partitions(&mut self, next_id: JobId, next_log: u64) -> Result<(), CommitError> {
        add_partitions(&mut self.session, vec![next_id.0], next_log, PARTITIONS_AHEAD).await
    }

    async fn retain(&mut self, keep: &Keep, ask: &RetainAsk) -> Result<Retained, CommitError> {
        retain(&mut self.session, keep, ask).await
    }

    async fn release(self: Box<Self>) {
        self.session.release().await;
    }
}
