//! What is done to workers.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use rand::Rng as _;
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::{Instant, interval};
use uuid::Uuid;

use super::{Injector, PATIENCE, connect, now};
use crate::{
    cluster::{Cluster, wait_until},
    faults::Injection,
    history::{LeaseName, WorkerEvent, WorkerStep, read_journal},
};

impl Injector<'_> {
    pub(super) async fn kill_worker(&mut self) -> anyhow::Result<Injection> {
        let victim = self.random.random_range(0..self.cluster.workers.len());
        let (name, session) = self.stop_busy(victim).await?;
        let lost = running(self.cluster, &name)?.into_keys().collect();
        let at = now();
        self.cluster.workers[victim].kill().await?;
        self.cluster.workers.remove(victim);
        let injection = Injection { session: Some(session), ..self.injection(at, &name) };
        self.cluster.start_worker()?;
        // Its jobs are given back before anything else is done: else it could not be told by what.
        let within = self.cluster.intervals().grace + PATIENCE;
        given_back(self.cluster, &lost, within).await?;
        Ok(injection)
    }

    pub(super) async fn stop_worker(&mut self) -> anyhow::Result<Injection> {
        let victim = self.random.random_range(0..self.cluster.workers.len());
        let (name, session) = self.stop_busy(victim).await?;
        let lost = running(self.cluster, &name)?.into_keys().collect();
        let at = now();
        let given_back = given_back(self.cluster, &lost, self.cluster.intervals().session * 2 + PATIENCE).await;
        self.cluster.workers[victim].signal(Signal::CONT)?;
        given_back?;
        wait_until("the continued worker has another session", PATIENCE, async || {
            Ok(session_of(self.cluster, &name)? != session)
        })
        .await?;
        Ok(Injection { session: Some(session), ..self.injection(at, &name) })
    }

    /// Stops a worker at a moment at which its handlers run, and the owner knows of one that it has received the job: else
    /// there would be nothing to lose, or nothing but what comes back as if it had never been sent. Answers its name and its
    /// session.
    async fn stop_busy(&self, victim: usize) -> anyhow::Result<(String, Uuid)> {
        let worker = &self.cluster.workers[victim];
        wait_until("the worker runs jobs", PATIENCE, async || {
            // What it says of itself stays true only while it stands still.
            worker.signal(Signal::STOP)?;
            let running = running(self.cluster, worker.name())?;
            let is_busy = running.len() >= 2 && running.values().any(|is_known| *is_known);
            if !is_busy {
                worker.signal(Signal::CONT)?;
            }
            Ok(is_busy)
        })
        .await?;
        Ok((worker.name().to_owned(), session_of(self.cluster, worker.name())?))
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

/// The deliveries whose handlers run at a worker; and of each, whether the owner must know that it was received: it has
/// answered for a result that came later.
fn running(cluster: &Cluster, worker: &str) -> anyhow::Result<HashMap<LeaseName, bool>> {
    let mut running: HashMap<LeaseName, (usize, bool)> = HashMap::new();
    let mut ended: HashMap<LeaseName, usize> = HashMap::new();
    for (place, event) in read_journal::<WorkerEvent>(&cluster.journal(worker))?.into_iter().enumerate() {
        match event.step {
            WorkerStep::Start { lease, .. } => {
                running.insert(lease, (place, false));
            }
            WorkerStep::End { lease, .. } => {
                running.remove(&lease);
                ended.insert(lease, place);
            }
            WorkerStep::Acknowledged { lease, .. } => {
                let end = ended.remove(&lease).unwrap_or_default();
                for (start, is_known) in running.values_mut() {
                    *is_known |= *start < end;
                }
            }
            WorkerStep::Welcome { .. } => {}
        }
    }
    Ok(running.into_iter().map(|(lease, (_, is_known))| (lease, is_known)).collect())
}

/// Waits until each of these deliveries has ended, in whatever way: by a crash, by a cancel that was asked for, or as the
/// last that its job may crash.
async fn given_back(cluster: &Cluster, lost: &HashSet<LeaseName>, within: Duration) -> anyhow::Result<()> {
    let mut connection = connect(cluster).await?;
    let until = Instant::now() + within;
    let mut looks = interval(Duration::from_millis(100));
    loop {
        let left = without_end(&mut connection, lost).await?;
        if left == 0 {
            break;
        }
        anyhow::ensure!(Instant::now() < until, "{left} lost deliveries did not end within {within:?}");
        looks.tick().await;
    }
    connection.close().await?;
    Ok(())
}

/// How many of these deliveries go on. One whose job was erased does not.
async fn without_end(connection: &mut PgConnection, lost: &HashSet<LeaseName>) -> anyhow::Result<i64> {
    let schema = Cluster::schema().quoted();
    let sql = format!(
        "-- cabbage:fault_lost\nSELECT count(*) FROM unnest($1::bigint[], $2::integer[]) lost (job, delivery) \
         WHERE EXISTS (SELECT FROM {schema}.job WHERE id = lost.job) AND NOT EXISTS (SELECT FROM {schema}.outcome_now \
         WHERE job = lost.job AND delivery = lost.delivery)"
    );
    let jobs: Vec<i64> = lost.iter().map(|lease| lease.job).collect();
    let deliveries = lost.iter().map(|lease| i32::try_from(lease.delivery)).collect::<Result<Vec<_>, _>>()?;
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).bind(jobs).bind(deliveries).fetch_one(connection).await?)
}
