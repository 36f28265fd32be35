//! The worker processes of a measurement.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{child::Child, cpu, progress::Progress, runs::RunsReport};

/// How long nothing may be recorded before the workers count as stuck.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// What they are like.
#[derive(Args, Clone, Copy, Debug, Serialize)]
pub(super) struct FleetArgs {
    /// How many worker processes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(super) workers: u8,
    /// How many handlers run at once in each
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(super) concurrency: usize,
    /// How many more jobs lie ready in each
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub(super) prefetch: usize,
}

/// The jobs that they are to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work<'a> {
    pub(super) address: &'a str,
    pub(super) queue: &'a str,
    /// The lowest id.
    pub(super) base: i64,
    /// How many ids from there on may come.
    pub(super) span: i64,
}

/// Workers that wait for the word to go.
pub(super) struct Fleet {
    workers: Vec<Child>,
}

/// Workers at work.
pub(super) struct Running {
    pids: Vec<Option<u32>>,
    processes: JoinSet<anyhow::Result<RunsReport>>,
    /// How many results each has recorded.
    recorded: watch::Receiver<Vec<u64>>,
    stop: CancellationToken,
}

impl FleetArgs {
    /// Starts the processes. They do not connect before they are let go.
    pub(super) async fn start(&self, work: Work<'_>) -> anyhow::Result<Fleet> {
        let mut workers = Vec::new();
        for number in 1..=self.workers {
            let mut worker = Child::start(&format!("worker {number}"), &self.args(work))?;
            worker.expect("ready").await?;
            workers.push(worker);
        }
        Ok(Fleet { workers })
    }

    /// The arguments of one process.
    pub(super) fn args(&self, work: Work<'_>) -> Vec<String> {
        let options = [
            ("--broker", work.address.to_owned()),
            ("--queue", work.queue.to_owned()),
            ("--base", work.base.to_string()),
            ("--span", work.span.to_string()),
            ("--concurrency", self.concurrency.to_string()),
            ("--prefetch", self.prefetch.to_string()),
        ];
        let options = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        ["bench", "worker"].map(str::to_owned).into_iter().chain(options).collect()
    }
}

impl Fleet {
    /// Lets them go.
    pub(super) fn go(self) -> Running {
        let pids = self.workers.iter().map(Child::pid).collect();
        let (told, recorded) = watch::channel(vec![0; self.workers.len()]);
        let stop = CancellationToken::new();
        let mut processes = JoinSet::new();
        for (place, worker) in self.workers.into_iter().enumerate() {
            processes.spawn(run(worker, place, told.clone(), stop.clone()));
        }
        Running { pids, processes, recorded, stop }
    }
}

impl Running {
    /// The CPU time that they have used until now.
    pub(super) fn cpu(&self) -> Option<Duration> {
        self.pids.iter().map(|pid| cpu::of_process((*pid)?)).sum()
    }

    /// Waits until so many results are recorded in all. The error says how many were, when nothing more came.
    pub(super) async fn recorded(&mut self, wanted: u64) -> Result<(), u64> {
        reach(&mut self.recorded, wanted).await
    }

    /// The same, in five equal parts: how long each took.
    pub(super) async fn fifths(&mut self, wanted: u64) -> Result<[Duration; 5], u64> {
        let mut took = [Duration::ZERO; 5];
        let mut start = Instant::now();
        for (part, took) in (1..).zip(&mut took) {
            self.recorded(wanted * part / 5).await?;
            let end = Instant::now();
            *took = end - start;
            start = end;
        }
        Ok(took)
    }

    /// Stops them; answers what each of them ran.
    pub(super) async fn stop(mut self) -> anyhow::Result<Vec<RunsReport>> {
        self.stop.cancel();
        let mut reports = Vec::new();
        while let Some(report) = self.processes.join_next().await {
            reports.push(report??);
        }
        Ok(reports)
    }
}

/// Lets a worker process go, hands on how many results it has recorded, and fetches its report at the end.
async fn run(
    mut worker: Child,
    place: usize,
    told: watch::Sender<Vec<u64>>,
    stop: CancellationToken,
) -> anyhow::Result<RunsReport> {
    worker.tell("go").await?;
    loop {
        tokio::select! {
            line = worker.line() => {
                let Some(line) = line? else { bail!("a worker process ended by itself") };
                if let Some(recorded) = line.strip_prefix("recorded ") {
                    let count = recorded.parse()?;
                    told.send_modify(|recorded| recorded[place] = count);
                }
            }
            () = stop.cancelled() => break,
        }
    }
    worker.tell("stop").await?;
    let report = worker.expect("report").await?;
    worker.stop().await?;
    Ok(serde_json::from_str(&report)?)
}

async fn reach(recorded: &mut watch::Receiver<Vec<u64>>, wanted: u64) -> Result<(), u64> {
    let line = Progress::of("running", wanted);
    loop {
        let sum: u64 = recorded.borrow_and_update().iter().sum();
        line.at(sum);
        if sum >= wanted {
            return Ok(());
        }
        match timeout(STALL, recorded.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn enough_is_what_all_workers_together_have_recorded() {
        let (told, mut recorded) = watch::channel(vec![0, 0]);
        let reached = tokio::spawn(async move { reach(&mut recorded, 10).await });
        told.send_modify(|recorded| recorded[1] = 5);
        told.send_modify(|recorded| recorded[0] = 5);
        assert_eq!(reached.await.unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn workers_that_are_stuck_say_how_far_they_came() {
        let (_told, mut recorded) = watch::channel(vec![0, 7]);
        assert_eq!(reach(&mut recorded, 10).await, Err(7));
    }
}
