//! A worker process of a measurement: handlers that do nothing but note that they ran.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cabbage_worker::{Context, TaskError, Worker, WorkerHandle};
use clap::Args;
use tokio::sync::watch;

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
    /// How many workers, with a stream each
    #[arg(long, default_value_t = 1)]
    streams: usize,
}

impl WorkerArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let runs = Arc::new(Mutex::new(Runs::new(self.base, self.span)));
        let workers: Vec<Worker> = (0..self.streams).map(|_| self.worker(&runs)).collect::<Result<_, _>>()?;
        let handles: Vec<WorkerHandle> = workers.iter().map(Worker::handle).collect();
        let mut parent = Parent::listen();
        print_line("ready")?;
        if !parent.waits_for("go").await {
            return Ok(());
        }
        let running: Vec<_> = workers.into_iter().map(|worker| tokio::spawn(worker.run())).collect();
        let telling = tokio::spawn(tell(handles.clone()));
        parent.waits_for("stop").await;
        for (handle, running) in handles.iter().zip(running) {
            handle.stop();
            let status = running.await.map_err(anyhow::Error::from)?;
            if status.held > 0 || status.counters.lost > 0 || status.counters.refused > 0 {
                tracing::warn!(?status, "a worker ended with something left");
            }
        }
        telling.abort();
        let report = runs.lock().unwrap_or_else(PoisonError::into_inner).report();
        let report = serde_json::to_string(&report).map_err(anyhow::Error::from)?;
        print_line(&format!("report {report}"))
    }

    fn worker(&self, runs: &Arc<Mutex<Runs>>) -> Result<Worker, Failure> {
        Worker::builder(&self.broker)
            .name("bench")
            .queues([self.queue.as_str()])
            .concurrency(self.concurrency)
            .prefetch(self.prefetch)
            .shared_state(Arc::clone(runs))
            .function(TASK, noop)
            .build()
            .map_err(|error| Failure::from_error(Exit::Usage, "cannot build the worker", &error))
    }
}

/// Says when all are connected, and then how many results are recorded, as often as that changes.
async fn tell(handles: Vec<WorkerHandle>) {
    for handle in &handles {
        if handle.wait_for(|status| status.connected).await.is_none() {
            return;
        }
    }
    if print_line("connected").is_err() {
        return;
    }
    let (news, mut any) = watch::channel(());
    for handle in handles.clone() {
        let news = news.clone();
        tokio::spawn(async move {
            let mut seen = 0;
            while let Some(status) = handle.wait_for(|status| status.counters.recorded != seen).await {
                seen = status.counters.recorded;
                news.send_replace(());
            }
        });
    }
    drop(news);
    let mut told = 0;
    while any.changed().await.is_ok() {
        let recorded: u64 = handles.iter().map(|handle| handle.status().counters.recorded).sum();
        if recorded != told && print_line(&format!("recorded {recorded}")).is_err() {
            return;
        }
        told = recorded;
        tokio::time::sleep(TELL_INTERVAL).await;
    }
}

async fn noop(_: serde::de::IgnoredAny, ctx: Context<Mutex<Runs>>) -> Result<(), TaskError> {
    ctx.state().lock().unwrap_or_else(PoisonError::into_inner).note(ctx.id());
    Ok(())
}
