//! `bench backlog`: whether a long queue is drained as fast as a short one.

use clap::Args;

use super::{
    about::About,
    drain::Filled,
    fleet::FleetArgs,
    report::{Ratio, Report},
    target::TargetArgs,
    unless_stopped,
};
use crate::{exit::Outcome, output::OutputArgs};

/// Drain a short queue, then a long one in the same cell, and compare
#[derive(Args, Debug)]
pub(crate) struct BacklogArgs {
    /// How many jobs the long queue has
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    jobs: u32,
    /// How many jobs the short queue has
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    short: u32,
    /// How long the arguments of each are, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=4_000))]
    args_bytes: u32,
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl BacklogArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let report = unless_stopped(self.measure()).await?;
        report.conclude(self.output)
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        let mut cell = self.target.cell().await?;
        let args_bytes = self.args_bytes as usize;
        let (mut phases, mut checks) = (Vec::new(), Vec::new());
        for (jobs, defer, drain) in
            [(self.short, "short defer", "short drain"), (self.jobs, "long defer", "long drain")]
        {
            let mut filled = Filled::fill(defer, &mut cell, jobs, args_bytes).await?;
            let (phase, check) = filled.drain(drain, &mut cell, &self.fleet).await?;
            phases.extend([filled.phase, phase]);
            checks.push(check);
        }
        let ratios = vec![Ratio::of(&phases, 3, 1)];
        let about = About::of(&mut cell).await?;
        cell.close().await?;
        let workload = format!("queues of {} and {} jobs of {args_bytes} bytes", self.short, self.jobs);
        Ok(Report { about, workload, args_bytes, fleet: Some(self.fleet), phases, ratios, checks })
    }
}
