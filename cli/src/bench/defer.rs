//! `bench defer`: how fast callers defer, one by one or in batches.

use anyhow::{Context as _, ensure};
use clap::Args;

use super::{
    about::About,
    caller::CallerArgs,
    cell::Cell,
    drain::{self, check, new_queue},
    fleet::{FleetArgs, Work},
    phase::Phase,
    report::Report,
    runs::Tally,
    target::TargetArgs,
    unless_stopped,
};
use crate::{
    exit::Outcome,
    output::{OutputArgs, say},
};

/// Calls before those that are measured.
const WARM_UP_JOBS: u32 = 2_000;

/// Defer jobs from many callers at once, and check that each is there exactly once
///
/// In a cell of our own the jobs are left waiting. On a broker that is there they are drained afterwards, so that it is
/// left as it was.
#[derive(Args, Debug)]
pub(crate) struct DeferArgs {
    /// How many jobs
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    jobs: u32,
    /// How long the arguments of each are, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=4_000))]
    args_bytes: u32,
    #[command(flatten)]
    callers: CallerArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl DeferArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let report = unless_stopped(self.measure()).await?;
        report.conclude(self.output)
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        let mut cell = self.target.cell().await?;
        let (queue, args) = (new_queue(), drain::args(self.args_bytes as usize));
        let mut ids = self.callers.defer(cell.address(), &queue, &args, WARM_UP_JOBS).await?.ids;
        cell.checkpoint().await?;
        say(format_args!("deferring {} jobs", self.jobs));
        let before = cell.costs().await?;
        let called = self.callers.defer(cell.address(), &queue, &args, self.jobs).await?;
        let mut phase = Phase::new("defer", called.ids.len(), called.took);
        let after = cell.costs().await?;
        cell.fill_in(&mut phase, &before, &after).await?;
        phase.cpu("caller", before.ours, after.ours);
        phase.calls = Some(called.times);
        ids.extend(called.ids);
        let answered = ids.len();
        ids.sort_unstable();
        ids.dedup();
        ensure!(ids.len() == answered, "{} calls were answered with the id of another job", answered - ids.len());
        let tally = if cell.is_ours() { None } else { Some(empty(&cell, &queue, &ids).await?) };
        let checks = vec![check(&mut cell, &queue, &ids, tally).await?];
        let about = About::of(&mut cell).await?;
        cell.close().await?;
        let args_bytes = self.args_bytes as usize;
        let workload = self.callers.describe(self.jobs, args_bytes);
        Ok(Report { about, workload, args_bytes, fleet: None, phases: vec![phase], ratios: Vec::new(), checks })
    }
}

/// Runs all jobs of the queue.
async fn empty(cell: &Cell, queue: &str, ids: &[i64]) -> anyhow::Result<Tally> {
    let (first, last) = (ids.first().copied().unwrap_or_default(), ids.last().copied().unwrap_or_default());
    let fleet = FleetArgs { workers: 1, concurrency: 500, prefetch: 2_000 };
    let work = Work { address: cell.address(), queue, base: first, span: last - first + 1 };
    let mut running = fleet.start(work).await?.go();
    if let Err(recorded) = running.recorded(ids.len() as u64).await {
        say(format_args!("stuck: {recorded} of {} jobs are recorded", ids.len()));
    }
    let reports = running.stop().await?;
    Tally::of(ids, &reports).context("a worker's report is malformed")
}
