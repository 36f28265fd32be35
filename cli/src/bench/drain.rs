//! `bench drain`: how fast workers empty a queue that is full, and what that costs.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use cabbage_worker::{Client, JobFilter, NewJob, v1::JobState};
use clap::Args;
use uuid::Uuid;

use super::{
    about::About,
    bare::{self, Stretch},
    batches::FILLING,
    cell::Cell,
    fleet::{FleetArgs, STALL, Work},
    phase::Phase,
    report::{Check, Ratio, Report},
    runs::Tally,
    target::TargetArgs,
    unless_stopped,
    worker::TASK,
};
use crate::{
    exit::Outcome,
    output::{OutputArgs, say},
};

/// Jobs of one page of a list.
const PAGE_JOBS: u32 = 1_000;
/// How long a call may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// Fill a queue, drain it with worker processes, and check every job
#[derive(Args, Debug)]
pub(crate) struct DrainArgs {
    /// How many jobs
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    jobs: u32,
    /// How long the arguments of each are, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=4_000))]
    args_bytes: u32,
    #[command(flatten)]
    fleet: FleetArgs,
    /// Run the bare statements of the store too, as plain SQL, and compare
    #[arg(long, conflicts_with = "broker")]
    bare: bool,
    /// Keep a transaction open meanwhile that has an id and a snapshot of the time before the drain
    #[arg(long, conflicts_with = "broker")]
    old_snapshot: bool,
    /// Fill and drain once more through a second broker, which relays, and compare
    #[arg(long, conflicts_with = "broker")]
    relayed: bool,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl DrainArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let report = unless_stopped(self.measure()).await?;
        report.conclude(self.output)
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        let mut cell = self.target.cell().await?;
        let jobs = self.jobs as usize;
        let args_bytes = self.args_bytes as usize;
        let mut filled = Filled::fill("defer", &mut cell, self.jobs, args_bytes).await?;
        let snapshot = if self.old_snapshot { Some(cell.old_snapshot().await?) } else { None };
        let (drain, check) = filled.drain("drain", &mut cell, &self.fleet).await?;
        if let Some(snapshot) = snapshot {
            snapshot.close().await?;
        }
        let about = About::of(&mut cell).await?;
        let (mut phases, mut checks) = (vec![filled.phase, drain], vec![check]);
        let mut ratios = Vec::new();
        if self.bare {
            say("running the bare statements");
            let bytes = |phase: &Phase| phase.fact_bytes_per_job.unwrap_or_default();
            let insert = Stretch {
                name: "bare insert",
                connections: 1,
                inserts: true,
                finishes: false,
                packs: true,
                fact_bytes: bytes(&phases[0]),
            };
            let finish = Stretch {
                name: "bare start + finish",
                inserts: false,
                finishes: true,
                fact_bytes: bytes(&phases[1]),
                ..insert
            };
            let stretches = [
                insert,
                finish,
                Stretch { name: "bare insert by two", connections: 2, ..insert },
                Stretch { name: "bare start + finish by two", connections: 2, ..finish },
                Stretch { name: "bare insert again", ..insert },
                Stretch { name: "bare start + finish, a row for each job", packs: false, ..finish },
            ];
            phases.extend(bare::run(&mut cell, jobs, args_bytes, &stretches).await?);
            ratios.extend([Ratio::of(&phases, 1, 3), Ratio::of(&phases, 1, 5), Ratio::of(&phases, 1, 7)]);
        }
        if self.relayed {
            say("draining through a second broker, which relays");
            cell.relay().await?;
            let mut filled = Filled::fill("relayed defer", &mut cell, self.jobs, args_bytes).await?;
            let (drain, check) = filled.drain("relayed drain", &mut cell, &self.fleet).await?;
            phases.extend([filled.phase, drain]);
            checks.push(check);
            ratios.push(Ratio::of(&phases, phases.len() - 1, 1));
        }
        cell.close().await?;
        let snapshot = if self.old_snapshot { ", with an old snapshot open" } else { "" };
        let workload = format!("{jobs} jobs of {args_bytes} bytes{snapshot}");
        let fleet = Some(self.fleet);
        Ok(Report { about, workload, args_bytes, fleet, phases, ratios, checks })
    }
}

/// A queue full of jobs.
pub(super) struct Filled {
    queue: String,
    ids: Vec<i64>,
    /// How it was filled.
    pub(super) phase: Phase,
}

impl Filled {
    /// Fills a queue that nobody else has.
    pub(super) async fn fill(
        name: &'static str,
        cell: &mut Cell,
        jobs: u32,
        args_bytes: usize,
    ) -> anyhow::Result<Self> {
        say(format_args!("deferring {jobs} jobs"));
        let queue = new_queue();
        let client = Client::builder(cell.address()).timeout(PATIENCE).build()?;
        let args = args(args_bytes);
        let before = cell.costs().await?;
        let start = Instant::now();
        let job = |_| NewJob::named(TASK).queue(&queue).args_json(args.clone());
        let ids = FILLING.defer(&client, 0..jobs, job).await?;
        let mut phase = Phase::new(name, ids.len(), start.elapsed());
        let after = cell.costs().await?;
        cell.fill_in(&mut phase, &before, &after).await?;
        phase.cpu("caller", before.ours, after.ours);
        cell.settle().await?;
        Ok(Self { queue, ids, phase })
    }

    /// Empties it, and checks every job.
    pub(super) async fn drain(
        &mut self,
        name: &'static str,
        cell: &mut Cell,
        fleet: &FleetArgs,
    ) -> anyhow::Result<(Phase, Check)> {
        let base = *self.ids.iter().min().context("no job")?;
        let span = self.ids.iter().max().context("no job")? - base + 1;
        let workers = fleet.start(Work { address: cell.address(), queue: &self.queue, base, span }).await?;
        say(format_args!("draining with {} worker processes", fleet.workers));
        let before = cell.costs().await?;
        let start = Instant::now();
        let mut running = workers.go();
        let cpu_before = running.cpu();
        let finished = running.fifths(self.ids.len() as u64).await;
        let mut phase = Phase::new(name, self.ids.len(), start.elapsed());
        phase.last_fifth_to_first = finished.ok().map(|took| took[0].as_secs_f64() / took[4].as_secs_f64());
        phase.cpu("workers", cpu_before, running.cpu());
        let after = cell.costs().await?;
        let reports = running.stop().await?;
        if let Err(recorded) = finished {
            say(format_args!("stuck: nothing was recorded for {STALL:?}; {recorded} of {} jobs are", self.ids.len()));
        }
        cell.fill_in(&mut phase, &before, &after).await?;
        let tally = Tally::of(&self.ids, &reports).context("a worker's report is malformed")?;
        Ok((phase, check(cell, &self.queue, &self.ids, Some(tally)).await?))
    }
}

/// A name that no other queue has.
pub(super) fn new_queue() -> String {
    format!("bench-{}", Uuid::new_v4().simple())
}

/// What has become of all jobs of a queue. Without a tally: they are to wait still.
pub(super) async fn check(cell: &mut Cell, queue: &str, ids: &[i64], tally: Option<Tally>) -> anyhow::Result<Check> {
    say("checking every job");
    let range = (*ids.iter().min().context("no job")?, *ids.iter().max().context("no job")?);
    let drained = tally.is_some();
    let finals = cell.finals(queue, range).await?;
    let listed = match finals {
        Some(_) => None,
        None => Some(listed(cell.address(), queue, drained).await?),
    };
    Ok(Check { jobs: ids.len(), drained, tally, finals, listed })
}

/// How many jobs of the queue the broker shows as succeeded, or as waiting.
async fn listed(address: &str, queue: &str, drained: bool) -> anyhow::Result<usize> {
    let client = Client::new(address)?;
    let state = if drained { JobState::Succeeded } else { JobState::Waiting };
    let filter = JobFilter::new().queue(queue).state(state).page_size(PAGE_JOBS);
    let (mut page, mut found) = (client.list(filter), 0);
    while page.next().await?.is_some() {
        found += 1;
    }
    Ok(found)
}

/// JSON of exactly this length.
pub(super) fn args(bytes: usize) -> String {
    let frame = r#"{"pad":""}"#.len();
    format!(r#"{{"pad":"{}"}}"#, "x".repeat(bytes.saturating_sub(frame)))
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
}
