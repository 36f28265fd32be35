//! What is done to workers.

use std::{collections::HashSet, time::Duration};

use rand::Rng as _;
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::{Instant, interval};
use uuid::Uuid;

use super::{Injector, PATIENCE, connect, now};
use crate::{
    cluster::{Cluster, wait_until},
    faults::Injection,
    history::{WorkerEvent, WorkerStep, read_journal},
};

impl Injector<'_> {
    pub(super) async fn kill_worker(&mut self) -> anyhow::Result<Injection> {
        let victim = self.random.random_range(0..self.cluster.workers.len());
        let name = self.cluster.workers[victim].name().to_owned();
        let session = session_of(self.cluster, &name)?;
        wait_busy(self.cluster, &name).await?;
        let at = now();
        self.cluster.workers[victim].kill().await?;
        self.cluster.workers.remove(victim);
        let injection = Injection { session: Some(session), ..self.injection(at, &name) };
        self.cluster.start_worker()?;
        // Its jobs are given back before anything else is done: else it could not be told by what.
        let within = self.cluster.intervals().grace + PATIENCE;
        given_back(self.cluster, session, within).await?;
        Ok(injection)
    }

    pub(super) async fn stop_worker(&mut self) -> anyhow::Result<Injection> {
        let victim = self.random.random_range(0..self.cluster.workers.len());
        let name = self.cluster.workers[victim].name().to_owned();
        let session = session_of(self.cluster, &name)?;
        wait_busy(self.cluster, &name).await?;
        let at = now();
        self.cluster.workers[victim].signal(Signal::STOP)?;
        let given_back = given_back(self.cluster, session, self.cluster.intervals().session * 2 + PATIENCE).await;
        self.cluster.workers[victim].signal(Signal::CONT)?;
        given_back?;
        wait_until("the continued worker has another session", PATIENCE, async || {
            Ok(session_of(self.cluster, &name)? != session)
        })
        .await?;
        Ok(Injection { session: Some(session), ..self.injection(at, &name) })
    }
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

/// Waits for a moment at which handlers of this worker run: else there would be nothing to lose.
async fn wait_busy(cluster: &Cluster, worker: &str) -> anyhow::Result<()> {
    wait_until("the worker runs jobs", PATIENCE, async || {
        let events: Vec<WorkerEvent> = read_journal(&cluster.journal(worker))?;
        let mut running = HashSet::new();
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

/// Waits until the deliveries of a lost session have ended.
async fn given_back(cluster: &Cluster, session: Uuid, within: Duration) -> anyhow::Result<()> {
    let mut connection = connect(cluster).await?;
    let until = Instant::now() + within;
    let mut looks = interval(Duration::from_millis(100));
    while crashes_of(&mut connection, session).await? == 0 {
        anyhow::ensure!(Instant::now() < until, "the session {session} did not end within {within:?}");
        looks.tick().await;
    }
    connection.close().await?;
    Ok(())
}

async fn crashes_of(connection: &mut PgConnection, session: Uuid) -> anyhow::Result<i64> {
    let sql = format!(
        "-- cabbage:fault_crashes\nSELECT count(*) FROM {}.outcome WHERE session = $1 AND verdict = 7",
        Cluster::schema().quoted()
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).bind(session).fetch_one(connection).await?)
}
