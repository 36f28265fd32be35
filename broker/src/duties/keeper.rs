//! The task of the second connection. It belongs to a term and to no client, so nobody can cancel it.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    core::{
        retention::Milestone,
        types::{Format, JobId},
    },
    store::{Checkpoint, CommitError, Duties, Keep, Retained},
    telemetry::Metrics,
};

use super::retention::RetentionTimer;

/// How often the connection shows the database that the owner lives.
const TICK: Duration = Duration::from_secs(1);

/// Partitions are looked at after so many ids (a quarter of a partition), so many rows of the log, and so much time.
const PARTITION_IDS: i64 = 1 << 22;
const PARTITION_ROWS: u64 = 1 << 16;
const PARTITION_TIME: Duration = Duration::from_mins(10);

/// How far the owner has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Horizon {
    /// The next id of a job, about.
    pub(crate) next_id: JobId,
    /// The next number of the log.
    pub(crate) next_log: u64,
    /// The format of what is written.
    pub(crate) format: Format,
}

/// Keeps partitions ahead, writes checkpoints, and takes the steps of retention, until it is told to stop; then lets go of the term.
pub(crate) struct DutyTask {
    pub(crate) duties: Box<dyn Duties>,
    pub(crate) checkpoints: mpsc::Receiver<Checkpoint>,
    pub(crate) horizon: watch::Receiver<Horizon>,
    pub(crate) keep: Keep,
    /// Asks the owner to record a milestone. It may be too busy: then it is asked again.
    pub(crate) record: Box<dyn Fn(Milestone) + Send + Sync>,
    pub(crate) stop: CancellationToken,
    pub(crate) metrics: Metrics,
}

impl DutyTask {
    /// Runs until it is stopped (`None`) or the term is over (why).
    pub(crate) async fn run(mut self) -> Option<String> {
        match self.serve().await {
            Ok(()) => {
                self.duties.release().await;
                None
            }
            Err(why) => Some(why),
        }
    }

    async fn serve(&mut self) -> Result<(), String> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut done: Option<(Horizon, Instant)> = None;
        let mut retention = RetentionTimer::new(&self.keep, Instant::now());
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                Some(checkpoint) = self.checkpoints.recv() => {
                    let began = Instant::now();
                    let bytes = checkpoint.data.len();
                    let row = checkpoint.position.number;
                    if known("checkpoint", self.duties.checkpoint(&checkpoint).await)? {
                        self.metrics.checkpointed(bytes);
                        tracing::info!(row, bytes, took = ?began.elapsed(), "checkpoint written");
                    }
                }
                _ = ticks.tick() => {
                    let horizon = *self.horizon.borrow();
                    if is_due(done, horizon) {
                        if known("partitions", self.duties.partitions(horizon.next_id, horizon.next_log).await)? {
                            done = Some((horizon, Instant::now()));
                        }
                    } else {
                        known("tick", self.duties.tick().await)?;
                    }
                }
                () = sleep_until(retention.next()) => {
                    let began = Instant::now();
                    let ask = retention.ask(began);
                    let did = self.duties.retain(&self.keep, &ask).await;
                    let did = match did {
                        Ok(did) => Some(did),
                        Err(error) => {
                            known("retention", Err(error))?;
                            None
                        }
                    };
                    let now = Instant::now();
                    retention.took(began, now, did.as_ref());
                    if let Some(did) = did {
                        self.retained(did, now - began);
                    }
                }
            }
        }
    }

    /// Tells of a step of retention, and passes on what the owner is to record.
    fn retained(&self, did: Retained, took: Duration) {
        match did {
            Retained::Nothing => {}
            Retained::Closed(next) => tracing::info!(%next, "a partition was closed; new jobs go to the next one"),
            Retained::Moved(jobs) => self.metrics.moved(jobs),
            Retained::Erased { jobs, .. } => self.metrics.erased(jobs),
            Retained::Dropped(table) => {
                tracing::info!(table, ?took, "dropped");
                self.metrics.dropped(&table);
            }
            Retained::Blocked(table) => {
                tracing::info!(table, "a table that is to be dropped is in use; it is tried again");
                self.metrics.drop_blocked();
            }
            Retained::Record(milestone, jobs) => {
                self.metrics.moved(jobs);
                (self.record)(milestone);
            }
        }
    }
}

fn is_due(done: Option<(Horizon, Instant)>, now: Horizon) -> bool {
    done.is_none_or(|(then, at)| {
        now.next_id.0 - then.next_id.0 >= PARTITION_IDS
            || now.next_log - then.next_log >= PARTITION_ROWS
            || at.elapsed() >= PARTITION_TIME
    })
}

/// Whether it was done. An error that ends the term is one; others are told, and tried again at a later tick.
fn known(duty: &'static str, done: Result<(), CommitError>) -> Result<bool, String> {
    match done {
        Ok(()) => Ok(true),
        Err(CommitError::Again(why)) => {
            tracing::debug!(duty, why, "put off");
            Ok(false)
        }
        Err(error @ CommitError::Refused { .. }) => {
            tracing::error!(duty, %error, "the database refuses a duty of the owner");
            Ok(false)
        }
        Err(CommitError::TermOver(why)) => Err(format!("{duty}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn partitions_are_looked_at_at_first_and_after_enough_ids_rows_or_time() {
        let at = |next_id, next_log| Horizon { next_id: JobId(next_id), next_log, format: Format::default() };
        let done = Some((at(1, 1), Instant::now()));
        assert!(is_due(None, at(1, 1)));
        assert!(!is_due(done, at(PARTITION_IDS, 1)));
        assert!(is_due(done, at(PARTITION_IDS + 1, 1)));
        assert!(is_due(done, at(1, PARTITION_ROWS + 1)));
        tokio::time::advance(PARTITION_TIME).await;
        assert!(is_due(done, at(1, 1)));
    }
}
