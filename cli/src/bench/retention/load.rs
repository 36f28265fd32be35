//! Callers that defer at a steady pace, and a worker process that runs what they defer.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cabbage_worker::{Client, NewJob};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::blame::Defer;
use crate::bench::{child::Child, drain, worker::TASK};

/// Callers that defer at once.
const CALLERS: u32 = 4;
/// How long the arguments are, in bytes.
const ARGS_BYTES: usize = 100;
/// Ids that the worker has room to note: more than the callers defer.
const SPAN: i64 = 1 << 23;
/// The queue of the load.
const QUEUE: &str = "bench_load";

/// What goes on while something is measured.
pub(super) struct Load {
    defers: Arc<Mutex<Vec<Defer>>>,
    callers: JoinSet<anyhow::Result<()>>,
    worker: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
}

impl Load {
    /// Starts the worker, then the callers.
    pub(super) async fn start(address: &str, rate: u32, first_id: i64) -> anyhow::Result<Self> {
        let options = [
            ("--broker", address.to_owned()),
            ("--queue", QUEUE.to_owned()),
            ("--base", first_id.to_string()),
            ("--span", SPAN.to_string()),
            ("--concurrency", "200".to_owned()),
            ("--prefetch", "200".to_owned()),
        ];
        let options = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        let args: Vec<_> = ["bench", "worker"].map(str::to_owned).into_iter().chain(options).collect();
        let mut child = Child::start("worker", &args)?;
        child.expect("ready").await?;
        child.tell("go").await?;
        let stop = CancellationToken::new();
        let mut worker = JoinSet::new();
        let stopped = stop.clone();
        worker.spawn(async move {
            // What it says is read, so that it never waits for us.
            loop {
                tokio::select! {
                    line = child.line() => if line?.is_none() { anyhow::bail!("the worker ended by itself") },
                    () = stopped.cancelled() => break,
                }
            }
            child.tell("stop").await?;
            child.expect("report").await?;
            child.stop().await
        });
        let defers = Arc::new(Mutex::new(Vec::new()));
        let mut callers = JoinSet::new();
        let pace = Duration::from_secs(1) * CALLERS / rate;
        for _ in 0..CALLERS {
            let client = Client::builder(address).timeout(Duration::from_mins(1)).build()?;
            callers.spawn(defer(client, pace, Arc::clone(&defers), stop.clone()));
        }
        Ok(Self { defers, callers, worker, stop })
    }

    /// The defers that ended since the last time.
    pub(super) fn take(&self) -> Vec<Defer> {
        std::mem::take(&mut self.defers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stops the callers, and the worker.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.callers.join_next().await {
            ended??;
        }
        while let Some(ended) = self.worker.join_next().await {
            ended??;
        }
        Ok(())
    }
}

async fn defer(
    client: Client,
    pace: Duration,
    defers: Arc<Mutex<Vec<Defer>>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let args = drain::args(ARGS_BYTES);
    let mut pace = interval(pace);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.is_cancelled() {
        pace.tick().await;
        let start = Instant::now();
        client.defer_job(NewJob::named(TASK).queue(QUEUE).args_json(args.clone())).send().await?;
        let defer = Defer { start, took: start.elapsed() };
        defers.lock().unwrap_or_else(PoisonError::into_inner).push(defer);
    }
    Ok(())
}
