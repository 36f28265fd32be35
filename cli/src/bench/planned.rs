//! `bench takeover --planned`: the cell goes from one broker to another under load, and what clients and handlers see of it.
//!
//! At each of two brokers a worker runs jobs, and callers defer them one after the other by the generated stub, so that no
//! second try hides an error. The gap is the longest time in which no handler started, from the moment when the handover
//! is asked for until many have started under the next owner. It has in it what there is between two starts anyway, some
//! milliseconds.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use cabbage_migrations::Schema;
use cabbage_proto::v1::{self, job_service_client::JobServiceClient};
use cabbage_worker::{Context, NewJob, TaskError, Worker, WorkerHandle};
use serde::Serialize;
use tokio::{
    sync::Notify,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::{
    about::About,
    cell::Cell,
    crowd::{Crowd, Kind},
    database::Finals,
    times::median_and_worst,
};
use crate::output::{lines, say, table};

/// The task of the load, and its queue.
const TASK: &str = "bench_handover";
const QUEUE: &str = "bench-handover";
/// The queue of the jobs that wait.
const CROWD_QUEUE: &str = "bench-crowd";
/// Callers of each broker.
const CALLERS: usize = 2;
/// How long a handler takes: some run whenever the cell changes hands.
const HANDLER: Duration = Duration::from_millis(20);
/// Handlers of each worker at once: more than the callers make.
const CONCURRENCY: usize = 256;
/// Starts before each handover, and after it.
const STARTS_AROUND: usize = 200;
/// How long nothing may start, a worker may take to be welcome, or the last jobs to end.
const STALL: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    about: About,
    /// Jobs that waited in the owner's memory.
    jobs: u32,
    /// Each handover.
    rounds: Vec<Round>,
    /// The half of the gaps that is shorter ends here, in milliseconds.
    median_ms: f64,
    /// The longest gap, in milliseconds.
    worst_ms: f64,
    /// Calls that were made while the cell went round.
    calls: usize,
    /// Of them, how many were answered with an error.
    errors: u64,
    /// Handlers that were told to stop.
    cancelled: u64,
    /// Starts of handlers beyond the first of each job.
    doubled: u64,
    /// What the database says of the jobs that were acknowledged. Its surplus is attempts that were used up, but for what
    /// came back unstarted.
    finals: Finals,
    /// Of the jobs that waited, how many the database has at the end.
    kept: i64,
}

/// One handover.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "each figure names its unit")]
struct Round {
    /// The longest time without a start.
    gap_ms: f64,
    /// How long the call that asked for it took.
    asked_ms: f64,
    /// The slowest defer that was under way meanwhile.
    slowest_call_ms: f64,
}

/// A call of the load.
struct Call {
    begun: Instant,
    ended: Instant,
    job: i64,
}

/// What handlers note.
#[derive(Default)]
struct Seen {
    /// Each start: when, and of which job. In order.
    starts: Mutex<Vec<(Instant, i64)>>,
    cancelled: AtomicU64,
    news: Notify,
}

/// Hands the cell over so many times, while so many jobs wait in its memory.
pub(super) async fn measure(jobs: u32, rounds: u32, postgres_version: Option<u32>) -> anyhow::Result<Report> {
    say("starting PostgreSQL and two brokers of our own");
    let mut cell = Cell::private(postgres_version, &Schema::default()).await?;
    let mut crowd = Crowd::gather(&cell, CROWD_QUEUE.to_owned(), Kind::Unserved, 1).await?;
    say(format_args!("deferring {jobs} jobs that wait"));
    crowd.grow(jobs).await?;
    crowd.scatter().await?;
    cell.add_standby().await?;
    let load = Load::start(&cell).await?;
    let mut windows = Vec::new();
    for round in 1..=rounds {
        load.more_starts(STARTS_AROUND).await?;
        cell.checkpoint().await?;
        let asked = Instant::now();
        cell.hand_over().await?;
        let done = Instant::now();
        load.more_starts(STARTS_AROUND).await?;
        let gap = load.seen.longest_gap(asked, Instant::now());
        say(format_args!("round {round}: {:.0} ms", milliseconds(gap)));
        windows.push((asked, done, gap));
        cell.standby_follows().await?;
    }
    let seen = Arc::clone(&load.seen);
    let (calls, errors) = load.stop().await?;
    let rounds: Vec<_> = windows.into_iter().map(|window| Round::of(window, &calls)).collect();
    let ids: HashSet<i64> = calls.iter().map(|call| call.job).collect();
    ensure!(ids.len() == calls.len(), "two calls were answered with the same job");
    let (first, last) = (ids.iter().min().context("no call was answered")?, ids.iter().max().unwrap_or(&0));
    let no_database = "a cell of our own has a database";
    let finals = cell.finals(QUEUE, (*first, *last)).await?.context(no_database)?;
    let kept = cell.finals(CROWD_QUEUE, (1, i64::MAX)).await?.context(no_database)?;
    ensure!(kept.succeeded == 0, "jobs succeeded that nobody serves");
    let about = About::of(&mut cell).await?;
    cell.close().await?;
    let gaps = rounds.iter().map(|round| round.gap_ms);
    let (median_ms, worst_ms) = median_and_worst(gaps).context("at least one round")?;
    Ok(Report {
        about,
        jobs,
        median_ms,
        worst_ms,
        rounds,
        calls: calls.len() + errors as usize,
        errors,
        cancelled: seen.cancelled.load(Ordering::Relaxed),
        doubled: seen.doubled(),
        finals,
        kept: kept.jobs,
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Report {
    /// What is wrong, if anything is: a call failed, a job was lost or ran twice, an attempt was used up, or a handler was
    /// cancelled.
    pub(super) fn wrong(&self) -> Option<&'static str> {
        let acknowledged = self.calls as i64 - self.errors as i64;
        let Finals { jobs, succeeded, surplus, returned } = self.finals;
        [
            (self.errors > 0, "calls failed"),
            (self.cancelled > 0, "handlers were cancelled"),
            (self.doubled > 0, "jobs ran twice"),
            (surplus > returned, "attempts were used up"),
            (jobs != acknowledged || succeeded != jobs || self.kept != i64::from(self.jobs), "jobs are lost"),
        ]
        .into_iter()
        .find_map(|(is_wrong, what)| is_wrong.then_some(what))
    }

    /// For people.
    pub(super) fn page(&self) -> String {
        let mut figures = table(&["round", "gap ms", "handover ms", "slowest call ms"]);
        for (round, number) in self.rounds.iter().zip(1_u32..) {
            let figure = |value: f64| format!("{value:.0}");
            figures.add_row([
                number.to_string(),
                figure(round.gap_ms),
                figure(round.asked_ms),
                figure(round.slowest_call_ms),
            ]);
        }
        let Self { jobs, median_ms, worst_ms, calls, errors, cancelled, doubled, finals, kept, .. } = self;
        let head = self.about.head(format_args!("planned handovers under load, {jobs} jobs in the owner's memory"));
        let gap = format!("gap without a start: median {median_ms:.0} ms, worst {worst_ms:.0} ms");
        let Finals { jobs: made, succeeded, surplus, returned } = finals;
        let spent = surplus - returned;
        let seen = format!(
            "{calls} calls, {errors} errors; {cancelled} handlers cancelled, {doubled} starts too many; of {made} jobs \
             {succeeded} succeeded, {spent} attempts too many, {returned} deliveries came back unstarted; the database \
             has {kept} of {jobs} jobs that wait"
        );
        let mut page = vec![head, String::new(), lines(figures), String::new(), gap, seen];
        page.extend(self.about.settings());
        page.join("\n")
    }
}

impl Round {
    fn of((asked, done, gap): (Instant, Instant, Duration), calls: &[Call]) -> Self {
        let meanwhile = calls.iter().filter(|call| call.begun <= done && call.ended >= asked);
        let slowest = meanwhile.map(|call| call.ended - call.begun).max().unwrap_or_default();
        Self { gap_ms: milliseconds(gap), asked_ms: milliseconds(done - asked), slowest_call_ms: milliseconds(slowest) }
    }
}

/// Workers and callers at every broker.
struct Load {
    seen: Arc<Seen>,
    workers: Vec<(WorkerHandle, JoinHandle<cabbage_worker::Status>)>,
    callers: JoinSet<anyhow::Result<(Vec<Call>, u64)>>,
    stop: CancellationToken,
}

impl Load {
    async fn start(cell: &Cell) -> anyhow::Result<Self> {
        let seen = Arc::new(Seen::default());
        let mut load = Self { seen, workers: Vec::new(), callers: JoinSet::new(), stop: CancellationToken::new() };
        for address in cell.address().split(',') {
            let worker = Worker::builder(address)
                .name("bench handover")
                .queues([QUEUE])
                .concurrency(CONCURRENCY)
                .shared_state(Arc::clone(&load.seen))
                .function(TASK, step)
                .build()?;
            let handle = worker.handle();
            load.workers.push((worker.handle(), tokio::spawn(worker.run())));
            let welcome = timeout(STALL, handle.wait_for(|status| status.connected)).await;
            welcome.context("a worker is not welcome")?.context("a worker has stopped")?;
            let channel = Endpoint::from_shared(address.to_owned())?.connect().await.context("cannot connect")?;
            for _ in 0..CALLERS {
                load.callers.spawn(call(JobServiceClient::new(channel.clone()), load.stop.clone()));
            }
        }
        Ok(load)
    }

    /// Waits until so many more handlers have started.
    async fn more_starts(&self, more: usize) -> anyhow::Result<()> {
        let wanted = self.seen.starts().len() + more;
        loop {
            // Made before the look, so that a start between the two is not missed.
            let news = self.seen.news.notified();
            if self.seen.starts().len() >= wanted {
                return Ok(());
            }
            if timeout(STALL, news).await.is_err() {
                bail!("no handler started for {STALL:?}");
            }
        }
    }

    /// Ends the calls, waits until what they made has run, and ends the workers. Gives the calls, and how many errors there
    /// were.
    async fn stop(mut self) -> anyhow::Result<(Vec<Call>, u64)> {
        self.stop.cancel();
        let (mut calls, mut errors) = (Vec::new(), 0);
        while let Some(caller) = self.callers.join_next().await {
            let (more, failed) = caller??;
            calls.extend(more);
            errors += failed;
        }
        let all_run = async {
            loop {
                let news = self.seen.news.notified();
                let started: HashSet<i64> = self.seen.starts().iter().map(|(_, job)| *job).collect();
                if calls.iter().all(|call| started.contains(&call.job)) {
                    return;
                }
                news.await;
            }
        };
        timeout(STALL, all_run).await.context("jobs that were acknowledged did not start")?;
        for (handle, running) in self.workers {
            handle.stop();
            running.await.context("a worker panicked")?;
        }
        Ok((calls, errors))
    }
}

/// Defers jobs one after the other until told to stop. Gives the calls, and how many failed.
async fn call(mut stub: JobServiceClient<Channel>, stop: CancellationToken) -> anyhow::Result<(Vec<Call>, u64)> {
    let job = NewJob::named(TASK).queue(QUEUE).into_spec()?;
    let (mut calls, mut errors) = (Vec::new(), 0);
    while !stop.is_cancelled() {
        let request = v1::DeferJobRequest { job: Some(job.clone()), request_id: String::new() };
        let begun = Instant::now();
        match stub.defer_job(request).await {
            Ok(answer) => calls.push(Call { begun, ended: Instant::now(), job: answer.into_inner().job_id }),
            Err(status) => {
                say(format_args!("a call failed: {status}"));
                errors += 1;
            }
        }
    }
    Ok((calls, errors))
}

async fn step((): (), ctx: Context<Seen>) -> Result<(), TaskError> {
    ctx.state().starts().push((Instant::now(), ctx.id()));
    ctx.state().news.notify_waiters();
    tokio::select! {
        () = sleep(HANDLER) => Ok(()),
        cause = ctx.cancelled() => {
            ctx.state().cancelled.fetch_add(1, Ordering::Relaxed);
            Err(TaskError::cancelled(format!("{cause:?}")))
        }
    }
}

impl Seen {
    fn starts(&self) -> MutexGuard<'_, Vec<(Instant, i64)>> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The longest time between two starts, of which the later one lies between these moments.
    fn longest_gap(&self, from: Instant, until: Instant) -> Duration {
        let starts = self.starts();
        let later = starts.windows(2).filter(|pair| pair[1].0 >= from && pair[1].0 <= until);
        later.map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default()
    }

    /// Starts beyond the first of each job.
    fn doubled(&self) -> u64 {
        let starts = self.starts();
        let jobs: HashSet<i64> = starts.iter().map(|(_, job)| *job).collect();
        (starts.len() - jobs.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_longest_time_between_starts_that_ends_in_the_handover() {
        let begin = Instant::now();
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        let seen = Seen::default();
        *seen.starts() = [0, 500, 510, 570, 580, 2_000].map(|time| (at(time), 1)).to_vec();
        assert_eq!(seen.longest_gap(at(505), at(600)), Duration::from_millis(60));
        assert_eq!(seen.doubled(), 5);
    }

    #[test]
    fn a_run_that_lost_doubled_or_failed_anything_is_wrong() {
        let right = || Report {
            about: About::for_test(),
            jobs: 5,
            rounds: Vec::new(),
            median_ms: 1.0,
            worst_ms: 1.0,
            calls: 10,
            errors: 0,
            cancelled: 0,
            doubled: 0,
            finals: Finals { jobs: 10, succeeded: 10, surplus: 2, returned: 2 },
            kept: 5,
        };
        assert_eq!(right().wrong(), None);
        assert_eq!(Report { errors: 1, ..right() }.wrong(), Some("calls failed"));
        assert_eq!(Report { cancelled: 1, ..right() }.wrong(), Some("handlers were cancelled"));
        assert_eq!(Report { doubled: 1, ..right() }.wrong(), Some("jobs ran twice"));
        let finals = |jobs, succeeded, surplus| Finals { jobs, succeeded, surplus, returned: 0 };
        assert_eq!(Report { finals: finals(10, 10, 1), ..right() }.wrong(), Some("attempts were used up"));
        assert_eq!(Report { finals: finals(10, 9, 0), ..right() }.wrong(), Some("jobs are lost"));
        assert_eq!(Report { finals: finals(9, 9, 0), ..right() }.wrong(), Some("jobs are lost"));
        assert_eq!(Report { kept: 4, ..right() }.wrong(), Some("jobs are lost"));
    }
}
