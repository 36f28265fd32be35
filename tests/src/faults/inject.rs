//! Does it, and undoes it.

use std::time::Duration;

use rand::{Rng as _, rngs::StdRng};
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use super::{Fault, recovery::Injection};
use crate::{
    cluster::{Cluster, Process, Role, role, wait_until},
    history::{Stamp, WorkerEvent, WorkerStep, read_journal},
};

/// More than any recovery may take: after it the run has failed.
const PATIENCE: Duration = Duration::from_mins(1);

/// Does one fault, and heals the cluster.
pub(super) async fn inject(cluster: &mut Cluster, fault: Fault, random: &mut StdRng) -> anyhow::Result<Injection> {
    match fault {
        Fault::KillBrokerRestart | Fault::KillBrokerStandby => kill_broker(cluster, fault).await,
        Fault::StopBroker => stop_broker(cluster, random).await,
        Fault::KillWorker => kill_worker(cluster, random).await,
        Fault::StopWorker => stop_worker(cluster, random).await,
        Fault::RestartPostgresImmediate => crash_postgres(cluster).await,
    }
}

fn now() -> i64 {
    Stamp::now("").wall
}

/// The workers that were not harmed.
fn unharmed(cluster: &Cluster, victim: Option<&str>) -> Vec<String> {
    let names = cluster.workers.iter().filter(|worker| worker.is_running()).map(|worker| worker.name().to_owned());
    names.filter(|name| Some(name.as_str()) != victim).collect()
}

async fn kill_broker(cluster: &mut Cluster, fault: Fault) -> anyhow::Result<Injection> {
    let owner = cluster.owner().await?;
    let at = now();
    cluster.brokers[owner].process.kill().await?;
    if fault == Fault::KillBrokerRestart {
        cluster.start_broker_again(owner)?;
    }
    let new = cluster.owner().await?;
    if fault == Fault::KillBrokerStandby {
        anyhow::ensure!(new != owner, "the standby takes over");
        cluster.start_broker_again(owner)?;
        cluster.wait_ready(owner).await?;
    }
    Ok(Injection { fault, at, process: format!("broker-{owner}"), workers: unharmed(cluster, None), session: None })
}

async fn stop_broker(cluster: &mut Cluster, random: &mut StdRng) -> anyhow::Result<Injection> {
    let owner = cluster.owner().await?;
    let at = now();
    cluster.brokers[owner].process.signal(Signal::STOP)?;
    cluster.owner().await?;
    // The new owner works for a while, so that there is something to be written over.
    let answered = cluster.answered();
    let more = random.random_range(100..500);
    let clients_run = |cluster: &Cluster| cluster.clients.iter().any(Process::is_running);
    wait_until("the new owner answered more calls", PATIENCE, async || {
        Ok(cluster.answered() >= answered + more || !clients_run(cluster))
    })
    .await?;
    cluster.brokers[owner].process.signal(Signal::CONT)?;
    let admin = cluster.brokers[owner].admin;
    wait_until("the continued broker follows", PATIENCE, async || Ok(role(admin).await == Role::Follows)).await?;
    Ok(Injection {
        fault: Fault::StopBroker,
        at,
        process: format!("broker-{owner}"),
        workers: unharmed(cluster, None),
        session: None,
    })
}

async fn kill_worker(cluster: &mut Cluster, random: &mut StdRng) -> anyhow::Result<Injection> {
    let victim = random.random_range(0..cluster.workers.len());
    let name = cluster.workers[victim].name().to_owned();
    let session = session_of(cluster, &name)?;
    wait_busy(cluster, &name).await?;
    let at = now();
    cluster.workers[victim].kill().await?;
    cluster.workers.remove(victim);
    cluster.start_worker()?;
    Ok(Injection {
        fault: Fault::KillWorker,
        at,
        workers: unharmed(cluster, Some(&name)),
        process: name,
        session: Some(session),
    })
}

async fn stop_worker(cluster: &mut Cluster, random: &mut StdRng) -> anyhow::Result<Injection> {
    let victim = random.random_range(0..cluster.workers.len());
    let name = cluster.workers[victim].name().to_owned();
    let session = session_of(cluster, &name)?;
    wait_busy(cluster, &name).await?;
    let at = now();
    cluster.workers[victim].signal(Signal::STOP)?;
    let mut connection = connect(cluster).await?;
    let within = cluster.intervals().session * 2 + PATIENCE;
    let until = tokio::time::Instant::now() + within;
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    while crashes_of(&mut connection, session).await? == 0 {
        anyhow::ensure!(tokio::time::Instant::now() < until, "the session of {name} did not end within {within:?}");
        looks.tick().await;
    }
    connection.close().await?;
    cluster.workers[victim].signal(Signal::CONT)?;
    wait_until("the continued worker has another session", PATIENCE, async || {
        Ok(session_of(cluster, &name)? != session)
    })
    .await?;
    Ok(Injection {
        fault: Fault::StopWorker,
        at,
        workers: unharmed(cluster, Some(&name)),
        process: name,
        session: Some(session),
    })
}

async fn crash_postgres(cluster: &mut Cluster) -> anyhow::Result<Injection> {
    cluster.crash_postgres().await?;
    // What counts is the time from when the database is back.
    let at = now();
    cluster.owner().await?;
    Ok(Injection {
        fault: Fault::RestartPostgresImmediate,
        at,
        process: "postgres".to_owned(),
        workers: unharmed(cluster, None),
        session: None,
    })
}

/// The session that a worker has now.
fn session_of(cluster: &Cluster, worker: &str) -> anyhow::Result<Uuid> {
    let events: Vec<WorkerEvent> = read_journal(&cluster.journal(worker))?;
    let session = events.iter().rev().find_map(|event| match event.step {
        WorkerStep::Welcome { session, .. } => Some(session),
        _ => None,
    });
    session.ok_or_else(|| anyhow::anyhow!("{worker} has no session"))
}

/// Waits for a moment at which a handler of this worker runs: else there would be nothing to lose.
async fn wait_busy(cluster: &Cluster, worker: &str) -> anyhow::Result<()> {
    wait_until("the worker runs jobs", PATIENCE, async || {
        let events: Vec<WorkerEvent> = read_journal(&cluster.journal(worker))?;
        let mut running = std::collections::HashSet::new();
        for event in events {
            match event.step {
                WorkerStep::Start { lease, .. } => {
                    running.insert(lease);
                }
                WorkerStep::End { lease, .. } => {
                    running.remove(&lease);
                }
                WorkerStep::Welcome { .. } | WorkerStep::Acknowledged { .. } => {}
            }
        }
        Ok(running.len() >= 2)
    })
    .await
}

pub(super) async fn connect(cluster: &Cluster) -> anyhow::Result<PgConnection> {
    let options: PgConnectOptions = cluster.database_url().parse()?;
    Ok(options.connect().await?)
}

async fn crashes_of(connection: &mut PgConnection, session: Uuid) -> anyhow::Result<i64> {
    let sql = format!(
        "-- cabbage:fault_crashes\nSELECT count(*) FROM {}.outcome WHERE session = $1 AND verdict = 7",
        Cluster::schema().quoted()
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).bind(session).fetch_one(connection).await?)
}
