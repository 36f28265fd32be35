//! A cluster of real processes: PostgreSQL, brokers, workers and clients, each with a process id to send signals to.

mod cables;
mod clocks;
mod database;
mod disk;
mod http;
mod patroni;
mod process;
mod programs;
mod ready;
mod shape;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use cabbage_dev_postgres::{Data, Durability, Mode, Options, Server, Tcp};
use cabbage_migrations::Schema;
use tempfile::TempDir;
use tokio::sync::watch;

pub use cables::{Cables, DATABASE_PARTY, PEERS_PARTY};
use clocks::WrongClocks;
pub use database::Database;
pub use disk::{Disk, may_mount};
pub use patroni::{Patroni, Way};
use process::Launch;
pub use process::Process;
pub use programs::Programs;
pub use ready::{Role, role, wait_until};
pub use shape::{Intervals, Shape, Share};

/// The database of the cell.
const DATABASE: &str = "cabbage";
/// How long a broker may take to be ready after its start.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Connections to PostgreSQL at most: what brokers and tests need, and few enough to be used up.
const CONNECTIONS_MAX: u32 = 80;

/// The processes, and the folder of their logs. Dropping it kills all of them.
#[derive(Debug)]
pub struct Cluster {
    programs: Programs,
    shape: Shape,
    /// PostgreSQL.
    pub database: Database,
    /// The brokers, by number.
    pub brokers: Vec<Broker>,
    /// The workers, by number.
    pub workers: Vec<Process>,
    /// The clients.
    pub clients: Vec<Process>,
    /// Between them, if cables were asked for.
    pub cables: Option<Cables>,
    /// PostgreSQL's own disk, if one was asked for. It goes after the server.
    pub disk: Option<Disk>,
    clocks: Option<WrongClocks>,
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
        let disk = shape.disk_mib.map(Disk::mount).transpose()?;
        let options = Options {
            durability,
            data: disk.as_ref().map_or(Data::Temporary, |disk| Data::Keep(disk.data())),
            tcp: if shape.cables.is_some() { Tcp::FreePort } else { Tcp::Off },
            settings: vec![("max_connections".to_owned(), CONNECTIONS_MAX.to_string())],
            ..Options::default()
        };
        let database = match shape.patroni {
            None => Database::Single(Box::new(Server::start(options).await?)),
            Some(way) => {
                let patroni = Patroni::start(way, shape.fsync, CONNECTIONS_MAX, folder.path()).await?;
                Database::Patroni(Box::new(patroni))
            }
        };
        database.create().await?;
        let clocks = if shape.wrong_clocks { Some(WrongClocks::build(folder.path()).await?) } else { None };
        let mut cluster = Self {
            programs,
            shape,
            database,
            brokers: Vec::new(),
            workers: Vec::new(),
            clients: Vec::new(),
            cables: shape.cables.map(Cables::new),
            disk,
            clocks,
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

    /// The URL of the database, for whoever looks: of its primary, as far as is known.
    pub fn database_url(&self) -> String {
        self.database.url()
    }

    /// The schema of the cell.
    pub fn schema() -> Schema {
        Schema::default()
    }

    /// What the brokers were told.
    pub fn intervals(&self) -> Intervals {
        self.shape.intervals
    }

    /// The addresses of the brokers, with commas, as this party knows them.
    fn addresses(&mut self, party: &str) -> anyhow::Result<String> {
        let mut addresses = Vec::new();
        for (number, broker) in self.brokers.iter().enumerate() {
            let address = match &mut self.cables {
                Some(cables) => cables.lay(party, &broker_name(number), broker.address)?,
                None => broker.address,
            };
            addresses.push(address.to_string());
        }
        Ok(addresses.join(","))
    }

    /// The URL of the database, and the address for other brokers, as this broker is told them.
    fn ways_of(&mut self, name: &str, address: SocketAddr) -> anyhow::Result<(String, String)> {
        let Some(cables) = &mut self.cables else {
            return Ok((self.database.url_of_brokers(), address.to_string()));
        };
        let postgres = self.database.single()?;
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, postgres.port()));
        let near = cables.lay(name, DATABASE_PARTY, server)?;
        let url = postgres.tcp_url(DATABASE).context("cables need TCP")?;
        Ok((url.replace(&server.to_string(), &near.to_string()), cables.lay(PEERS_PARTY, name, address)?.to_string()))
    }

    /// What is in the environment of a process of this number besides.
    fn environment(&self, number: usize) -> Vec<(&'static str, String)> {
        self.clocks.as_ref().map(|clocks| clocks.environment(number)).unwrap_or_default()
    }

    fn spawn_broker(&mut self, number: usize, address: SocketAddr, admin: SocketAddr) -> anyhow::Result<Process> {
        let Intervals { beat, watchdog, grace, session } = self.shape.intervals;
        let name = broker_name(number);
        let (database, advertised) = self.ways_of(&name, address)?;
        let options = [
            ("--listen", address.to_string()),
            ("--admin-listen", admin.to_string()),
            ("--advertise", advertised),
            ("--database-url", database),
            ("--memory-jobs", self.shape.memory_jobs.to_string()),
            ("--beat-ms", beat.as_millis().to_string()),
            ("--watchdog-ms", watchdog.as_millis().to_string()),
            ("--grace-ms", grace.as_millis().to_string()),
            ("--session-ms", session.as_millis().to_string()),
        ];
        let launch = Launch::of(&self.programs.broker, &name).options(options).environment(self.environment(number));
        // Those servers are to lose nothing, so a primary that acknowledges alone is none to own on.
        let launch = if self.shape.patroni.is_some() { launch.flag("--require-synchronous") } else { launch };
        launch.spawn(self.folder())
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

    /// The broker that owns the cell, and its term.
    pub async fn owner(&self) -> anyhow::Result<(usize, u64)> {
        self.owner_after(0).await
    }

    /// The broker that owns the cell by a later term than this one. One that has lost the cell may not know it yet.
    pub async fn owner_after(&self, term: u64) -> anyhow::Result<(usize, u64)> {
        let owner = watch::Sender::new((0, term));
        wait_until(&format!("a broker owns the cell after term {term}"), READY_WITHIN, async || {
            for (number, broker) in self.brokers.iter().enumerate() {
                if let Role::Owns(term) = role(broker.admin).await {
                    owner.send_if_modified(|(owner, latest)| {
                        let is_later = term > *latest;
                        if is_later {
                            (*owner, *latest) = (number, term);
                        }
                        is_later
                    });
                }
            }
            Ok(owner.borrow().1 > term)
        })
        .await?;
        Ok(*owner.borrow())
    }

    /// Starts one more worker.
    pub fn start_worker(&mut self) -> anyhow::Result<()> {
        let number = self.next_worker;
        let name = format!("worker-{number}");
        self.next_worker += 1;
        let options = [
            ("--brokers", self.addresses(&name)?),
            ("--name", name.clone()),
            ("--journal", self.journal(&name).display().to_string()),
        ];
        let worker = Launch::of(&self.programs.worker, &name)
            .options(options)
            .environment(self.environment(number))
            .spawn(self.folder())?;
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
        let common = [("--brokers", self.addresses(name)?), ("--name", name.to_owned())];
        let program = self.programs.named(program);
        let worker = Launch::of(&program, name).options(common).options(options).spawn(self.folder())?;
        self.workers.push(worker);
        Ok(())
    }

    /// Starts a client.
    pub fn start_client(&mut self, share: Share) -> anyhow::Result<()> {
        let name = format!("client-{}", self.clients.len());
        let options = [
            ("--brokers", self.addresses(&name)?),
            ("--name", name.clone()),
            ("--journal", self.journal(&name).display().to_string()),
            ("--jobs", share.jobs.to_string()),
            ("--seed", share.seed.to_string()),
            ("--rate", share.rate.to_string()),
            ("--latest-ms", share.latest.as_millis().to_string()),
        ];
        let client = Launch::of(&self.programs.client, &name).options(options);
        let client = if share.agenda { client.flag("--agenda") } else { client }.spawn(self.folder())?;
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
        self.database.restart(Mode::Immediate).await
    }

    /// Restarts PostgreSQL in order.
    pub async fn restart_postgres(&mut self) -> anyhow::Result<()> {
        self.database.restart(Mode::Fast).await
    }
}

fn broker_name(number: usize) -> String {
    format!("broker-{number}")
}

/// An address that nobody listens on now.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
