//! `bench drain`: how fast workers empty a queue that is full, and what that costs.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use cabbage_migrations::Schema;
use cabbage_worker::{Client, JobFilter, NewJob, v1::JobState};
use clap::Args;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    bare,
    batches::FILLING,
    cell::{Cell, Costs},
    child::Child,
    cpu,
    report::{Phase, Report},
    runs::{RunsReport, Tally},
    worker::TASK,
};
use crate::{
    brokers::Address,
    exit::{Exit, Failure, Outcome},
    output::{OutputArgs, say},
    signals,
};

/// Jobs of one page of a list.
const PAGE_JOBS: u32 = 1_000;
/// How long nothing may be recorded before the drain counts as stuck.
const STALL: Duration = Duration::from_secs(30);

/// Fill a queue, drain it with worker processes, and check every job
#[derive(Args, Debug)]
pub(crate) struct DrainArgs {
    /// How many jobs
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    jobs: u32,
    /// How long the arguments of each are, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=4_000))]
    args_bytes: u32,
    /// How many worker processes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// How many handlers run at once in each
    #[arg(long, value_name = "N", default_value_t = 500)]
    concurrency: usize,
    /// How many more jobs lie ready in each
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    prefetch: usize,
    /// Run the bare statements of the store too, as plain SQL, and compare
    #[arg(long, conflicts_with = "broker")]
    bare: bool,
    /// Measure this broker instead of one of our own. It gets a queue that nobody else has
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    broker: Vec<Address>,
    /// The database under that broker, to count commits and WAL and to check the outcomes in
    #[arg(long, value_name = "URL", requires = "broker")]
    database_url: Option<String>,
    /// The schema of the cell
    #[arg(long, value_name = "NAME", default_value = "cabbage")]
    schema: Schema,
    /// The major version of PostgreSQL to measure on
    #[arg(long, value_name = "MAJOR", conflicts_with = "broker",
          value_parser = clap::value_parser!(u32).range(15..=18))]
    postgres_version: Option<u32>,
    #[command(flatten)]
    output: OutputArgs,
}

impl DrainArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let report = tokio::select! {
            report = self.measure() => report?,
            signal = signals::stop() => return Err(Failure::new(Exit::Failure, format!("stopped by {signal}"))),
        };
        self.output.print(|| report.page(), &report)?;
        if report.is_clean() {
            return Ok(());
        }
        Err(Failure::new(Exit::Failure, "not every job ran and succeeded exactly once"))
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        let mut cell = match self.broker.as_slice() {
            [] => {
                say("starting PostgreSQL and a broker of our own");
                Cell::private(self.postgres_version, &self.schema).await?
            }
            addresses => Cell::given(addresses, self.database_url.as_deref(), &self.schema).await?,
        };
        let jobs = self.jobs as usize;
        let queue = format!("bench-{}", Uuid::new_v4().simple());

        say(format_args!("deferring {jobs} jobs"));
        let before = cell.costs().await?;
        let start = Instant::now();
        let ids = self.fill(cell.address(), &queue).await?;
        let mut defer = Phase::new("defer", jobs, start.elapsed());
        let filled = cell.costs().await?;
        cell.fill_in(&mut defer, &before, &filled).await?;
        defer.cpu("caller", before.ours, filled.ours);

        cell.checkpoint().await?;
        let (mut drain, tally, costs) = self.drain(&mut cell, &queue, &ids).await?;
        cell.fill_in(&mut drain, &costs.0, &costs.1).await?;

        say("checking every job");
        let range = (*ids.iter().min().context("no job")?, *ids.iter().max().context("no job")?);
        let finals = cell.finals(&queue, range).await?;
        let listed_succeeded = match finals {
            Some(_) => None,
            None => Some(listed(cell.address(), &queue).await?),
        };
        let settings = cell.settings().await?;
        let mut phases = vec![defer, drain];
        let mut drain_to_bare = None;
        if self.bare {
            say("running the bare statements");
            let facts = [phases[0].fact_bytes_per_job, phases[1].fact_bytes_per_job].map(Option::unwrap_or_default);
            let bare = bare::run(&mut cell, jobs, self.args_bytes as usize, facts).await?;
            drain_to_bare = Some(phases[1].jobs_per_second / bare[1].jobs_per_second);
            phases.extend(bare);
        }
        cell.close().await?;
        Ok(Report {
            version: env!("CARGO_PKG_VERSION"),
            optimized: !cfg!(debug_assertions),
            cores: thread::available_parallelism().map_or(0, usize::from),
            jobs,
            args_bytes: self.args_bytes as usize,
            workers: usize::from(self.workers),
            concurrency: self.concurrency,
            prefetch: self.prefetch,
            phases,
            drain_to_bare,
            tally,
            finals,
            listed_succeeded,
            settings,
        })
    }

    /// Defers the jobs in batches, a few calls at a time; answers their ids.
    async fn fill(&self, address: &str, queue: &str) -> anyhow::Result<Vec<i64>> {
        let args = args(self.args_bytes as usize);
        let client = Client::builder(address).timeout(Duration::from_mins(2)).build()?;
        FILLING.defer(&client, 0..self.jobs, |_| NewJob::named(TASK).queue(queue).args_json(args.clone())).await
    }

    async fn drain(&self, cell: &mut Cell, queue: &str, ids: &[i64]) -> anyhow::Result<(Phase, Tally, (Costs, Costs))> {
        let base = *ids.iter().min().context("no job")?;
        let span = ids.iter().max().context("no job")? - base + 1;
        let mut workers = Vec::new();
        for number in 1..=self.workers {
            let args = self.worker_args(cell.address(), queue, base, span);
            let mut worker = Child::start(&format!("worker {number}"), &args)?;
            worker.expect("ready").await?;
            workers.push(worker);
        }
        let pids: Vec<_> = workers.iter().map(Child::pid).collect();
        let cpu_of_workers = || pids.iter().map(|pid| cpu::of_process((*pid)?)).sum::<Option<Duration>>();
        say(format_args!("draining with {} worker processes", workers.len()));

        let (told, progress) = mpsc::channel(workers.len() * 16);
        let stop = CancellationToken::new();
        let before = cell.costs().await?;
        let cpu_before = cpu_of_workers();
        let start = Instant::now();
        let mut processes: JoinSet<anyhow::Result<RunsReport>> = JoinSet::new();
        for (place, worker) in workers.into_iter().enumerate() {
            processes.spawn(run(worker, place, told.clone(), stop.clone()));
        }
        drop(told);
        let finished = watch(progress, usize::from(self.workers), ids.len() as u64).await;
        let took = start.elapsed();
        let cpu_after = cpu_of_workers();
        let after = cell.costs().await?;
        stop.cancel();
        let mut reports = Vec::new();
        while let Some(report) = processes.join_next().await {
            reports.push(report??);
        }
        if let Err(recorded) = finished {
            say(format_args!("stuck: nothing was recorded for {STALL:?}; {recorded} of {} jobs are", ids.len()));
        }
        let tally = Tally::of(ids, &reports).context("a worker's report is malformed")?;
        let mut phase = Phase::new("drain", ids.len(), took);
        phase.cpu("workers", cpu_before, cpu_after);
        Ok((phase, tally, (before, after)))
    }

    fn worker_args(&self, address: &str, queue: &str, base: i64, span: i64) -> Vec<String> {
        let options = [
            ("--broker", address.to_owned()),
            ("--queue", queue.to_owned()),
            ("--base", base.to_string()),
            ("--span", span.to_string()),
            ("--concurrency", self.concurrency.to_string()),
            ("--prefetch", self.prefetch.to_string()),
        ];
        let options = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        ["bench", "worker"].map(str::to_owned).into_iter().chain(options).collect()
    }
}

/// Lets a worker process go, hands on how many results it has recorded, and fetches its report at the end.
async fn run(
    mut worker: Child,
    place: usize,
    told: mpsc::Sender<(usize, u64)>,
    stop: CancellationToken,
) -> anyhow::Result<RunsReport> {
    worker.tell("go").await?;
    loop {
        tokio::select! {
            line = worker.line() => {
                let Some(line) = line? else { bail!("a worker process ended by itself") };
                if let Some(recorded) = line.strip_prefix("recorded ") {
                    // Nobody listens once all is recorded.
                    let _ = told.send((place, recorded.parse()?)).await;
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

/// Waits until so many results are recorded in all. The error says how many were, when nothing more came.
async fn watch(mut progress: mpsc::Receiver<(usize, u64)>, workers: usize, wanted: u64) -> Result<(), u64> {
    let mut recorded = vec![0; workers];
    loop {
        let sum: u64 = recorded.iter().sum();
        if sum >= wanted {
            return Ok(());
        }
        match timeout(STALL, progress.recv()).await {
            Ok(Some((place, count))) => recorded[place] = count,
            Ok(None) | Err(_) => return Err(sum),
        }
    }
}

/// JSON of exactly this length.
pub(super) fn args(bytes: usize) -> String {
    let frame = r#"{"pad":""}"#.len();
    format!(r#"{{"pad":"{}"}}"#, "x".repeat(bytes.saturating_sub(frame)))
}

/// How many jobs of the queue the broker shows as succeeded.
async fn listed(address: &str, queue: &str) -> anyhow::Result<usize> {
    let client = Client::new(address)?;
    let filter = JobFilter::new().queue(queue).state(JobState::Succeeded).page_size(PAGE_JOBS);
    let (mut page, mut succeeded) = (client.list(filter), 0);
    while page.next().await?.is_some() {
        succeeded += 1;
    }
    Ok(succeeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_have_the_length_that_was_asked_for() {
        for bytes in [10, 100, 4_000] {
            assert_eq!(args(bytes).len(), bytes);
            assert!(serde_json::from_str::<serde_json::Value>(&args(bytes)).is_ok());
        }
    }

    #[tokio::test]
    async fn a_drain_ends_when_all_workers_together_have_recorded_enough() {
        let (told, progress) = mpsc::channel(8);
        for line in [(0, 1), (1, 5), (0, 5)] {
            told.send(line).await.unwrap();
        }
        assert_eq!(watch(progress, 2, 10).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_is_stuck_says_how_far_it_came() {
        let (told, progress) = mpsc::channel(8);
        told.send((1, 7)).await.unwrap();
        assert_eq!(watch(progress, 2, 10).await, Err(7));
    }
}
