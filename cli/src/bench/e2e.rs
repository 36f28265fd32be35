//! `bench e2e`: jobs are deferred, started and finished at the same time.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use cabbage_worker::{Client, NewJob};
use clap::Args;

use super::{
    about::About,
    bare::{self, Stretch},
    caller::CallerArgs,
    drain::{self, check, new_queue},
    fleet::{FleetArgs, STALL, Work},
    phase::Phase,
    report::{Ratio, Report},
    runs::Tally,
    target::TargetArgs,
    unless_stopped,
    worker::TASK,
};
use crate::{
    exit::Outcome,
    output::{OutputArgs, say},
};

/// Ids that may be drawn and not used meanwhile: what a worker has room to note beyond the jobs.
const SPARE_IDS: i64 = 1 << 20;

/// Defer jobs while worker processes run them, and check every job
#[derive(Args, Debug)]
pub(crate) struct E2eArgs {
    /// How many jobs
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    jobs: u32,
    /// How long the arguments of each are, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=4_000))]
    args_bytes: u32,
    /// How many callers defer at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    callers: u32,
    /// How many jobs each call has
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    batch: u32,
    #[command(flatten)]
    fleet: FleetArgs,
    /// Run the bare statements of the store too, as plain SQL, all three in one commit, and compare
    #[arg(long, conflicts_with = "broker")]
    bare: bool,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl E2eArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let report = unless_stopped(self.measure()).await?;
        report.conclude(self.output)
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        let mut cell = self.target.cell().await?;
        let (jobs, args_bytes) = (self.jobs as usize, self.args_bytes as usize);
        let (queue, args) = (new_queue(), drain::args(args_bytes));
        // The workers must know where the ids begin before the first job that counts.
        let client = Client::builder(cell.address()).timeout(Duration::from_mins(2)).build()?;
        let first = client.defer_job(NewJob::named(TASK).queue(&queue).args_json(args.clone())).await?.job_id;
        let span = i64::from(self.jobs) * 2 + SPARE_IDS;
        let work = Work { address: cell.address(), queue: &queue, base: first, span };
        let mut running = self.fleet.start(work).await?.go();
        running.recorded(1).await.ok().context("no worker ran the first job")?;
        cell.checkpoint().await?;

        say(format_args!("deferring and running {jobs} jobs"));
        let callers = CallerArgs { callers: self.callers, batch: self.batch, stock: false, no_request_ids: false };
        let (before, cpu_before) = (cell.costs().await?, running.cpu());
        let start = Instant::now();
        let defer = callers.defer(cell.address(), &queue, &args, self.jobs);
        let (called, finished) = tokio::join!(defer, running.recorded(u64::from(self.jobs) + 1));
        let mut phase = Phase::new("defer + start + finish", jobs, start.elapsed());
        let called = called?;
        phase.cpu("workers", cpu_before, running.cpu());
        let after = cell.costs().await?;
        let reports = running.stop().await?;
        if let Err(recorded) = finished {
            say(format_args!("stuck: nothing was recorded for {STALL:?}; {recorded} of {jobs} jobs are"));
        }
        cell.fill_in(&mut phase, &before, &after).await?;
        phase.cpu("caller", before.ours, after.ours);
        phase.calls = Some(called.times);
        let mut ids = called.ids;
        ids.push(first);
        let tally = Tally::of(&ids, &reports).context("a worker's report is malformed")?;
        let checks = vec![check(&mut cell, &queue, &ids, Some(tally)).await?];
        let about = About::of(&mut cell).await?;
        let (mut phases, mut ratios) = (vec![phase], Vec::new());
        if self.bare {
            say("running the bare statements");
            let fact_bytes = phases[0].fact_bytes_per_job.unwrap_or_default();
            let all = Stretch {
                name: "bare, all in one commit",
                connections: 1,
                inserts: true,
                finishes: true,
                packs: true,
                fact_bytes,
            };
            let by_two = Stretch { name: "the same by two", connections: 2, ..all };
            let by_rows = Stretch { name: "the same, a row for each job", packs: false, ..all };
            phases.extend(bare::run(&mut cell, jobs, args_bytes, &[all, by_two, by_rows]).await?);
            ratios.extend([Ratio::of(&phases, 0, 1), Ratio::of(&phases, 0, 2), Ratio::of(&phases, 0, 3)]);
        }
        cell.close().await?;
        let workload = callers.describe(self.jobs, args_bytes);
        Ok(Report { about, workload, args_bytes, fleet: Some(self.fleet), phases, ratios, checks })
    }
}
