//! The task that keeps closed partitions in order. It writes no fact, so it is simply dropped when the term ends.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::store::{Upkeep, Upkept};

/// How often it is looked at whether something is due.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// How long after a failed try the next one begins: what was in its way may be there for hours.
const RETRY_AFTER: Duration = Duration::from_mins(10);

/// Keeps closed partitions in order, for one term.
pub(crate) struct UpkeepTask {
    pub(crate) upkeep: Box<dyn Upkeep>,
    pub(crate) stop: CancellationToken,
}

impl UpkeepTask {
    /// Runs until it is stopped; what is under way then is given up.
    pub(crate) async fn run(self) {
        let Self { mut upkeep, stop } = self;
        let _stopped = stop.run_until_cancelled(serve(&mut *upkeep)).await;
    }
}

async fn serve(upkeep: &mut dyn Upkeep) {
    loop {
        let pause = match upkeep.next().await {
            Ok(Some(done)) => {
                tell(&done);
                Duration::ZERO
            }
            Ok(None) => LOOK_EVERY,
            Err(error) => {
                tracing::warn!(%error, "the upkeep of closed partitions is put off");
                RETRY_AFTER
            }
        };
        sleep(pause).await;
    }
}

fn tell(done: &Upkept) {
    match done {
        Upkept::Frozen(part) => tracing::info!(part, "the rows of a closed partition were frozen"),
        Upkept::Indexed(part) => tracing::info!(part, "the jobs of a closed partition were indexed by queue"),
        Upkept::Cleared(part) => tracing::info!(part, "what was left of a broken try to index a partition was removed"),
    }
}
