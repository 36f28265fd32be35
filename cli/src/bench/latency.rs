//! `bench latency`: how long a job takes from its defer to its start, and to its result.

use anyhow::ensure;
use clap::Args;
use serde::Serialize;

use super::{
    about::About,
    drain::{check, new_queue},
    probe::{Prober, Waits},
    report::Check,
    runs::Tally,
    target::TargetArgs,
    times::Times,
    unless_stopped,
};
use crate::{
    exit::{Exit, Failure, Outcome},
    output::{OutputArgs, lines, say, table},
};

/// Jobs before those that are measured.
const WARM_UP_JOBS: u32 = 200;

/// Defer jobs at a steady rate, and see how long each takes to its start, and to its result
///
/// The rate is kept whatever the answers take (open loop): the time of a job counts from the moment when it was to be
/// sent. First the jobs are only deferred; then as many are deferred and their results waited for, one call each.
#[derive(Args, Debug)]
pub(crate) struct LatencyArgs {
    /// How many jobs a second
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    rate: u32,
    /// For how long, each time
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    about: About,
    rate: u32,
    seconds: u32,
    /// From the defer to the start of the handler.
    start: Waits,
    /// From the defer to the result, at whoever deferred.
    result: Times,
    check: Check,
}

impl LatencyArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let report = unless_stopped(self.measure()).await?;
        self.output.print(|| report.page(), &report)?;
        if report.check.is_clean() {
            return Ok(());
        }
        Err(Failure::new(Exit::Failure, "not every job ran and succeeded exactly once"))
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        let mut cell = self.target.cell().await?;
        let (queue, jobs) = (new_queue(), self.rate * self.seconds);
        let mut prober = Prober::start(cell.address(), queue.clone(), WARM_UP_JOBS + 2 * jobs)?;
        prober.connected().await?;
        prober.measure(0..WARM_UP_JOBS, self.rate.min(WARM_UP_JOBS)).await?;
        cell.checkpoint().await?;
        say(format_args!("deferring {jobs} jobs, {} a second", self.rate));
        let next = WARM_UP_JOBS + jobs;
        let start = prober.measure(WARM_UP_JOBS..next, self.rate).await?;
        say("the same, waiting for results");
        let result = prober.measure_results(next..next + jobs, self.rate).await?;
        let (ids, (ran, doubled)) = (prober.ids(), prober.counts());
        ensure!(ids.len() == (WARM_UP_JOBS + 2 * jobs) as usize, "not every call was answered");
        // Stopped, so that every result is recorded.
        prober.stop().await?;
        let tally = Tally { ran: ran + doubled, lost: ids.len() as u64 - ran, doubled, ..Tally::default() };
        let check = check(&mut cell, &queue, &ids, Some(tally)).await?;
        let about = About::of(&mut cell).await?;
        cell.close().await?;
        Ok(Report { about, rate: self.rate, seconds: self.seconds, start, result, check })
    }
}

impl Report {
    fn page(&self) -> String {
        let Self { about, rate, seconds, start, result, check } = self;
        let mut figures = table(&["defer to", "p50 ms", "p99 ms", "p99.9 ms", "max ms"]);
        for (name, times) in [("start", &start.times), ("result", result)] {
            let figure = |value: f64| format!("{value:.2}");
            let row = [times.p50_ms, times.p99_ms, times.p999_ms, times.max_ms].map(figure);
            figures.add_row(std::iter::once(name.to_owned()).chain(row));
        }
        let head = about.head(format_args!("{rate} jobs a second for {seconds} s, open loop"));
        let mut page = vec![head, String::new(), lines(figures), String::new()];
        page.extend(check.lines());
        page.extend(about.settings());
        page.join("\n")
    }
}
