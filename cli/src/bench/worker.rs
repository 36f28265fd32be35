//! One worker process of a measurement: handlers that do nothing but note that they ran.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cabbage_worker::{Context, TaskError, Worker};
use clap::Args;

use super::{child::Parent, runs::Runs};
use crate::{
    exit::{Exit, Failure, Outcome},
    output::print_line,
};

/// The task of the jobs.
pub(crate) const TASK: &str = "bench_noop";
/// How often progress is told at most.
const TELL_INTERVAL: Duration = Duration::from_millis(2);

#[derive(Args, Debug)]
pub(crate) struct WorkerArgs {
    #[arg(long)]
    broker: String,
    #[arg(long)]
    queue: String,
    #[arg(long)]
    base: i64,
    #[arg(long)]
    span: usize,
    #[arg(long)]
    concurrency: usize,
    #[arg(long)]
    prefetch: usize,
}

impl WorkerArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let runs = Arc::new(Mutex::new(Runs::new(self.base, self.span)));
        let worker = Worker::builder(&self.broker)
            .name("bench")
            .queues([self.queue.as_str()])
            .concurrency(self.concurrency)
            .prefetch(self.prefetch)
            .shared_state(Arc::clone(&runs))
            .function(TASK, noop)
            .build()
            .map_err(|error| Failure::from_error(Exit::Usage, "cannot build the worker", &error))?;
        let mut parent = Parent::listen();
        print_line("ready")?;
        if !parent.waits_for("go").await {
            return Ok(());
        }
        let handle = worker.handle();
        let running = tokio::spawn(worker.run());
        let telling = tokio::spawn({
            let handle = handle.clone();
            async move {
                let mut told = 0;
                while let Some(status) = handle.wait_for(|status| status.counters.recorded != told).await {
                    told = status.counters.recorded;
                    if print_line(&format!("recorded {told}")).is_err() {
                        break;
                    }
                    tokio::time::sleep(TELL_INTERVAL).await;
                }
            }
        });
        parent.waits_for("stop").await;
        handle.stop();
        let status = running.await.map_err(anyhow::Error::from)?;
        telling.abort();
        if status.held > 0 || status.counters.lost > 0 || status.counters.refused > 0 {
            tracing::warn!(?status, "the worker ended with something left");
        }
        let report = runs.lock().unwrap_or_else(PoisonError::into_inner).report();
        let report = serde_json::to_string(&report).map_err(anyhow::Error::from)?;
        print_line(&format!("report {report}"))
    }
}

async fn noop(_: serde::de::IgnoredAny, ctx: Context<Mutex<Runs>>) -> Result<(), TaskError> {
    ctx.state().lock().unwrap_or_else(PoisonError::into_inner).note(ctx.id());
    Ok(())
}
