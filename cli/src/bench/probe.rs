//! Probes: free jobs at a steady rate, and how long each takes from its defer to its start.
//!
//! The rate is kept whatever the answers take (open loop): a probe's time counts from the moment when it was to be
//! sent, so that a broker which stalls does not hide the probes that it held up.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use cabbage_worker::{Client, Context, NewJob, TaskError, Worker, WorkerHandle};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{
    sync::Notify,
    task::{JoinHandle, JoinSet},
    time::{interval_at, timeout},
};

use super::batches::FILLING;

/// The task of the probes.
const TASK: &str = "bench_probe";
/// How long the last probes may take to start.
const STALL: Duration = Duration::from_secs(30);
/// How long a burst may take.
const BURST_TIMEOUT: Duration = Duration::from_mins(5);

/// A worker that runs probes, and the way to send them.
pub(super) struct Prober {
    client: Client,
    queue: String,
    runs: Arc<Starts>,
    worker: WorkerHandle,
    running: JoinHandle<cabbage_worker::Status>,
}

/// When probes started, in nanoseconds since the beginning; 0: not yet.
struct Starts {
    begin: Instant,
    at: Box<[AtomicU64]>,
    /// Probes that started once.
    started: AtomicU64,
    /// Starts beyond the first of a probe.
    again: AtomicU64,
    news: Notify,
}

/// How long probes took.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Waits {
    /// How many probes.
    pub(super) probes: u64,
    /// How often one ran more than once.
    pub(super) doubled: u64,
    /// Half of them took at most so long, in milliseconds.
    pub(super) p50_ms: f64,
    /// 99 of 100.
    pub(super) p99_ms: f64,
    /// All of them.
    pub(super) max_ms: f64,
}

impl Prober {
    /// Starts a worker for up to so many probes, in a queue of their own.
    pub(super) fn start(address: &str, queue: String, probes: u32) -> anyhow::Result<Self> {
        let at = (0..probes).map(|_| AtomicU64::new(0)).collect();
        let (begin, zero) = (Instant::now(), || AtomicU64::new(0));
        let runs = Arc::new(Starts { begin, at, started: zero(), again: zero(), news: Notify::new() });
        let worker = Worker::builder(address)
            .name("bench probe")
            .queues([queue.as_str()])
            .concurrency(1_000)
            .prefetch(2_000)
            .shared_state(Arc::clone(&runs))
            .function(TASK, probe)
            .build()?;
        let handle = worker.handle();
        let client = Client::new(address)?;
        Ok(Self { client, queue, runs, worker: handle, running: tokio::spawn(worker.run()) })
    }

    /// Sends the probes of these numbers, so many a second, and waits until all have started.
    pub(super) async fn measure(&self, numbers: Range<u32>, per_second: u32) -> anyhow::Result<Waits> {
        let mut ticks = interval_at(tokio::time::Instant::now(), Duration::from_secs(1) / per_second.max(1));
        let mut calls: JoinSet<anyhow::Result<()>> = JoinSet::new();
        let mut due = Vec::with_capacity(numbers.len());
        let (started, again) = self.runs.counts();
        for number in numbers.clone() {
            let tick = ticks.tick().await;
            due.push(self.runs.nanos(tick.into_std()));
            let (client, job) = (self.client.clone(), self.probe(number));
            calls.spawn(async move { Ok(client.defer_job(job).await.map(drop)?) });
            while let Some(answer) = calls.try_join_next() {
                answer??;
            }
        }
        while let Some(answer) = calls.join_next().await {
            answer??;
        }
        self.runs.reach(started + numbers.len() as u64).await?;
        let mut histogram = Histogram::<u64>::new(3)?;
        for (number, due) in numbers.clone().zip(due) {
            let started = self.runs.at[number as usize].load(Ordering::Acquire);
            histogram.record(started.saturating_sub(due))?;
        }
        Ok(Waits::of(&histogram, self.runs.counts().1 - again))
    }

    /// Sends the probes of these numbers in batches, as fast as they are taken, and waits until each has run and its
    /// result is recorded; answers how many that made a second.
    pub(super) async fn burst(&self, numbers: Range<u32>) -> anyhow::Result<f64> {
        let recorded = self.worker.status().counters.recorded;
        let begin = Instant::now();
        FILLING.defer(&self.client, numbers.clone(), |number| self.probe(number)).await?;
        let wanted = recorded + numbers.len() as u64;
        let all = self.worker.wait_for(|status| status.counters.recorded >= wanted);
        timeout(BURST_TIMEOUT, all).await.context("a burst was not finished in time")?.context("the worker stopped")?;
        Ok(numbers.len() as f64 / begin.elapsed().as_secs_f64())
    }

    /// Sends probes of these numbers one after the other until one of them has started; answers when. For takeovers:
    /// errors of the calls are what is waited out.
    pub(super) async fn first_start(&self, numbers: Range<u32>) -> anyhow::Result<Instant> {
        let started = self.runs.any_started(numbers.clone());
        let send = async {
            for number in numbers {
                if let Err(error) = self.client.defer_job(self.probe(number)).await {
                    tracing::debug!(%error, "a probe was not taken");
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            started = started => started,
            () = send => bail!("probes were sent for ever"),
        }
    }

    fn probe(&self, number: u32) -> NewJob {
        NewJob::named(TASK).queue(&self.queue).args(number)
    }

    /// Waits until the worker is connected.
    pub(super) async fn connected(&mut self) -> anyhow::Result<()> {
        let welcome = self.worker.wait_for(|status| status.connected);
        let welcome = timeout(STALL, welcome).await.context("the probing worker is not welcome")?;
        welcome.map(drop).context("the probing worker has stopped")
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.worker.stop();
        self.running.await.map(drop).context("the probing worker panicked")
    }
}

async fn probe(number: u32, ctx: Context<Starts>) -> Result<(), TaskError> {
    ctx.state().note(number);
    Ok(())
}

impl Starts {
    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.begin).as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    fn note(&self, number: u32) {
        let Some(slot) = self.at.get(number as usize) else { return };
        let now = self.nanos(Instant::now());
        if slot.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.started.fetch_add(1, Ordering::AcqRel);
        } else {
            self.again.fetch_add(1, Ordering::AcqRel);
        }
        self.news.notify_waiters();
    }

    /// How many probes have started, and how many starts there were beyond their first ones.
    fn counts(&self) -> (u64, u64) {
        (self.started.load(Ordering::Acquire), self.again.load(Ordering::Acquire))
    }

    /// Waits until so many probes have started in all.
    async fn reach(&self, wanted: u64) -> anyhow::Result<()> {
        loop {
            // Made before the look, so that a start between the two is not missed.
            let news = self.news.notified();
            let missing = wanted.saturating_sub(self.counts().0);
            if missing == 0 {
                return Ok(());
            }
            if timeout(STALL, news).await.is_err() {
                bail!("{missing} probes did not start: there was no start for {STALL:?}");
            }
        }
    }

    async fn any_started(&self, numbers: Range<u32>) -> anyhow::Result<Instant> {
        loop {
            let news = self.news.notified();
            let first = numbers.clone().map(|n| self.at[n as usize].load(Ordering::Acquire)).filter(|at| *at > 0).min();
            if let Some(nanos) = first {
                return Ok(self.begin + Duration::from_nanos(nanos));
            }
            timeout(STALL, news).await.with_context(|| format!("no probe started for {STALL:?}"))?;
        }
    }
}

impl Waits {
    /// The figures of waits in nanoseconds.
    pub(super) fn of(histogram: &Histogram<u64>, doubled: u64) -> Self {
        let milliseconds = |nanos: u64| nanos as f64 / 1e6;
        Self {
            probes: histogram.len(),
            doubled,
            p50_ms: milliseconds(histogram.value_at_quantile(0.5)),
            p99_ms: milliseconds(histogram.value_at_quantile(0.99)),
            max_ms: milliseconds(histogram.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts() -> Starts {
        let at = (0..3).map(|_| AtomicU64::new(0)).collect();
        let zero = || AtomicU64::new(0);
        Starts { begin: Instant::now(), at, started: zero(), again: zero(), news: Notify::new() }
    }

    #[tokio::test]
    async fn a_second_start_of_a_probe_counts_as_doubled_and_keeps_the_first_time() {
        let starts = starts();
        starts.note(1);
        let first = starts.at[1].load(Ordering::Acquire);
        starts.note(1);
        assert_eq!((starts.at[1].load(Ordering::Acquire), starts.again.load(Ordering::Acquire)), (first, 1));
        assert!(starts.any_started(0..3).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn probes_that_never_start_are_told() {
        let starts = starts();
        starts.note(0);
        let error = starts.reach(3).await.expect_err("two are missing");
        assert!(error.to_string().starts_with("2 probes did not start"), "{error}");
    }

    #[test]
    fn waits_are_told_in_milliseconds() {
        let mut histogram = Histogram::<u64>::new(3).expect("a valid precision");
        for milliseconds in 1..=100_u64 {
            histogram.record(milliseconds * 1_000_000).expect("in range");
        }
        let waits = Waits::of(&histogram, 0);
        assert_eq!(waits.probes, 100);
        assert!((waits.p50_ms - 50.0).abs() < 0.1 && (waits.p99_ms - 99.0).abs() < 0.1, "{waits:?}");
    }
}
