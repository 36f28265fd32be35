//! The cell that is measured: one of our own, or one that is there.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use cabbage_dev_postgres::{Mode, Options, Server, VersionWish};
use cabbage_migrations::Schema;
use cabbage_proto::v1::HandOverRequest;
use tonic::transport::Endpoint;

use super::{
    child::Child,
    cpu,
    database::{Database, Finals, Reading},
    memory,
    phase::Phase,
};
use crate::{
    brokers::{Address, admin_service},
    health,
};

/// The database of a cell of our own.
pub(super) const DATABASE: &str = "cabbage";
/// How often a standby is asked whether it follows, and for how long.
const STANDBY_POLL: Duration = Duration::from_millis(50);
const STANDBY_TIMEOUT: Duration = Duration::from_mins(1);
/// The broker's count of its statements.
const STATEMENTS_METRIC: &str = "cabbage_statements_total";

/// A cell, and the ways to read what its work costs.
#[derive(Debug)]
pub(crate) struct Cell {
    address: String,
    admin: Option<String>,
    schema: Schema,
    database: Option<Database>,
    // Dropped in this order: the brokers before their database.
    broker: Option<Child>,
    standby: Option<Standby>,
    server: Option<Server>,
}

/// A second broker, and where it is found.
#[derive(Debug)]
struct Standby {
    broker: Child,
    address: String,
    admin: String,
}

/// What was used until one moment. What cannot be known here is `None`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    pub(crate) reading: Option<Reading>,
    pub(crate) statements: Option<u64>,
    pub(crate) postgresql: Option<Duration>,
    pub(crate) broker: Option<Duration>,
    pub(crate) ours: Option<Duration>,
}

impl Cell {
    /// A broker process on a private PostgreSQL that is as durable as one in production.
    pub(crate) async fn private(postgres_version: Option<u32>, schema: &Schema) -> anyhow::Result<Self> {
        let version = postgres_version.map_or(VersionWish::Any, VersionWish::Major);
        let server = Server::start(Options { version, ..Options::default() }).await?;
        server.create_database(DATABASE).await?;
        let url = server.url(DATABASE);
        let (broker, address, admin) = start_broker(&url, schema, &[]).await?;
        let database = Database::connect(&url, schema.clone()).await?;
        Ok(Self {
            address,
            admin: Some(admin),
            schema: schema.clone(),
            database: Some(database),
            broker: Some(broker),
            standby: None,
            server: Some(server),
        })
    }

    /// Starts a second broker on the private database, and waits until it follows the first. From now on the cell has
    /// both addresses.
    pub(crate) async fn add_standby(&mut self) -> anyhow::Result<()> {
        let url = self.database_url().context("only a cell of our own gets a standby")?;
        let (broker, address, admin) = start_broker(&url, &self.schema, &["--standby"]).await?;
        self.address = format!("{},{address}", self.address);
        self.standby = Some(Standby { broker, address, admin });
        self.standby_follows().await
    }

    /// Waits until the standby follows the owner.
    pub(crate) async fn standby_follows(&self) -> anyhow::Result<()> {
        let Standby { admin, .. } = self.standby.as_ref().context("there is no standby")?;
        let follows = async {
            loop {
                if matches!(health::get(admin, "/readyz").await, Ok((200, text)) if text.contains("follows")) {
                    return;
                }
                tokio::time::sleep(STANDBY_POLL).await;
            }
        };
        tokio::time::timeout(STANDBY_TIMEOUT, follows).await.context("the standby does not follow the owner")
    }

    /// Has the owner hand the cell over to the standby; from then on each is the other.
    pub(crate) async fn hand_over(&mut self) -> anyhow::Result<()> {
        let (broker, standby) = (self.broker.as_mut(), self.standby.as_mut());
        let (broker, standby) = broker.zip(standby).context("there are no two brokers of ours")?;
        let owner = self.address.split(',').find(|address| *address != standby.address).context("an owner")?.to_owned();
        let channel = Endpoint::from_shared(owner.clone())?.connect().await.context("cannot connect to the owner")?;
        let request = HandOverRequest { reason: "a measurement".to_owned(), ..HandOverRequest::default() };
        admin_service(channel).hand_over(request).await.context("the cell was not handed over")?;
        std::mem::swap(broker, &mut standby.broker);
        standby.address = owner;
        if let Some(admin) = &mut self.admin {
            std::mem::swap(admin, &mut standby.admin);
        }
        Ok(())
    }

    /// Starts a second broker on the private database. From now on, its address is that of the cell: all that comes goes
    /// through it to the owner.
    pub(crate) async fn relay(&mut self) -> anyhow::Result<()> {
        self.add_standby().await?;
        let Standby { address, .. } = self.standby.as_ref().context("there is no standby")?;
        self.address.clone_from(address);
        Ok(())
    }

    /// Kills the broker that owns the cell; answers when. The standby is what is left.
    pub(crate) async fn kill_owner(&mut self) -> anyhow::Result<Instant> {
        let owner = self.broker.take().context("the broker is not ours")?;
        let standby = self.standby.take().context("there is no standby")?;
        self.broker = Some(standby.broker);
        self.address = standby.address;
        let killed = Instant::now();
        owner.kill().await?;
        Ok(killed)
    }

    /// The bytes of the broker's memory.
    pub(crate) fn owner_memory(&self) -> Option<u64> {
        memory::of_process(self.owner_pid()?)
    }

    /// A broker that is there, and its database if we may see it.
    pub(crate) async fn given(
        addresses: &[Address],
        database_url: Option<&str>,
        schema: &Schema,
    ) -> anyhow::Result<Self> {
        let address = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let database = match database_url {
            Some(url) => Some(Database::connect(url, schema.clone()).await?),
            None => None,
        };
        Ok(Self { address, admin: None, schema: schema.clone(), database, broker: None, standby: None, server: None })
    }

    /// Whether it is a cell of our own, which goes with us.
    pub(crate) fn is_ours(&self) -> bool {
        self.server.is_some()
    }

    /// The broker's address, as workers and clients take it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The URL of the private database.
    pub(crate) fn database_url(&self) -> Option<String> {
        self.server.as_ref().map(|server| server.url(DATABASE))
    }

    /// The process of the broker that owns the cell.
    pub(crate) fn owner_pid(&self) -> Option<u32> {
        self.broker.as_ref()?.pid()
    }

    /// The log of the private database.
    pub(crate) fn database_log(&self) -> Option<std::path::PathBuf> {
        self.server.as_ref().map(Server::log_file)
    }

    /// What the private database has used until now.
    pub(crate) fn postgresql_cpu(&self) -> Option<Duration> {
        cpu::of_server(self.server.as_ref()?.pid()?)
    }

    pub(crate) async fn costs(&mut self) -> anyhow::Result<Costs> {
        let reading = match &mut self.database {
            Some(database) => Some(database.reading().await?),
            None => None,
        };
        let statements = match &self.admin {
            Some(admin) => statements(admin).await,
            None => None,
        };
        Ok(Costs {
            reading,
            statements,
            postgresql: self.postgresql_cpu(),
            broker: self.broker.as_ref().and_then(Child::pid).and_then(cpu::of_process),
            ours: cpu::of_process(std::process::id()),
        })
    }

    /// Fills a phase in with what lies between two moments.
    pub(crate) async fn fill_in(&mut self, phase: &mut Phase, before: &Costs, after: &Costs) -> anyhow::Result<()> {
        phase.cpu("postgresql", before.postgresql, after.postgresql);
        phase.cpu("broker", before.broker, after.broker);
        phase.owner_mib = self.owner_memory().map(|bytes| bytes as f64 / f64::from(1 << 20));
        if let (Some(before), Some(after)) = (before.statements, after.statements) {
            phase.statements = Some(after.saturating_sub(before));
        }
        if let (Some(database), Some(before), Some(after)) = (&mut self.database, before.reading, after.reading) {
            let commits = after.log - before.log;
            phase.commits = Some(commits);
            phase.jobs_per_commit = Some(phase.jobs as f64 / commits.max(1) as f64);
            phase.wal_bytes_per_job = Some(phase.per_job(after.wal - before.wal));
            phase.fact_bytes_per_job = Some(phase.per_job(database.fact_bytes(before, after).await?));
        }
        Ok(())
    }

    /// Lets a database of our own come to rest, as after any filling of a queue.
    pub(crate) async fn settle(&mut self) -> anyhow::Result<()> {
        match self.own_database() {
            Some(database) => database.settle().await,
            None => Ok(()),
        }
    }

    /// Writes dirty pages out, in a database of our own.
    pub(crate) async fn checkpoint(&mut self) -> anyhow::Result<()> {
        match self.own_database() {
            Some(database) => database.checkpoint().await,
            None => Ok(()),
        }
    }

    fn own_database(&mut self) -> Option<&mut Database> {
        self.server.as_ref()?;
        self.database.as_mut()
    }

    pub(crate) async fn finals(&mut self, queue: &str, ids: (i64, i64)) -> anyhow::Result<Option<Finals>> {
        match &mut self.database {
            Some(database) => Ok(Some(database.finals(queue, ids).await?)),
            None => Ok(None),
        }
    }

    pub(crate) async fn settings(&mut self) -> anyhow::Result<BTreeMap<String, String>> {
        match &mut self.database {
            Some(database) => database.settings().await,
            None => Ok(BTreeMap::new()),
        }
    }

    /// Opens a transaction in the private database that no vacuum may overtake. It lasts as long as its connection.
    pub(crate) async fn old_snapshot(&self) -> anyhow::Result<Database> {
        let url = self.database_url().context("only in a database of our own a transaction is left open")?;
        let mut database = Database::connect(&url, self.schema.clone()).await?;
        database.open_transaction().await?;
        Ok(database)
    }

    /// Stops the brokers of our own; their database goes on.
    pub(crate) async fn stop_broker(&mut self) -> anyhow::Result<()> {
        for broker in [self.standby.take().map(|standby| standby.broker), self.broker.take()].into_iter().flatten() {
            broker.stop().await?;
        }
        Ok(())
    }

    /// Stops all that is ours, in order.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.stop_broker().await?;
        drop(self.database.take());
        if let Some(mut server) = self.server.take() {
            server.stop(Mode::Immediate).await;
        }
        Ok(())
    }
}

/// Starts a broker process on this database; answers where it is found.
async fn start_broker(url: &str, schema: &Schema, more: &[&str]) -> anyhow::Result<(Child, String, String)> {
    let args = ["bench", "broker", "--database-url", url, "--schema", schema.name()];
    let args: Vec<_> = args.iter().chain(more).map(|arg| (*arg).to_owned()).collect();
    let mut broker = Child::start("broker", &args)?;
    let addresses = broker.expect("ready").await?;
    let (address, admin) = addresses.split_once(' ').context("the broker named no addresses")?;
    Ok((broker, format!("http://{address}"), admin.to_owned()))
}

async fn statements(admin: &str) -> Option<u64> {
    let (code, metrics) = health::get(admin, "/metrics").await.ok()?;
    (code == 200).then(|| metric(&metrics, STATEMENTS_METRIC)).flatten()
}

/// The value of the first sample of this name.
fn metric(metrics: &str, name: &str) -> Option<u64> {
    let line = metrics.lines().find(|line| line.starts_with(name) && !line.starts_with('#'))?;
    line.rsplit(' ').next()?.parse::<f64>().ok().map(|value| value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_name() {
        let metrics = "# TYPE cabbage_statements_total counter\ncabbage_statements_total{a=\"b c\"} 42\n";
        assert_eq!(metric(metrics, STATEMENTS_METRIC), Some(42));
        assert_eq!(metric(metrics, "cabbage_other"), None);
    }
}
