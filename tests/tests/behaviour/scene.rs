//! A broker on either store, and what several themes need.

use std::{future::Future, sync::Arc, time::Duration};

use cabbage_broker::{
    Broker, BrokerArgs,
    args::{DatabaseArgs, Secret},
    core::{
        ask::{By, Verb},
        types::{JobId, Timestamp},
    },
    store::{Store, memory::MemoryStore, postgres::PgStore},
};
use cabbage_worker::{
    Client, Context, JobFilter, Status, TaskError, Worker, WorkerBuilder, WorkerHandle,
    v1::{self, JobState},
};
use serde::de::DeserializeOwned;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::database::Database;

/// Nothing is waited for longer than this; a test that gets here has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// How often it is looked whether the broker has noticed that its clock was set.
const LOOK: Duration = Duration::from_millis(2);

/// Where the jobs of a test are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Memory,
    Postgres,
    /// In memory; clients and workers know only a broker that does not own the cell.
    RelayedMemory,
    /// In PostgreSQL, and the same.
    RelayedPostgres,
}

/// A broker that owns its cell, perhaps another one before it, and a client.
pub(crate) struct Scene {
    args: BrokerArgs,
    broker: Broker,
    /// The one that clients and workers are connected to, if that is not the owner.
    relay: Option<Broker>,
    kept: Kept,
    address: String,
    client: Client,
}

enum Kept {
    Memory(MemoryStore),
    Postgres(Database),
}

impl Kept {
    fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => Arc::new(store.clone()),
            Self::Postgres(database) => {
                let Ok(url) = database.url().parse::<Secret>();
                let settings = DatabaseArgs { database_url: Some(url), ..DatabaseArgs::default() }.settings();
                Arc::new(PgStore::new(settings).expect("a well-formed address"))
            }
        }
    }
}

impl Scene {
    pub(crate) async fn start(on: On) -> Self {
        Self::start_with(on, |_| {}).await
    }

    /// With other settings of the broker.
    pub(crate) async fn start_with(on: On, change: impl FnOnce(&mut BrokerArgs)) -> Self {
        let any = ([127, 0, 0, 1], 0).into();
        let mut args = BrokerArgs { listen: any, admin_listen: any, ..BrokerArgs::default() };
        change(&mut args);
        let kept = match on {
            On::Memory | On::RelayedMemory => Kept::Memory(MemoryStore::on_wall_clock()),
            On::Postgres | On::RelayedPostgres => Kept::Postgres(Database::create().await),
        };
        let relayed = matches!(on, On::RelayedMemory | On::RelayedPostgres);
        Self::begin(args, kept, relayed).await
    }

    /// Ends the broker in order, and starts another one in its place, which knows only what was kept.
    pub(crate) async fn restart(self) -> Self {
        let Self { args, broker, relay, kept, .. } = self;
        let (listen, relayed) = (relay.as_ref().unwrap_or(&broker).grpc_address(), relay.is_some());
        // The one that does not own the cell first, or it would take the cell over.
        for broker in relay.into_iter().chain([broker]) {
            soon(broker.shutdown()).await.expect("it ends in order");
        }
        Self::begin(BrokerArgs { listen, ..args }, kept, relayed).await
    }

    async fn begin(args: BrokerArgs, kept: Kept, relayed: bool) -> Self {
        let any = ([127, 0, 0, 1], 0).into();
        let owner = if relayed { BrokerArgs { listen: any, ..args.clone() } } else { args.clone() };
        let broker = Broker::start_on(&owner, kept.store()).await.expect("the broker starts");
        assert!(soon(broker.owns()).await, "nobody else owns the cell");
        let relay = if relayed {
            let relay = Broker::start_on(&args, kept.store()).await.expect("the relay starts");
            soon(async {
                while relay.relays_to().is_none() {
                    sleep(LOOK).await;
                }
            })
            .await;
            Some(relay)
        } else {
            None
        };
        let address = relay.as_ref().unwrap_or(&broker).grpc_address().to_string();
        let client = Client::new(&address).expect("an address of this machine is one");
        Self { args, broker, relay, kept, address, client }
    }

    /// Where clients and workers find it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Starts to describe a worker of it.
    pub(crate) fn worker(&self) -> WorkerBuilder {
        Worker::builder(&self.address)
    }

    /// All jobs, in the order of their creation, with their arguments and every ended delivery.
    pub(crate) async fn jobs(&self) -> Vec<v1::Job> {
        let mut ids = Vec::new();
        let mut page = self.client.list(JobFilter::new());
        while let Some(job) = page.next().await.expect("the broker lists its jobs") {
            ids.push(job.id);
        }
        let mut jobs = Vec::with_capacity(ids.len());
        for id in ids.into_iter().rev() {
            jobs.push(self.client.get_full(id).await.expect("the broker shows its jobs"));
        }
        jobs
    }

    /// Asks for something as an application does by SQL, in a transaction that commits at once.
    pub(crate) async fn ask_by_sql(&self, verb: Verb, why: &str) {
        match &self.kept {
            Kept::Memory(store) => store.ask(verb, By { who: "application".into(), why: why.into() }),
            Kept::Postgres(database) => database.ask(&verb, why).await,
        }
    }

    /// Lets so much time pass by the clock of the database. Once this returns, the owner knows of it; monotonic clocks,
    /// and so the timeouts of sessions, do not notice.
    pub(crate) async fn advance(&self, by: Duration) {
        let until = match &self.kept {
            Kept::Memory(store) => {
                store.advance(by);
                store.now()
            }
            Kept::Postgres(database) => Timestamp(database.advance(by).await),
        };
        soon(async {
            while self.owners_time().await.is_none_or(|now| now < until) {
                sleep(LOOK).await;
            }
        })
        .await;
    }

    async fn owners_time(&self) -> Option<Timestamp> {
        // Any job will do, also one that is not there: the answer carries the time.
        let found = self.broker.cell().look(vec![(JobId(0), None)]).await.ok()?;
        found.first().map(|found| found.now)
    }
}

pub(crate) async fn noop((): (), _: Context) -> Result<(), TaskError> {
    Ok(())
}

/// Fails if it takes far too long.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

/// Runs the jobs that this worker can run, and those that they defer, until none is left.
pub(crate) async fn run(worker: WorkerBuilder) -> Status {
    soon(worker.build().expect("a worker").run_until_caught_up()).await
}

/// The result of a job, once it has one.
pub(crate) async fn result<O: DeserializeOwned>(broker: &Scene, job_id: i64) -> O {
    soon(broker.client().result_as(job_id)).await.expect("a result")
}

/// Defers a job of this task, without arguments.
pub(crate) async fn defer(broker: &Scene, task: &str) -> i64 {
    broker.client().defer_named(task, ()).await.expect("a job").job_id
}

/// The job, once it is in this state.
pub(crate) async fn once_it_is(broker: &Scene, job_id: i64, state: JobState) -> v1::Job {
    soon(async {
        loop {
            let job = broker.client().get_full(job_id).await.expect("a job");
            if job.state() == state {
                return job;
            }
            sleep(LOOK).await;
        }
    })
    .await
}

/// The states of all jobs.
pub(crate) async fn states(broker: &Scene) -> Vec<JobState> {
    broker.jobs().await.iter().map(v1::Job::state).collect()
}

/// The only job.
pub(crate) async fn only_job(broker: &Scene) -> v1::Job {
    let mut jobs = broker.jobs().await;
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    jobs.remove(0)
}

/// The job, once it is final.
pub(crate) async fn end_of(broker: &Scene, job_id: i64) -> v1::Job {
    broker.client().wait_at_most(job_id, PATIENCE).await.expect("a final job");
    broker.client().get_full(job_id).await.expect("a job")
}

/// What went wrong in the last attempt of a job.
pub(crate) fn failure(job: &v1::Job) -> v1::Failure {
    job.last_attempt.clone().and_then(|attempt| attempt.failure).unwrap_or_default()
}

/// A worker that runs beside the test.
pub(crate) struct Running {
    pub(crate) handle: WorkerHandle,
    task: JoinHandle<Status>,
}

impl Running {
    pub(crate) fn start(worker: WorkerBuilder) -> Self {
        let worker = worker.build().expect("a worker");
        Self { handle: worker.handle(), task: tokio::spawn(worker.run()) }
    }

    /// Waits for its end.
    pub(crate) async fn ends(self) -> Status {
        soon(self.task).await.expect("no panic")
    }

    pub(crate) async fn stop(self) -> Status {
        self.handle.stop();
        self.ends().await
    }
}
