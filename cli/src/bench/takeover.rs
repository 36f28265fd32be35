//! `bench takeover`: how long nobody starts anything after the owner was killed; or, planned, was told to hand over.

use anyhow::{Context as _, ensure};
use cabbage_migrations::Schema;
use clap::Args;
use serde::Serialize;

use super::{
    about::About,
    cell::Cell,
    crowd::{Crowd, Kind},
    planned,
    probe::Prober,
    times::median_and_worst,
    unless_stopped,
};
use crate::{
    exit::{Exit, Failure, Outcome},
    output::{OutputArgs, lines, say, table},
};

/// The queue of the jobs that wait, and that of the probes.
const CROWD_QUEUE: &str = "bench-crowd";
const PROBE_QUEUE: &str = "bench-probes";
/// Probes before the owner is killed, and how many a second.
const WARM_UP_PROBES: u32 = 100;
const WARM_UP_RATE: u32 = 100;
/// Probes that are sent one after the other until one starts.
const PROBES: u32 = 10_000;

/// Kill the owner with `kill -9` while jobs wait in its memory, and see when the standby starts one
///
/// A client defers one job after the other, at whoever serves, and an idle worker waits for them; the time runs from
/// the kill to the first start of a handler. Each round has a new standby.
///
/// With --planned nobody is killed: the owner is told to hand over, under load, and the time is the longest without a start
/// of a handler. A call that fails, a handler that is cancelled, an attempt that is used up is an error then.
#[derive(Args, Debug)]
pub(crate) struct TakeoverArgs {
    /// How many jobs wait in the owner's memory
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    jobs: u32,
    /// Hand the cell over instead, as a deploy does
    #[arg(long)]
    planned: bool,
    /// How often the owner is killed, or hands over
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// The major version of PostgreSQL to measure on
    #[arg(long, value_name = "MAJOR", value_parser = clap::value_parser!(u32).range(15..=18))]
    postgres_version: Option<u32>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    about: About,
    jobs: u32,
    /// From the kill to the first start, each round, in milliseconds.
    rounds_ms: Vec<f64>,
    median_ms: f64,
    worst_ms: f64,
    /// Memory of the last owner.
    owner_mib: Option<f64>,
    /// Of the jobs that waited, how many the database still has at the end.
    kept: Option<i64>,
    /// Of the jobs that waited, how many ran, which must be none.
    escaped: u64,
}

impl TakeoverArgs {
    pub(crate) async fn run(&self) -> Outcome {
        if self.planned {
            let measured = planned::measure(self.jobs, self.rounds, self.postgres_version);
            let report = unless_stopped(measured).await?;
            self.output.print(|| report.page(), &report)?;
            return report.wrong().map_or(Ok(()), |wrong| Err(Failure::new(Exit::Failure, wrong)));
        }
        let report = unless_stopped(self.measure()).await?;
        self.output.print(|| report.page(), &report)?;
        if report.kept == Some(i64::from(self.jobs)) && report.escaped == 0 {
            return Ok(());
        }
        Err(Failure::new(Exit::Failure, "jobs that waited are lost, or ran"))
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        say("starting PostgreSQL and a broker of our own");
        let mut cell = Cell::private(self.postgres_version, &Schema::default()).await?;
        let mut crowd = Crowd::gather(&cell, CROWD_QUEUE.to_owned(), Kind::Unserved, 1).await?;
        say(format_args!("deferring {} jobs that wait", self.jobs));
        crowd.grow(self.jobs).await?;
        let escaped = crowd.escaped();
        crowd.scatter().await?;
        let mut rounds_ms = Vec::new();
        for round in 1..=self.rounds {
            cell.add_standby().await?;
            cell.checkpoint().await?;
            let mut prober = Prober::start(cell.address(), format!("{PROBE_QUEUE}-{round}"), WARM_UP_PROBES + PROBES)?;
            prober.connected().await?;
            prober.measure(0..WARM_UP_PROBES, WARM_UP_RATE).await?;
            let killed = cell.kill_owner().await?;
            let started = prober.first_start(WARM_UP_PROBES..WARM_UP_PROBES + PROBES).await?;
            let took = started.saturating_duration_since(killed).as_secs_f64() * 1e3;
            say(format_args!("round {round}: {took:.0} ms"));
            rounds_ms.push(took);
            prober.stop().await?;
        }
        let (median_ms, worst_ms) = median_and_worst(rounds_ms.iter().copied()).context("at least one round")?;
        let owner_mib = cell.owner_memory().map(|bytes| bytes as f64 / f64::from(1 << 20));
        let kept = cell.finals(CROWD_QUEUE, (1, i64::MAX)).await?;
        ensure!(kept.is_none_or(|kept| kept.succeeded == 0), "jobs succeeded that nobody serves");
        let about = About::of(&mut cell).await?;
        cell.close().await?;
        Ok(Report {
            about,
            jobs: self.jobs,
            median_ms,
            worst_ms,
            rounds_ms,
            owner_mib,
            kept: kept.map(|kept| kept.jobs),
            escaped,
        })
    }
}

impl Report {
    fn page(&self) -> String {
        let mut figures = table(&["rounds", "median ms", "worst ms", "owner MiB"]);
        figures.add_row([
            self.rounds_ms.len().to_string(),
            format!("{:.0}", self.median_ms),
            format!("{:.0}", self.worst_ms),
            self.owner_mib.map_or("-".to_owned(), |mib| format!("{mib:.0}")),
        ]);
        let head = self.about.head(format_args!("kill -9 of the owner with {} jobs in its memory", self.jobs));
        let kept = self.kept.map_or("-".to_owned(), |kept| kept.to_string());
        let end = format!("the database has {kept} of {} jobs that wait; {} of them ran", self.jobs, self.escaped);
        let mut page = vec![head, String::new(), lines(figures), String::new(), end];
        page.extend(self.about.settings());
        page.join("\n")
    }
}
