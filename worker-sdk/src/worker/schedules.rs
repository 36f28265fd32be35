//! Schedules that a worker brings along: put once it is connected.

use std::time::Duration;

use cabbage_proto::v1;
use tokio::time::sleep;

use super::{Status, WorkerHandle};
use crate::Client;

/// How long to wait before a put is tried again that no broker served.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// What is put, and how.
#[derive(Debug)]
pub(super) struct Schedules {
    pub(super) client: Client,
    pub(super) schedules: Vec<v1::Schedule>,
}

impl Schedules {
    /// Puts all of them, each until it is there or was refused. One that is refused stops neither the others nor the
    /// worker: an error in the log names it.
    pub(super) async fn put(self, handle: WorkerHandle) {
        if handle.wait_for(|status: &Status| status.connected).await.is_none() {
            return;
        }
        for schedule in self.schedules {
            loop {
                match self.client.put_checked(schedule.clone()).await {
                    Ok(_) => tracing::debug!(schedule = schedule.name, "a schedule is put"),
                    Err(error) if error.is_retryable() => {
                        tracing::warn!(schedule = schedule.name, %error, "a schedule is put again in a moment");
                        sleep(RETRY_WAIT).await;
                        continue;
                    }
                    Err(error) => tracing::error!(schedule = schedule.name, %error, "a schedule is refused"),
                }
                break;
            }
        }
    }
}
