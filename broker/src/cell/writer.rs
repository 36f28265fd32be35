//! The task of the connection that commits. It belongs to a term and to no client, so nobody can cancel it.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::{
    clock::{Monotonic, Sample},
    core::batch::Batch,
    store::{CommitError, Committed, LogPosition, LogRow, Writer},
    telemetry::Metrics,
};

use super::follower::Follow;

/// How long nothing is committed before the writer shows the database that it lives.
const TICK: Duration = Duration::from_secs(1);

/// How often one batch is tried again that could be written as it is, but not now.
const TRIES_MAX: u32 = 40;

/// The wait before the first of those tries, and before the later ones.
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// What the writer tells the owner.
#[derive(Debug)]
pub(super) enum Report {
    /// The batch is committed, and this is what the database's clock said.
    Committed { batch: Box<Batch>, committed: Committed, sample: Sample },
    /// The batch was refused, and nothing of it was written.
    Refused { sqlstate: String, message: String },
    /// What the database's clock said.
    Ticked(Sample),
    /// The term is over.
    Over(String),
}

/// Writes the batches of a term, one at a time, until the orders end; then releases the term.
pub(super) struct WriterTask {
    pub(super) writer: Box<dyn Writer>,
    pub(super) orders: mpsc::Receiver<Batch>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) follower: mpsc::Sender<Follow>,
    pub(super) nonce: u64,
    pub(super) term: u64,
    pub(super) mono: Monotonic,
    pub(super) metrics: Metrics,
}

impl WriterTask {
    pub(super) async fn run(mut self) {
        loop {
            let order = tokio::select! {
                biased;
                order = self.orders.recv() => Some(order),
                () = self.writer.hurry() => None,
                () = sleep(TICK) => None,
            };
            let report = match order {
                Some(None) => break,
                Some(Some(batch)) => self.commit(batch).await,
                None => {
                    let sent = self.mono.now();
                    match self.writer.tick().await {
                        Ok(said) => Report::Ticked(Sample { said, sent, received: self.mono.now() }),
                        Err(CommitError::Again(_)) => continue,
                        Err(error) => Report::Over(error.to_string()),
                    }
                }
            };
            let over = matches!(report, Report::Over(_));
            if self.reports.send(report).await.is_err() && !over {
                break;
            }
            if over {
                return;
            }
        }
        self.writer.release().await;
    }

    async fn commit(&mut self, batch: Batch) -> Report {
        let mut wait = FIRST_WAIT;
        for tried in 1.. {
            let (began, sent) = (Instant::now(), self.mono.now());
            match self.writer.commit(&batch).await {
                Ok(committed) => {
                    let sample = Sample { said: committed.at, sent, received: self.mono.now() };
                    self.metrics.committed(began.elapsed(), batch.facts.len());
                    let row = LogRow {
                        position: LogPosition { number: batch.number, nonce: self.nonce },
                        term: self.term,
                        format: batch.format,
                        facts: batch.facts.clone(),
                        state_hash: batch.state_hash,
                    };
                    // A follower that lags holds commits back here, so that what waits for it stays bounded. One that
                    // is gone has said why, and the owner learns of it when it needs a state.
                    let _ = self.follower.send(Follow::Row(row)).await;
                    return Report::Committed { batch: Box::new(batch), committed, sample };
                }
                Err(CommitError::Refused { sqlstate, message }) => return Report::Refused { sqlstate, message },
                Err(CommitError::TermOver(why)) => return Report::Over(why),
                Err(CommitError::Again(why)) if tried < TRIES_MAX => {
                    tracing::debug!(batch = batch.number, tried, why, "the batch is written again");
                    sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                Err(CommitError::Again(why)) => {
                    return Report::Over(format!("batch {} was put off {tried} times: {why}", batch.number));
                }
            }
        }
        unreachable!("the tries are bounded")
    }
}
