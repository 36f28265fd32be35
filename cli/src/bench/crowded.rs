//! `bench locked` and `bench crowd`: whether jobs that cannot start cost those that can anything.

mod bursts;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use cabbage_migrations::Schema;
use clap::Args;
use serde::Serialize;

use super::{
    cell::Cell,
    crowd::{Crowd, Kind},
    probe::Waits,
    unless_stopped,
};
use bursts::Side;

use crate::{
    exit::{Exit, Failure, Outcome},
    output::{OutputArgs, lines, say, table},
};

/// The queues of the crowd and of the probes.
const CROWD_QUEUE: &str = "bench-crowd";
const PROBE_QUEUE: &str = "bench-probes";
/// Probes before the first measurement, so that the cell is warm.
const WARM_UP_PROBES: u32 = 200;
/// Probes that are sent one after the other until one starts after a takeover.
const TAKEOVER_PROBES: u32 = 10_000;
/// The crowd that a row is compared with in front of no crowd: within this factor it counts as flat.
const FLAT: f64 = 1.5;

/// Put jobs behind held locks, and see whether free jobs notice: the claim of the how-to
#[derive(Args, Debug)]
pub(crate) struct LockedArgs {
    /// How many locked jobs stand in front
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000],
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    jobs: Vec<u32>,
    /// Over how many different locks
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 100, 10_000],
          value_parser = clap::value_parser!(u32).range(1..=50_000))]
    locks: Vec<u32>,
    #[command(flatten)]
    measure: MeasureArgs,
}

/// Put jobs in front that wait for something else than a lock or are over, and see whether free jobs notice
#[derive(Args, Debug)]
pub(crate) struct CrowdArgs {
    /// How many jobs stand in front
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [100_000, 1_000_000],
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    jobs: Vec<u32>,
    /// What they wait for
    #[arg(long, value_name = "KIND,…", value_enum, value_delimiter = ',',
          default_values_t = [Kind::Scheduled, Kind::Unserved, Kind::Paused, Kind::Finished])]
    kinds: Vec<Kind>,
    #[command(flatten)]
    measure: MeasureArgs,
}

#[derive(Args, Debug)]
struct MeasureArgs {
    /// How many free jobs are deferred for each row, one by one
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    probes: u32,
    /// How many of them a second
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// How many free jobs are then deferred and drained at once
    #[arg(long, value_name = "N", default_value_t = 50_000,
          value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    burst: u32,
    /// How many times over, each beside the same in a cell without a crowd; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    bursts: u32,
    /// Do not kill the owner at the end of each crowd to see how long the standby takes
    #[arg(long)]
    no_takeover: bool,
    /// The major version of PostgreSQL to measure on
    #[arg(long, value_name = "MAJOR", value_parser = clap::value_parser!(u32).range(15..=18))]
    postgres_version: Option<u32>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    optimized: bool,
    cores: usize,
    rate: u32,
    burst: u32,
    bursts: u32,
    rows: Vec<Row>,
}

/// The figures in front of one crowd.
#[derive(Debug, Serialize)]
struct Row {
    kind: Kind,
    locks: u32,
    jobs: u32,
    /// How fast the crowd was deferred, per second.
    gathered_per_second: Option<f64>,
    /// From defer to start of free jobs.
    waits: Waits,
    /// Free jobs deferred, run and recorded, per second: the median of the bursts.
    burst_per_second: f64,
    /// To the row without a crowd in the same cell.
    p50_ratio: f64,
    p99_ratio: f64,
    /// To bursts in a cell that never had a crowd, in turns.
    burst_ratio: f64,
    /// Memory of the owner.
    owner_mib: Option<f64>,
    /// From the kill of the owner to the first start at the standby.
    takeover_ms: Option<f64>,
    /// Jobs of the crowd that ran.
    escaped: u64,
}

impl LockedArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let crowds: Vec<_> = self.locks.iter().map(|locks| (Kind::Locked, *locks)).collect();
        self.measure.run(&crowds, &self.jobs).await
    }
}

impl CrowdArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let crowds: Vec<_> = self.kinds.iter().map(|kind| (*kind, 1)).collect();
        self.measure.run(&crowds, &self.jobs).await
    }
}

impl MeasureArgs {
    async fn run(&self, crowds: &[(Kind, u32)], sizes: &[u32]) -> Outcome {
        let mut sizes = sizes.to_vec();
        sizes.sort_unstable();
        let measured = async {
            let mut rows = Vec::new();
            for (kind, locks) in crowds {
                Box::pin(self.crowd(*kind, *locks, &sizes, &mut rows)).await?;
            }
            anyhow::Ok(rows)
        };
        let rows = unless_stopped(measured).await?;
        let report = Report {
            version: env!("CARGO_PKG_VERSION"),
            optimized: !cfg!(debug_assertions),
            cores: thread::available_parallelism().map_or(0, usize::from),
            rate: self.rate,
            burst: self.burst,
            bursts: self.bursts,
            rows,
        };
        self.output.print(|| report.page(), &report)?;
        if report.is_clean() {
            return Ok(());
        }
        Err(Failure::new(Exit::Failure, "a free job ran twice, or a job ran that had to wait"))
    }

    /// One cell: first without a crowd, then with ever more of it. And one beside it that stays without.
    async fn crowd(&self, kind: Kind, locks: u32, sizes: &[u32], rows: &mut Vec<Row>) -> anyhow::Result<()> {
        say("starting two PostgreSQLs, each with a broker of our own");
        let steps = u32::try_from(sizes.len()).unwrap_or(u32::MAX) + 1;
        let numbers = WARM_UP_PROBES + steps * (self.probes + self.bursts * self.burst) + TAKEOVER_PROBES;
        let mut cell = Cell::private(self.postgres_version, &Schema::default()).await?;
        if !self.no_takeover {
            cell.add_standby().await?;
        }
        let mut crowded = Side::start(cell, PROBE_QUEUE, numbers).await?;
        let empty = Cell::private(self.postgres_version, &Schema::default()).await?;
        let mut empty = Side::start(empty, PROBE_QUEUE, numbers).await?;
        let mut crowd = Crowd::gather(&crowded.cell, CROWD_QUEUE.to_owned(), kind, locks).await?;
        for side in [&mut crowded, &mut empty] {
            let warm_up = side.take(WARM_UP_PROBES);
            side.prober.measure(warm_up, self.rate).await?;
        }
        let first = rows.len();
        for size in std::iter::once(0).chain(sizes.iter().copied()) {
            let grown = rows.last().filter(|_| rows.len() > first).map_or(0, |row| row.jobs);
            say(format_args!("{size} jobs, {}", crowd_name(kind, locks)));
            let begin = Instant::now();
            crowd.grow(size).await?;
            let gathering = begin.elapsed();
            crowded.cell.settle().await?;
            let probes = crowded.take(self.probes);
            let waits = crowded.prober.measure(probes, self.rate).await?;
            let bursts = bursts::in_turns(&mut crowded, &mut empty, self.bursts, self.burst).await?;
            let base = rows.get(first).map_or_else(|| waits.clone(), |row| row.waits.clone());
            rows.push(Row {
                kind,
                locks,
                jobs: size,
                gathered_per_second: (size > grown).then(|| f64::from(size - grown) / gathering.as_secs_f64()),
                p50_ratio: waits.times.p50_ms / base.times.p50_ms,
                p99_ratio: waits.times.p99_ms / base.times.p99_ms,
                waits,
                burst_per_second: bursts.per_second,
                burst_ratio: bursts.ratio,
                owner_mib: crowded.cell.owner_memory().map(|bytes| bytes as f64 / f64::from(1 << 20)),
                takeover_ms: None,
                escaped: crowd.escaped(),
            });
        }
        empty.stop().await?;
        if !self.no_takeover {
            say("killing the owner");
            let killed = crowded.cell.kill_owner().await?;
            let probes = crowded.take(TAKEOVER_PROBES);
            let started = crowded.prober.first_start(probes).await?;
            let took = started.saturating_duration_since(killed);
            if took > Duration::from_mins(1) {
                bail!("the standby took {took:?}");
            }
            if let Some(row) = rows.last_mut() {
                row.takeover_ms = Some(took.as_secs_f64() * 1e3);
                row.escaped = crowd.escaped();
            }
        }
        crowd.scatter().await?;
        crowded.stop().await
    }
}

fn crowd_name(kind: Kind, locks: u32) -> String {
    match kind {
        Kind::Locked if locks == 1 => "behind 1 lock".to_owned(),
        Kind::Locked => format!("behind {locks} locks"),
        Kind::Scheduled => "scheduled".to_owned(),
        Kind::Unserved => "unserved".to_owned(),
        Kind::Paused => "paused".to_owned(),
        Kind::Finished => "finished".to_owned(),
    }
}

impl Report {
    fn is_clean(&self) -> bool {
        self.rows.iter().all(|row| row.escaped == 0 && row.waits.doubled == 0)
    }

    fn page(&self) -> String {
        let Self { version, cores, rate, burst, bursts, .. } = self;
        let build = if self.optimized { "" } else { " (a debug build: the figures mean nothing)" };
        let mut page = vec![format!(
            "cabbage {version}{build}, {cores} cores; {rate} free jobs a second, open loop, then {burst} at once, \
             {bursts} times"
        )];
        let mut figures = table(&[
            "jobs in front",
            "p50 ms",
            "p99 ms",
            "max ms",
            "p50",
            "p99",
            "burst jobs/s",
            "burst",
            "gathered/s",
            "owner MiB",
            "takeover ms",
        ]);
        for row in &self.rows {
            let or_dash = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
            figures.add_row([
                format!("{} {}", row.jobs, crowd_name(row.kind, row.locks)),
                format!("{:.2}", row.waits.times.p50_ms),
                format!("{:.2}", row.waits.times.p99_ms),
                format!("{:.2}", row.waits.times.max_ms),
                format!("{:.2}x", row.p50_ratio),
                format!("{:.2}x", row.p99_ratio),
                format!("{:.0}", row.burst_per_second),
                format!("{:.2}x", row.burst_ratio),
                or_dash(row.gathered_per_second, 0),
                or_dash(row.owner_mib, 0),
                or_dash(row.takeover_ms, 0),
            ]);
        }
        page.push(lines(figures));
        let worst = self.rows.iter().map(|row| row.p50_ratio).fold(1.0, f64::max);
        let verdict = if worst <= FLAT { "flat" } else { "not flat" };
        page.push(format!(
            "{verdict}: the median from defer to start is at most {worst:.2} times that without a crowd"
        ));
        let (doubled, escaped) = self.rows.iter().fold((0, 0), |(d, e), row| (d + row.waits.doubled, e + row.escaped));
        page.push(format!("{doubled} free jobs doubled, {escaped} jobs ran that had to wait"));
        page.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::{super::times::Times, *};

    fn row(jobs: u32, p50_ms: f64, p50_ratio: f64) -> Row {
        Row {
            kind: Kind::Locked,
            locks: 100,
            jobs,
            gathered_per_second: None,
            waits: Waits { times: Times { count: 10, p50_ms, p99_ms: 2.0, p999_ms: 2.5, max_ms: 3.0 }, doubled: 0 },
            burst_per_second: 50_000.0,
            p50_ratio,
            p99_ratio: 1.0,
            burst_ratio: 1.0,
            owner_mib: Some(100.0),
            takeover_ms: None,
            escaped: 0,
        }
    }

    fn report(rows: Vec<Row>) -> Report {
        Report { version: "0", optimized: true, cores: 2, rate: 100, burst: 1_000, bursts: 3, rows }
    }

    #[test]
    fn the_page_says_whether_the_crowd_was_noticed() {
        let flat = report(vec![row(0, 1.0, 1.0), row(10_000, 1.2, 1.2)]).page();
        assert!(flat.contains("10000 behind 100 locks") && flat.contains("\nflat: "), "{flat}");
        assert!(report(vec![row(0, 1.0, 1.0), row(10_000, 9.0, 9.0)]).page().contains("\nnot flat: "));
    }

    #[test]
    fn a_job_that_ran_behind_a_held_lock_is_not_clean() {
        assert!(report(vec![row(0, 1.0, 1.0)]).is_clean());
        assert!(!report(vec![Row { escaped: 1, ..row(0, 1.0, 1.0) }]).is_clean());
    }
}
