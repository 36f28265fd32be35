//! A fresh cell for one test, and rows to put into it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cabbage_broker::{
    core::{
        batch::{Batch, NewJob, Outcome, OutcomeMore, Unparked},
        fact::Fact,
        job::{DueAt, Failure, JobSpec, Phase, Rare, Record, Verdict},
        place::{ParkedJob, Place, PlaceKey},
        types::{JobId, QueueNo, Stream, TaskNo, Timestamp},
    },
    store::{
        Store, Tenure,
        memory::MemoryStore,
        postgres::{PgSettings, PgStore},
    },
};
use cabbage_dev_postgres::{TestDatabase, TestServer};
use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};

/// A cell of its own.
pub(crate) struct TestCell {
    pub(crate) store: Arc<dyn Store>,
    memory: Option<MemoryStore>,
    database: Option<TestDatabase>,
}

impl TestCell {
    /// Its clock goes on by a microsecond whenever it is read.
    pub(crate) fn in_memory() -> Self {
        let now = AtomicI64::new(1_700_000_000_000_000);
        let memory = MemoryStore::new(Arc::new(move || Timestamp(now.fetch_add(1, Ordering::Relaxed))));
        Self { store: Arc::new(memory.clone()), memory: Some(memory), database: None }
    }

    /// A database of its own, with the schema made.
    pub(crate) async fn in_postgres() -> Self {
        let cell = Self::in_empty_postgres().await;
        cell.store.prepare().await.expect("the schema is made");
        cell
    }

    /// A database of its own, with nothing in it.
    pub(crate) async fn in_empty_postgres() -> Self {
        let server = TestServer::shared(None).await.expect("a server for tests");
        let database = server.database().await.expect("a database");
        let store = PgStore::new(PgSettings::from_url(database.url())).expect("a well-formed address");
        Self { store: Arc::new(store), memory: None, database: Some(database) }
    }

    fn url(&self) -> &str {
        self.database.as_ref().expect("a cell in PostgreSQL").url()
    }

    /// How to reach its database.
    pub(crate) fn settings(&self) -> PgSettings {
        PgSettings::from_url(self.url())
    }

    /// Another broker on the same database, that loses patience sooner.
    pub(crate) fn other(&self, silence: Duration) -> PgStore {
        PgStore::new(PgSettings { silence, ..self.settings() }).expect("a well-formed address")
    }

    /// A connection of the test's own.
    pub(crate) async fn connection(&self) -> PgConnection {
        let options: PgConnectOptions = self.url().parse().expect("a well-formed address");
        options.options([("search_path", "cabbage")]).connect().await.expect("a connection")
    }

    /// The term, which nobody else has.
    pub(crate) async fn own(&self) -> Tenure {
        self.store.take_term("here:1").await.expect("the database answers").expect("nobody has it")
    }

    /// Takes the term away from whoever has it, as a takeover does.
    pub(crate) async fn depose(&self) {
        if let Some(memory) = &self.memory {
            memory.depose(4711);
            return;
        }
        sqlx::query(TAKE_TERM).execute(&mut self.connection().await).await.expect("the fence is raised");
    }

    /// The database's time.
    pub(crate) async fn now(&self) -> Timestamp {
        self.store.ping().await.expect("the database answers")
    }
}

/// Takes the term, as nobody's.
pub(crate) const TAKE_TERM: &str = "SELECT take_term_1(4711, ARRAY[0, 0], ARRAY[now(), now()], 'there:1')";

pub(crate) const QUEUE: QueueNo = QueueNo(0);
pub(crate) const TASK: TaskNo = TaskNo(0);
pub(crate) const STREAM: Stream = Stream { queue: QUEUE, task: TASK, priority: 0 };

/// A batch with nothing but a fact in it.
pub(crate) fn batch(number: u64) -> Batch {
    let facts = vec![Fact::Due { id: JobId(number as i64) }];
    Batch { number, facts: Arc::new(facts), ..Batch::default() }
}

/// The first batch of a cell: it names the queue and the task, and creates these jobs.
pub(crate) fn first_batch(jobs: impl IntoIterator<Item = i64>) -> Batch {
    Batch {
        queues: vec![(QUEUE, "mail".into()), (QueueNo(1), "bulk".into())],
        tasks: vec![(TASK, "send".into()), (TaskNo(1), "sweep".into())],
        jobs: jobs.into_iter().map(|id| new_job(id, spec())).collect(),
        ..batch(1)
    }
}

/// What a plain job asks for.
pub(crate) fn spec() -> JobSpec {
    JobSpec { args: Bytes::from_static(br#"{"to": "a@b.example",  "n": 1.0}"#), ..JobSpec::plain("send", "mail") }
}

/// A new job in the first queue.
pub(crate) fn new_job(id: i64, spec: JobSpec) -> NewJob {
    let due = match spec.due {
        DueAt::At(due) => due,
        DueAt::Once | DueAt::In(_) => Timestamp(1_600_000_000_000_000),
    };
    let queue = if &*spec.queue == "mail" { QUEUE } else { QueueNo(1) };
    let task = if &*spec.task == "send" { TASK } else { TaskNo(1) };
    NewJob { id: JobId(id), queue, task, due, spec: Arc::new(spec) }
}

/// The end of a delivery.
pub(crate) fn outcome(job: i64, delivery: u32, verdict: Verdict) -> Outcome {
    Outcome {
        job: JobId(job),
        delivery,
        attempt: delivery,
        verdict,
        started: Some(Timestamp(1_700_000_000_000_000)),
        finished: Timestamp(1_700_000_000_500_000),
        session: None,
        more: None,
    }
}

/// The end of a delivery with an error of this text.
pub(crate) fn failed_with(job: i64, delivery: u32, message: &str) -> Outcome {
    let failure = Failure { kind: "Error".to_owned(), message: message.to_owned(), trace: "at a".to_owned() };
    let more = OutcomeMore { failure: Some(failure), ..OutcomeMore::default() };
    Outcome { more: Some(Box::new(more)), ..outcome(job, delivery, Verdict::Failed) }
}

/// What is remembered of a waiting job.
pub(crate) fn record() -> Record {
    Record {
        stream: STREAM,
        phase: Phase::Waiting,
        due: Timestamp(1_700_000_000_000_000),
        attempts: 0,
        deliveries: 0,
        crashes: 0,
        args_bytes: 32,
        rare: None,
    }
}

/// The same, with something rare.
pub(crate) fn record_with(rare: Rare) -> Record {
    Record { rare: rare.boxed(), ..record() }
}

/// A parked job.
pub(crate) fn parked(id: i64, place: Place, sort: i64, record: Record) -> ParkedJob {
    let key = PlaceKey { sort, id: JobId(id) };
    ParkedJob { id: JobId(id), place, key, record }
}

/// The same job, as it leaves.
pub(crate) fn leaving(parked: &ParkedJob) -> Unparked {
    Unparked { id: parked.id, place: parked.place, key: parked.key }
}
