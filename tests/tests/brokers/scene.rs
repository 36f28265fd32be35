//! Brokers of one cell, in this process, on either store.

use std::{future::Future, sync::Arc, time::Duration};

use cabbage_broker::{
    Broker, BrokerArgs,
    args::{DatabaseArgs, Secret},
    store::{Store, memory::MemoryStore, postgres::PgStore},
};
use cabbage_dev_postgres::{TestDatabase, TestServer};
use cabbage_proto::v1::{
    self, admin_service_client::AdminServiceClient, job_service_client::JobServiceClient,
    queue_service_client::QueueServiceClient, worker_service_client::WorkerServiceClient,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use tonic::transport::Channel;

/// Nothing is waited for longer than this; a test that gets here has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// How often something is looked at that nobody tells of.
pub(crate) const LOOK: Duration = Duration::from_millis(2);

/// Brokers on one store; the first one owned the cell first.
pub(crate) struct Brokers {
    pub(crate) args: BrokerArgs,
    pub(crate) all: Vec<Broker>,
    /// Last, since what is dropped last is there for the others.
    kept: Kept,
}

enum Kept {
    Memory(MemoryStore),
    Postgres(TestDatabase),
}

impl Brokers {
    /// So many brokers on a store in memory.
    pub(crate) async fn in_memory(count: usize) -> Self {
        Self::start(Kept::Memory(MemoryStore::on_wall_clock()), count).await
    }

    /// So many brokers on a database.
    pub(crate) async fn in_postgres(count: usize) -> Self {
        let server = TestServer::shared(None).await.expect("a server for tests");
        Self::start(Kept::Postgres(server.database().await.expect("a database")), count).await
    }

    async fn start(kept: Kept, count: usize) -> Self {
        let any = ([127, 0, 0, 1], 0).into();
        let args = BrokerArgs { listen: any, admin_listen: any, ..BrokerArgs::default() };
        let mut brokers = Self { args, all: Vec::new(), kept };
        for _ in 0..count {
            brokers.add().await;
        }
        brokers
    }

    /// Starts one more, and waits until it owns the cell or reaches its owner.
    pub(crate) async fn add(&mut self) {
        let broker = Broker::start_on(&self.args, self.store()).await.expect("the broker starts");
        self.all.push(broker);
        self.settle().await;
    }

    /// Waits until one broker owns the cell, and all others reach it.
    pub(crate) async fn settle(&self) {
        soon(async {
            loop {
                let owners: Vec<_> = self.all.iter().filter_map(|broker| broker.cell().owned().ok()).collect();
                let reach = |broker: &Broker| broker.relays_to().is_some_and(|term| term == owners[0].term);
                if owners.len() == 1 && self.all.iter().filter(|broker| reach(broker)).count() == self.all.len() - 1 {
                    return;
                }
                sleep(LOOK).await;
            }
        })
        .await;
    }

    /// The store, as a broker of its own has it.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match &self.kept {
            Kept::Memory(store) => Arc::new(store.clone()),
            Kept::Postgres(database) => {
                let Ok(url) = database.url().parse::<Secret>();
                let settings = DatabaseArgs { database_url: Some(url), ..DatabaseArgs::default() }.settings();
                Arc::new(PgStore::new(settings).expect("a well-formed address"))
            }
        }
    }

    /// The URL of the database that they share.
    pub(crate) fn url(&self) -> &str {
        match &self.kept {
            Kept::Memory(_) => panic!("memory has no address"),
            Kept::Postgres(database) => database.url(),
        }
    }

    /// Takes the term away from its owner, as if its connections to the database had been cut.
    pub(crate) fn depose(&self) {
        match &self.kept {
            Kept::Memory(store) => _ = store.depose(4_711),
            Kept::Postgres(_) => panic!("a database deposes nobody by itself"),
        }
    }

    /// The number of the broker that owns the cell.
    pub(crate) fn owner(&self) -> usize {
        self.all.iter().position(|broker| broker.cell().owned().is_ok()).expect("an owner")
    }

    pub(crate) fn address(&self, number: usize) -> String {
        self.all[number].grpc_address().to_string()
    }

    /// A connection of its own to this broker.
    pub(crate) async fn channel(&self, number: usize) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address(number))).expect("an address");
        endpoint.connect().await.expect("the broker listens")
    }

    pub(crate) async fn jobs(&self, number: usize) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel(number).await)
    }

    pub(crate) async fn queues(&self, number: usize) -> QueueServiceClient<Channel> {
        QueueServiceClient::new(self.channel(number).await)
    }

    pub(crate) async fn admin(&self, number: usize) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel(number).await)
    }

    pub(crate) async fn workers(&self, number: usize) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel(number).await)
    }
}

/// A call that defers a job of this task, without an id of its own.
pub(crate) fn defer(task: &str) -> v1::DeferJobRequest {
    let job = v1::JobSpec { task: task.into(), ..v1::JobSpec::default() };
    v1::DeferJobRequest { job: Some(job), ..v1::DeferJobRequest::default() }
}

/// Fails if it takes far too long.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

/// What the second port of a broker says on this path.
pub(crate) async fn page(broker: &Broker, path: &str) -> String {
    let mut stream = TcpStream::connect(broker.admin_address()).await.expect("it listens");
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    answer
}
