//! `bench schedule`: how late scheduled jobs start.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, ensure};
use cabbage_migrations::Schema;
use cabbage_worker::{Batch, Client, Context, NewJob, TaskError, Worker};
use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{sync::Notify, time::timeout};

use super::{cell::Cell, probe::Waits, times::Times, unless_stopped};
use crate::{
    exit::{Exit, Failure, Outcome},
    output::{OutputArgs, lines, say, table},
};

/// The task and queue of the jobs.
const TASK: &str = "bench_scheduled";
const QUEUE: &str = "bench-schedule";
/// Jobs of one call.
const BATCH_JOBS: usize = 1_000;
/// The first job becomes due so long after the last call.
const LEAD: Duration = Duration::from_secs(3);
/// How long after its time the last job may start.
const STALL: Duration = Duration::from_secs(30);

/// Schedule jobs, and see how late each starts on a broker that is else idle
///
/// The time of the database and that of the worker must be the same clock, so the cell is one of our own.
#[derive(Args, Debug)]
pub(crate) struct ScheduleArgs {
    /// How many jobs
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    jobs: u32,
    /// Over how many seconds they become due. What is due later than in half a minute is parked until then
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
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
    jobs: u32,
    seconds: u32,
    /// From the due time to the start.
    lateness: Waits,
    /// Jobs that started before their time, which must be none (C7).
    early: u64,
}

/// What the handlers saw.
struct Seen {
    state: Mutex<State>,
    done: Notify,
}

struct State {
    late: Histogram<u64>,
    early: u64,
    runs: Vec<u32>,
    left: usize,
}

impl ScheduleArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let report = unless_stopped(self.measure()).await?;
        self.output.print(|| report.page(), &report)?;
        if report.early == 0 && report.lateness.doubled == 0 {
            return Ok(());
        }
        Err(Failure::new(Exit::Failure, "a job started before its time, or twice"))
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        say("starting PostgreSQL and a broker of our own");
        let cell = Cell::private(self.postgres_version, &Schema::default()).await?;
        let jobs = self.jobs as usize;
        let state = State { late: Histogram::new(3)?, early: 0, runs: vec![0; jobs], left: jobs };
        let seen = Arc::new(Seen { state: Mutex::new(state), done: Notify::new() });
        let worker = Worker::builder(cell.address())
            .name("bench schedule")
            .queues([QUEUE])
            .concurrency(1_000)
            .shared_state(Arc::clone(&seen))
            .function(TASK, handler)
            .build()?;
        let (handle, running) = (worker.handle(), tokio::spawn(worker.run()));
        say(format_args!("scheduling {jobs} jobs over {} s", self.seconds));
        let client = Client::builder(cell.address()).timeout(Duration::from_mins(2)).build()?;
        let first = SystemTime::now() + LEAD;
        let step = Duration::from_secs(u64::from(self.seconds)) / self.jobs;
        let due = |number: u32| first + step * number;
        for start in (0..self.jobs).step_by(BATCH_JOBS) {
            let numbers = start..(start + BATCH_JOBS as u32).min(self.jobs);
            let job =
                |number| NewJob::named(TASK).queue(QUEUE).args((number, micros(due(number)))).schedule_at(due(number));
            client.defer_all(numbers.map(job).collect::<Batch>()).await?;
        }
        ensure!(SystemTime::now() < first, "deferring took longer than {LEAD:?}: the first jobs were due before");
        let whole = LEAD + Duration::from_secs(u64::from(self.seconds)) + STALL;
        timeout(whole, seen.done.notified()).await.context("not every job started in time")?;
        handle.stop();
        running.await.context("the worker panicked")?;
        cell.close().await?;
        let state = seen.state.lock().unwrap_or_else(PoisonError::into_inner);
        let doubled = state.runs.iter().map(|runs| u64::from(runs.saturating_sub(1))).sum();
        Ok(Report {
            version: env!("CARGO_PKG_VERSION"),
            optimized: !cfg!(debug_assertions),
            cores: thread::available_parallelism().map_or(0, usize::from),
            jobs: self.jobs,
            seconds: self.seconds,
            lateness: Waits { times: Times::of(&state.late), doubled },
            early: state.early,
        })
    }
}

fn micros(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

async fn handler((number, due): (usize, u64), ctx: Context<Seen>) -> Result<(), TaskError> {
    ctx.state().note(number, due, micros(SystemTime::now()));
    Ok(())
}

impl Seen {
    /// A job that was due then started now, both in microseconds.
    fn note(&self, number: usize, due: u64, now: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(runs) = state.runs.get_mut(number) else { return };
        *runs += 1;
        if *runs > 1 {
            return;
        }
        state.early += u64::from(now < due);
        state.late.record(now.saturating_sub(due) * 1_000).expect("the histogram grows as far as it must");
        state.left -= 1;
        if state.left == 0 {
            self.done.notify_one();
        }
    }
}

impl Report {
    fn page(&self) -> String {
        let Self { version, cores, jobs, seconds, lateness, early, .. } = self;
        let build = if self.optimized { "" } else { " (a debug build: the figures mean nothing)" };
        let mut figures = table(&["late by", "p50 ms", "p99 ms", "max ms"]);
        let times = &lateness.times;
        let cell = |value: f64| format!("{value:.2}");
        figures.add_row([String::new(), cell(times.p50_ms), cell(times.p99_ms), cell(times.max_ms)]);
        format!(
            "cabbage {version}{build}, {cores} cores; {jobs} jobs due over {seconds} s\n{}\n{early} started early, {} ran twice",
            lines(figures),
            lateness.doubled
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_before_its_time_is_early_and_a_second_one_counts_no_more() {
        let late = Histogram::new(3).expect("a valid precision");
        let state = State { late, early: 0, runs: vec![0; 2], left: 2 };
        let seen = Seen { state: Mutex::new(state), done: Notify::new() };
        seen.note(0, 2_000, 1_000);
        seen.note(0, 2_000, 9_000);
        seen.note(1, 2_000, 5_000);
        let state = seen.state.lock().expect("no panic");
        assert_eq!((state.early, state.left, &*state.runs), (1, 0, &[2, 1][..]));
        assert_eq!(state.late.len(), 2);
        assert!(state.late.equivalent(state.late.max(), 3_000_000), "{}", state.late.max());
    }
}
