//! Probes: free jobs at a steady rate, and how long each takes from its defer to its start.
//!
//! The rate is kept whatever the answers take (open loop): a probe's time counts from the moment when it was to be
//! sent, so that a broker which stalls does not hide the probes that it held up.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use cabbage_worker::{Client, Context, Defer, NewJob, TaskError, Worker, WorkerHandle};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{
    sync::{Notify, mpsc},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::{batches::FILLING, times::Times};

/// The task of the probes.
const TASK: &str = "bench_probe";
/// How long the last probes may take to start.
const STALL: Duration = Duration::from_secs(30);
/// How long a burst may take.
const BURST_TIMEOUT: Duration = Duration::from_mins(5);

/// So many moments, each when it has come: the first is now. From a thread of their own, since a timer of the runtime is
/// late by up to a millisecond, in one run always by the same, and that would be counted as the broker's.
fn times(between: Duration, count: usize) -> mpsc::UnboundedReceiver<Instant> {
    let (sender, times) = mpsc::unbounded_channel();
    let begin = Instant::now();
    thread::spawn(move || {
        let mut time = begin;
        for _ in 0..count {
            thread::sleep(time.saturating_duration_since(Instant::now()));
            if sender.send(time).is_err() {
                break;
            }
            time += between;
        }
    });
    times
}

/// A worker that runs probes, and the way to send them.
pub(super) struct Prober {
    client: Client,
    queue: String,
    runs: Arc<Starts>,
    ids: Mutex<Vec<i64>>,
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

/// How long probes took from the moment when they were to be sent to their start.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Waits {
    #[serde(flatten)]
    pub(super) times: Times,
    /// How often one ran more than once.
    pub(super) doubled: u64,
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
        let ids = Mutex::default();
        Ok(Self { client, queue, runs, ids, worker: handle, running: tokio::spawn(worker.run()) })
    }

    /// Sends the probes of these numbers, so many a second, and waits until all have started.
    pub(super) async fn measure(&self, numbers: Range<u32>, per_second: u32) -> anyhow::Result<Waits> {
        let (started, again) = self.runs.counts();
        let send = |defer: Defer, _| async move { Ok(defer.await?.job_id) };
        let (due, ids) = self.send(numbers.clone(), per_second, send).await?;
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
        self.runs.reach(started + numbers.len() as u64).await?;
        let mut histogram = Histogram::<u64>::new(3)?;
        for (number, due) in numbers.zip(due) {
            let started = self.runs.at[number as usize].load(Ordering::Acquire);
            histogram.record(started.saturating_sub(due))?;
        }
        Ok(Waits { times: Times::of(&histogram), doubled: self.runs.counts().1 - again })
    }

    /// The same, up to the moment when who sent a probe has its result.
    pub(super) async fn measure_results(&self, numbers: Range<u32>, per_second: u32) -> anyhow::Result<Times> {
        let send = |defer: Defer, due: Instant| {
            let client = self.client.clone();
            async move {
                let id = defer.await?.job_id;
                client.result_as::<()>(id).await?;
                Ok((id, due.elapsed()))
            }
        };
        let (_, results) = self.send(numbers, per_second, send).await?;
        let mut histogram = Histogram::<u64>::new(3)?;
        for (id, took) in results {
            histogram.record(u64::try_from(took.as_nanos())?)?;
            self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        }
        Ok(Times::of(&histogram))
    }

    /// Makes a call for each number at its time, and waits for all. Answers when each was to be made, and what came of
    /// it.
    async fn send<T, Fut>(
        &self,
        numbers: Range<u32>,
        per_second: u32,
        call: impl Fn(Defer, Instant) -> Fut,
    ) -> anyhow::Result<(Vec<u64>, Vec<T>)>
    where
        T: Send + 'static,
        Fut: Future<Output = anyhow::Result<T>> + Send + 'static,
    {
        let mut times = times(Duration::from_secs(1) / per_second.max(1), numbers.len());
        let mut calls: JoinSet<anyhow::Result<T>> = JoinSet::new();
        let mut due = Vec::with_capacity(numbers.len());
        let mut answers = Vec::with_capacity(numbers.len());
        for number in numbers {
            let time = times.recv().await.context("the clock of the probes stopped")?;
            due.push(self.runs.nanos(time));
            calls.spawn(call(self.client.defer_job(self.probe(number)), time));
            while let Some(answer) = calls.try_join_next() {
                answers.push(answer??);
            }
        }
        while let Some(answer) = calls.join_next().await {
            answers.push(answer??);
        }
        Ok((due, answers))
    }

    /// How many probes have started, and how many starts there were beyond their first ones.
    pub(super) fn counts(&self) -> (u64, u64) {
        self.runs.counts()
    }

    /// The ids of all probes that were measured.
    pub(super) fn ids(&self) -> Vec<i64> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
}
