//! A cluster of real processes: PostgreSQL, brokers, workers and clients, each with a process id to send signals to.

mod process;
mod programs;
mod ready;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use cabbage_dev_postgres::{Durability, Mode, Options, Server};
use cabbage_migrations::Schema;
use tempfile::TempDir;
use tokio::sync::watch;

pub use process::Process;
pub use programs::Programs;
pub use ready::{Role, role, wait_until};

/// The database of the cell.
const DATABASE: &str = "cabbage";
/// How long a broker may take to be ready after its start.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The intervals that the brokers are told (C13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// Of beats.
    pub beat: Duration,
    /// Of silence until a stream is closed.
    pub watchdog: Duration,
    /// Of a broken stream.
    pub grace: Duration,
    /// Of silence until a session ends.
    pub session: Duration,
}

impl Intervals {
    /// Those of the contract.
    pub const CONTRACT: Self = Self {
        beat: Duration::from_secs(3),
        watchdog: Duration::from_secs(8),
        grace: Duration::from_secs(20),
        session: Duration::from_mins(1),
    };
    /// Short ones, for runs that must be quick.
    pub const SHORT: Self = Self {
        beat: Duration::from_millis(400),
        watchdog: Duration::from_millis(1_500),
        grace: Duration::from_secs(4),
        session: Duration::from_millis(6_500),
    };
}

/// What kind of cluster to start.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Brokers.
    pub brokers: usize,
    /// Workers.
    pub workers: usize,
    /// What the brokers are told.
    pub intervals: Intervals,
    /// How many jobs a broker keeps in memory: few, so that jobs are parked too.
    pub memory_jobs: usize,
    /// Whether commits survive a crash of the machine.
    pub fsync: bool,
}

/// The share of a client.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Jobs to ask for.
    pub jobs: u64,
    /// Draws them.
    pub seed: u64,
    /// Jobs per second.
    pub rate: u64,
    /// Scheduled jobs are due at most so much later.
    pub latest: Duration,
    /// Whether it keeps the schedules while its load lasts.
    pub agenda: bool,
}

/// The processes, and the folder of their logs. Dropping it kills all of them.
#[derive(Debug)]
pub struct Cluster {
    programs: Programs,
    shape: Shape,
    /// PostgreSQL.
    pub postgres: Server,
    /// The brokers, by number.
    pub brokers: Vec<Broker>,
    /// The workers, by number.
    pub workers: Vec<Process>,
    /// The clients.
    pub clients: Vec<Process>,
    next_worker: usize,
    folder: TempDir,
}

/// One broker, whether it runs or not.
#[derive(Debug)]
pub struct Broker {
    /// Its process; it stays here after its end.
    pub process: Process,
    /// For clients and workers.
    pub address: SocketAddr,
    /// For operators.
    pub admin: SocketAddr,
}

impl Cluster {
    /// Starts PostgreSQL, then the brokers, then the workers. Once it returns, one broker owns the cell and the others
    /// follow it.
    pub async fn start(shape: Shape) -> anyhow::Result<Self> {
        let programs = Programs::find().await?;
        let folder = tempfile::Builder::new().prefix("cabbage-faults-").tempdir()?;
        let durability = if shape.fsync { Durability::Full } else { Durability::Off };
        let postgres = Server::start(Options { durability, ..Options::default() }).await?;
        postgres.create_database(DATABASE).await?;
        let mut cluster = Self {
            programs,
            shape,
            postgres,
            brokers: Vec::new(),
            workers: Vec::new(),
            clients: Vec::new(),
            next_worker: 0,
            folder,
        };
        for _ in 0..shape.brokers {
            let (address, admin) = (free_address()?, free_address()?);
            let process = cluster.spawn_broker(cluster.brokers.len(), address, admin)?;
            cluster.brokers.push(Broker { process, address, admin });
            // One after the other, so that the first owns.
            cluster.wait_ready(cluster.brokers.len() - 1).await?;
        }
        for _ in 0..shape.workers {
            cluster.start_worker()?;
        }
        Ok(cluster)
    }

    /// The folder of all logs and journals.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps the folder after the end, and answers where it is.
    pub fn keep_folder(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// The URL of the database.
    pub fn database_url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    /// The schema of the cell.
    pub fn schema() -> Schema {
        Schema::default()
    }

    /// What the brokers were told.
    pub fn intervals(&self) -> Intervals {
        self.shape.intervals
    }

    /// The addresses of the brokers, with commas.
    fn addresses(&self) -> String {
        self.brokers.iter().map(|broker| broker.address.to_string()).collect::<Vec<_>>().join(",")
    }

    fn spawn_broker(&self, number: usize, address: SocketAddr, admin: SocketAddr) -> anyhow::Result<Process> {
        let Intervals { beat, watchdog, grace, session } = self.shape.intervals;
        let options = [
            ("--listen", address.to_string()),
            ("--admin-listen", admin.to_string()),
            ("--database-url", self.database_url()),
            ("--memory-jobs", self.shape.memory_jobs.to_string()),
            ("--beat-ms", beat.as_millis().to_string()),
            ("--watchdog-ms", watchdog.as_millis().to_string()),
            ("--grace-ms", grace.as_millis().to_string()),
            ("--session-ms", session.as_millis().to_string()),
        ];
        let options = options.map(|(option, value)| (option, Some(value)));
        Process::spawn(&self.programs.broker, &format!("broker-{number}"), self.folder(), options)
    }

    /// Starts a broker again that was killed, at its old addresses. It may not be ready yet.
    pub fn start_broker_again(&mut self, number: usize) -> anyhow::Result<()> {
        let Broker { address, admin, .. } = self.brokers[number];
        self.brokers[number].process = self.spawn_broker(number, address, admin)?;
        Ok(())
    }

    /// Waits until a broker serves.
    pub async fn wait_ready(&self, number: usize) -> anyhow::Result<()> {
        let broker = &self.brokers[number];
        wait_until(&format!("broker {number} is ready"), READY_WITHIN, async || {
            anyhow::ensure!(broker.process.is_running(), "broker {number} ended; see {}", self.folder().display());
            Ok(matches!(role(broker.admin).await, Role::Owns(_) | Role::Follows))
        })
        .await
    }

    /// The broker that owns the cell.
    pub async fn owner(&self) -> anyhow::Result<usize> {
        let owner = watch::Sender::new(None);
        wait_until("a broker owns the cell", READY_WITHIN, async || {
            for (number, broker) in self.brokers.iter().enumerate() {
                if matches!(role(broker.admin).await, Role::Owns(_)) {
                    owner.send_replace(Some(number));
                }
            }
            Ok(owner.borrow().is_some())
        })
        .await?;
        let owner = *owner.borrow();
        owner.context("a broker owns the cell")
    }

    /// Starts one more worker.
    pub fn start_worker(&mut self) -> anyhow::Result<()> {
        let name = format!("worker-{}", self.next_worker);
        self.next_worker += 1;
        let options = [
            ("--brokers", self.addresses()),
            ("--name", name.clone()),
            ("--journal", self.journal(&name).display().to_string()),
        ];
        let options = options.map(|(option, value)| (option, Some(value)));
        let worker = Process::spawn(&self.programs.worker, &name, self.folder(), options)?;
        self.workers.push(worker);
        Ok(())
    }

    /// Starts another program of these tests as one more worker: it is told the brokers, and its name.
    pub fn start_program<const N: usize>(
        &mut self,
        program: &str,
        name: &str,
        options: [(&str, String); N],
    ) -> anyhow::Result<()> {
        let common = [("--brokers", self.addresses()), ("--name", name.to_owned())];
        let options = common.into_iter().chain(options).map(|(option, value)| (option, Some(value)));
        let worker = Process::spawn(&self.programs.named(program), name, self.folder(), options)?;
        self.workers.push(worker);
        Ok(())
    }

    /// Starts a client.
    pub fn start_client(&mut self, share: Share) -> anyhow::Result<()> {
        let name = format!("client-{}", self.clients.len());
        let options = [
            ("--brokers", self.addresses()),
            ("--name", name.clone()),
            ("--journal", self.journal(&name).display().to_string()),
            ("--jobs", share.jobs.to_string()),
            ("--seed", share.seed.to_string()),
            ("--rate", share.rate.to_string()),
            ("--latest-ms", share.latest.as_millis().to_string()),
        ];
        let agenda = share.agenda.then_some(("--agenda", None));
        let options = options.into_iter().map(|(option, value)| (option, Some(value))).chain(agenda);
        let client = Process::spawn(&self.programs.client, &name, self.folder(), options)?;
        self.clients.push(client);
        Ok(())
    }

    /// The journal of a worker or client.
    pub fn journal(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.jsonl"))
    }

    /// How many jobs the clients were answered for.
    pub fn answered(&self) -> u64 {
        self.clients.iter().map(Process::progress).sum()
    }

    /// Restarts PostgreSQL as after a crash.
    pub async fn crash_postgres(&mut self) -> anyhow::Result<()> {
        Ok(self.postgres.restart(Mode::Immediate).await?)
    }
}

/// An address that nobody listens on now.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
