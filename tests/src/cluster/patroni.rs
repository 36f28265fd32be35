//! Three PostgreSQL servers of which one takes writes, as Patroni keeps them: in strict synchronous mode, so that what
//! was acknowledged is on two of them. The programs are Debian's.

mod configuration;
mod members;
mod node;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use sqlx::{ConnectOptions as _, Connection as _, postgres::PgConnectOptions};
use tempfile::TempDir;
use tokio::time::timeout;

use self::{configuration::Configuration, members::Members, node::Node};
use super::{
    free_address,
    http::ask,
    process::{Launch, Process},
    wait_until,
};

/// The servers.
const NODES: usize = 3;
/// The programs that must be on the machine, besides PostgreSQL's own.
const PATRONI: &str = "/usr/bin/patroni";
const ETCD: &str = "/usr/bin/etcd";
const HAPROXY: &str = "/usr/sbin/haproxy";
/// Starts a program as another account, and ends it when its parent ends.
const SETPRIV: &str = "/usr/bin/setpriv";
/// How long the servers may take until all of them are there, and level: the first start copies the data twice.
const LEVEL_WITHIN: Duration = Duration::from_mins(2);
/// How long it may take until another server is the primary: the lease of the lost one, and some steps.
const LED_WITHIN: Duration = Duration::from_mins(1);

/// The role that brokers and tests are.
pub(super) const ROLE: &str = "cabbage";

/// How brokers reach the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They know all hosts, and take the one that takes writes.
    Hosts,
    /// They know one address: HAProxy asks Patroni who the primary is.
    HaProxy,
}

/// The servers, with what watches over them. Dropping it kills all of them.
#[derive(Debug)]
pub struct Patroni {
    nodes: Vec<Node>,
    /// The number of the server that was the primary when somebody last looked.
    primary: AtomicUsize,
    proxy: Option<(SocketAddr, Process)>,
    _etcd: Process,
    _folder: TempDir,
}

impl Patroni {
    /// Whether the programs are there, and this user may start them as the account `postgres`.
    pub fn is_possible() -> bool {
        rustix::process::geteuid().is_root()
            && [PATRONI, ETCD, HAPROXY].iter().all(|program| Path::new(program).is_file())
    }

    pub(super) async fn start(way: Way, fsync: bool, connections: u32, logs: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(Self::is_possible(), "Patroni, etcd and HAProxy of Debian are needed, and root: .ci/failover");
        let folder = tempfile::Builder::new().prefix("cabbage-patroni-").tempdir()?;
        // The servers run as another user.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let (etcd, peers) = (free_address()?, free_address()?);
        let http = |address: SocketAddr| format!("http://{address}");
        let etcd_process = bound(ETCD, "etcd")
            .options([
                ("--name", "etcd".to_owned()),
                ("--data-dir", folder.path().join("etcd").display().to_string()),
                ("--listen-client-urls", http(etcd)),
                ("--advertise-client-urls", http(etcd)),
                ("--listen-peer-urls", http(peers)),
                ("--initial-advertise-peer-urls", http(peers)),
                ("--initial-cluster", format!("etcd={}", http(peers))),
            ])
            .flag("--unsafe-no-fsync")
            .flag("--enable-v2")
            .spawn(logs)?;
        let always = folder.path().join("always.conf");
        fs::write(&always, configuration::ALWAYS)?;
        let configuration = Configuration { etcd, always, fsync, connections };
        let nodes: Vec<Node> = (0..NODES)
            .map(|number| Node::start(number, &configuration, folder.path(), logs))
            .collect::<anyhow::Result<_>>()?;
        let proxy = match way {
            Way::Hosts => None,
            Way::HaProxy => {
                let address = free_address()?;
                let file = folder.path().join("haproxy.cfg");
                fs::write(&file, configuration::haproxy(address, &nodes))?;
                let launch = bound(HAPROXY, "haproxy").flag("-db");
                Some((address, launch.options([("-f", file.display().to_string())]).spawn(logs)?))
            }
        };
        let patroni = Self { nodes, primary: AtomicUsize::new(0), proxy, _etcd: etcd_process, _folder: folder };
        patroni.wait_level().await?;
        // HAProxy takes every server for one that will do, until it has asked.
        wait_until("brokers reach the primary", LEVEL_WITHIN, async || {
            let address = patroni.proxy.as_ref().map_or(patroni.nodes[patroni.primary()].postgres, |(proxy, _)| *proxy);
            Ok(write(&url(address, "postgres")).await.is_ok())
        })
        .await?;
        Ok(patroni)
    }

    pub(super) async fn create_database(&self, name: &str) -> anyhow::Result<()> {
        let options: PgConnectOptions = self.primary_url("postgres").parse()?;
        let mut connection = options.connect().await?;
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }

    /// The number of the primary when somebody last looked.
    pub fn primary(&self) -> usize {
        self.primary.load(Ordering::Relaxed)
    }

    /// One server of them.
    pub(super) fn primary_url(&self, database: &str) -> String {
        url(self.nodes[self.primary()].postgres, database)
    }

    /// What brokers are told.
    pub(super) fn url(&self, database: &str) -> String {
        let hosts = match &self.proxy {
            Some((address, _)) => address.to_string(),
            None => self.nodes.iter().map(|node| node.postgres.to_string()).collect::<Vec<_>>().join(","),
        };
        format!("postgres://{ROLE}@{hosts}/{database}?target_session_attrs=read-write")
    }

    /// Waits until all servers are there and level, and one of them acknowledges together with the primary.
    pub async fn wait_level(&self) -> anyhow::Result<()> {
        wait_until("all servers are level", LEVEL_WITHIN, async || {
            for node in &self.nodes {
                if let Some(members) = Members::known_to(node.patroni).await
                    && let Some(primary) = members.level(NODES)
                {
                    self.primary.store(primary, Ordering::Relaxed);
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }

    /// Waits until another server than this one is the primary, and a third one acknowledges what it writes.
    pub async fn wait_led_after(&self, former: usize) -> anyhow::Result<()> {
        self.wait_promoted(former).await?;
        // It leads before it is promoted, and is promoted before anybody follows it.
        wait_until("the new primary acknowledges what is written", LED_WITHIN, async || {
            Ok(timeout(LED_WITHIN, write(&self.primary_url("postgres"))).await.is_ok_and(|written| written.is_ok()))
        })
        .await
    }

    async fn wait_promoted(&self, former: usize) -> anyhow::Result<()> {
        wait_until("another server is the primary", LED_WITHIN, async || {
            for (number, node) in self.nodes.iter().enumerate().filter(|(number, _)| *number != former) {
                if ask(node.patroni, "GET /primary HTTP/1.0\r\n\r\n").await.is_ok_and(|answer| is_ok(&answer)) {
                    self.primary.store(number, Ordering::Relaxed);
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }

    /// Asks Patroni to make another server the primary, in order.
    pub async fn switch_over(&self) -> anyhow::Result<()> {
        let node = &self.nodes[self.primary()];
        let body = serde_json::json!({ "leader": node.name() }).to_string();
        let request = format!(
            "POST /switchover HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // The answer comes once it is done; whether it is can be seen.
        let asked = ask(node.patroni, &request).await;
        if let Ok(answer) = asked {
            anyhow::ensure!(is_ok(&answer), "Patroni does not switch over: {answer}");
        }
        Ok(())
    }

    /// `kill -9` of a server and of what watches over it.
    pub async fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[number];
        node.abandon().await?;
        node.kill_server().await
    }

    /// `kill -9` of what watches over a server: the server goes on, and believes what it last heard.
    pub async fn abandon(&mut self, number: usize) -> anyhow::Result<()> {
        self.nodes[number].abandon().await
    }

    /// `SIGSTOP` of a server, all its sessions, and what watches over it.
    pub fn stop(&mut self, number: usize) -> anyhow::Result<()> {
        self.nodes[number].stop()
    }

    /// Lets a stopped one go on.
    pub fn go_on(&mut self, number: usize) -> anyhow::Result<()> {
        self.nodes[number].go_on()
    }

    /// Starts what watches over a server again.
    pub fn restart(&mut self, number: usize, logs: &Path) -> anyhow::Result<()> {
        self.nodes[number].restart(logs)
    }
}

fn url(address: SocketAddr, database: &str) -> String {
    format!("postgres://{ROLE}@{address}/{database}")
}

/// A program that does not outlive this one, however this one ends.
fn bound<'a>(program: &'a str, name: &'a str) -> Launch<'a> {
    Launch::of(Path::new(SETPRIV), name).options([("--pdeathsig", "KILL".to_owned())]).flag(program)
}

/// Writes something that no table shows, and waits until it is acknowledged.
async fn write(url: &str) -> Result<(), sqlx::Error> {
    let mut connection = url.parse::<PgConnectOptions>()?.disable_statement_logging().connect().await?;
    let write = "-- cabbage:fault_write\nSELECT pg_logical_emit_message(true, 'cabbage', '')";
    sqlx::query(write).execute(&mut connection).await?;
    connection.close().await
}

fn is_ok(answer: &str) -> bool {
    answer.split_whitespace().nth(1) == Some("200")
}

/// The first folder of Debian's that has the programs of a server: the newest version.
fn programs_of_postgres() -> anyhow::Result<String> {
    let mut versions: Vec<u32> = Vec::new();
    for folder in fs::read_dir("/usr/lib/postgresql").context("PostgreSQL of Debian is needed: .ci/failover")? {
        versions.extend(folder?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    let newest = versions.into_iter().max().context("PostgreSQL of Debian is needed: .ci/failover")?;
    Ok(format!("/usr/lib/postgresql/{newest}/bin"))
}
