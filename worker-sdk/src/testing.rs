//! Tests of code that defers and runs jobs, without PostgreSQL: a whole broker in the test's own process.
//!
//! Switched on by the feature `testing`, which belongs into `[dev-dependencies]`:
//!
//! ```toml
//! [dev-dependencies]
//! cabbage-worker = { version = "0.1", features = ["testing"] }
//! ```
//!
//! A [`TestBroker`] is the real one: it decides, refuses, retries and locks as in production, since it is the same
//! code, and only keeps its tables in memory. Clients and workers are the real ones too, and reach it over a socket of
//! this machine. So a test defers jobs, runs what is there, and looks at what became of it:
//!
//! ```
//! use std::time::Duration;
//! use cabbage_worker::{Context, RetryPolicy, TaskError, testing::TestBroker, v1::JobState};
//!
//! async fn fetch(url: String, ctx: Context) -> Result<usize, TaskError> {
//!     if ctx.attempt() == 1 {
//!         return Err(TaskError::new("Unreachable", "no answer"));
//!     }
//!     Ok(url.len())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = TestBroker::start().await;
//! let retry = RetryPolicy::attempts(5).wait(Duration::from_secs(3600));
//! broker.client().defer_named("fetch", "https://example.com").retry(retry).await?;
//!
//! // Run the jobs that are there, then stop the worker.
//! broker.run(broker.worker().function("fetch", fetch)).await?;
//!
//! // See the jobs.
//! let jobs = broker.jobs().await;
//! assert_eq!((jobs[0].state(), jobs[0].attempts), (JobState::Scheduled, 1));
//!
//! // What is due later need not be waited for.
//! broker.advance(Duration::from_secs(3600)).await;
//! broker.run(broker.worker().function("fetch", fetch)).await?;
//! assert_eq!(broker.jobs().await[0].state(), JobState::Succeeded);
//!
//! // Forget all of it, for the next test.
//! broker.reset().await;
//! assert!(broker.jobs().await.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! Every test may start a broker of its own, which takes some milliseconds; they do not know of each other. A broker
//! ends with its [`TestBroker`], or with the runtime of its test.
//!
//! To test a handler alone, without any broker, call it with [`Context::for_test`](crate::Context::for_test).

use std::{sync::Arc, time::Duration};

use cabbage_broker::{
    Broker, BrokerArgs,
    args::StoreKind,
    cell::Role,
    core::types::{JobId, Term},
    store::memory::MemoryStore,
};
use cabbage_proto::v1;
use tokio::time::{sleep, timeout};

use crate::{BuildError, Client, Error, JobFilter, Status, Worker, WorkerBuilder};

/// Nothing that the broker does by itself takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it is looked whether the broker has noticed that its clock was set.
const LOOK: Duration = Duration::from_millis(1);

/// A broker in this process that keeps its jobs in memory.
///
/// Its methods panic where the broker does not do as it should, as a test would.
pub struct TestBroker {
    broker: Option<Broker>,
    store: MemoryStore,
    address: String,
    client: Client,
}

impl TestBroker {
    /// Starts one, on free ports of this machine. Needs a tokio runtime.
    ///
    /// # Panics
    /// If it cannot listen, or does not get ready.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts one with other settings, such as shorter intervals.
    ///
    /// # Panics
    /// If the settings contradict each other, it cannot listen, or does not get ready.
    pub async fn start_with(change: impl FnOnce(&mut BrokerArgs)) -> Self {
        let any = ([127, 0, 0, 1], 0).into();
        let mut args = BrokerArgs { listen: any, admin_listen: any, store: StoreKind::Memory, ..BrokerArgs::default() };
        // Nobody else wants the cell; this is how soon it is owned again after a reset.
        args.intervals.standby_poll_ms = 10;
        change(&mut args);
        let store = MemoryStore::on_wall_clock();
        let broker = Broker::start_on(&args, Arc::new(store.clone())).await.expect("the broker starts");
        let address = broker.grpc_address().to_string();
        let client = Client::new(&address).expect("an address of this machine is one");
        let started = Self { broker: Some(broker), store, address, client };
        started.owns_after(Term { number: 0, nonce: 0 }).await;
        started
    }

    /// Where clients and workers find it: `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A client of it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Starts to describe a worker of it.
    pub fn worker(&self) -> WorkerBuilder {
        Worker::builder(&self.address)
    }

    /// Runs the jobs that this worker can run, and those that they defer, until none is left; then stops it. Jobs that
    /// are due later stay; see [`Self::advance`].
    pub async fn run(&self, worker: WorkerBuilder) -> Result<Status, BuildError> {
        Ok(worker.build()?.run_until_caught_up().await)
    }

    /// All jobs, in the order of their creation, with their arguments and every ended delivery.
    ///
    /// # Panics
    /// If the broker does not answer.
    pub async fn jobs(&self) -> Vec<v1::Job> {
        let mut ids = Vec::new();
        let mut page = self.client.list(JobFilter::new());
        while let Some(job) = page.next().await.expect("the broker lists its jobs") {
            ids.push(job.id);
        }
        let mut jobs = Vec::with_capacity(ids.len());
        for id in ids.into_iter().rev() {
            match self.client.get_full(id).await {
                Ok(job) => jobs.push(job),
                // Deleted meanwhile.
                Err(Error::NotFound(_)) => {}
                Err(error) => panic!("the broker shows its jobs: {error}"),
            }
        }
        jobs
    }

    /// Lets so much time pass by the clock of the database, in no time: once this returns, what became due by then can
    /// be run. Scheduled jobs, retries, snoozes and deadlines go by that clock, and so does the broker's own watch over
    /// attempt timeouts; connections do not notice, nor do handlers without a timeout.
    ///
    /// # Panics
    /// If the broker does not notice in time.
    pub async fn advance(&self, by: Duration) {
        self.store.advance(by);
        let until = self.store.now();
        let noticed = async {
            // The owner's estimate is never ahead of the clock, so it shows this time a moment later.
            while self.owners_time().await.is_none_or(|now| now < until) {
                sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, noticed).await.expect("the broker notices that its clock was set");
    }

    /// Forgets all jobs, for the next test. Workers that run are told that their leases are lost, and go on.
    ///
    /// # Panics
    /// If the broker does not get ready again.
    pub async fn reset(&self) {
        let term = self.store.clear();
        self.owns_after(term).await;
    }

    /// Ends the broker in order. To drop it does the same, without waiting.
    pub async fn shutdown(mut self) {
        if let Some(broker) = self.broker.take()
            && let Err(error) = broker.shutdown().await
        {
            tracing::warn!(%error, "the broker of a test did not end well");
        }
    }

    fn broker(&self) -> &Broker {
        self.broker.as_ref().expect("it is taken only by a shutdown")
    }

    async fn owners_time(&self) -> Option<cabbage_broker::core::types::Timestamp> {
        // Any job will do, also one that is not there: the answer carries the time.
        let found = self.broker().cell().look(vec![(JobId(0), None)]).await.ok()?;
        found.first().map(|found| found.now)
    }

    /// Waits until the broker owns its cell by a later term than this one.
    async fn owns_after(&self, before: Term) {
        let mut role = self.broker().cell().watch();
        let owns = |role: &Role| matches!(role, Role::Owning(owned) if owned.term.number > before.number);
        let owned = timeout(PATIENCE, role.wait_for(owns)).await.expect("the broker gets ready in time").is_ok();
        assert!(owned, "the cell lives as long as its broker");
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        // Outside of a runtime, the broker has ended with it.
        if let (Some(broker), Ok(runtime)) = (self.broker.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(broker.shutdown());
        }
    }
}

impl std::fmt::Debug for TestBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestBroker").field("address", &self.address).finish_non_exhaustive()
    }
}
