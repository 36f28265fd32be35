//! What is done to workers.

use std::{collections::HashSet, time::Duration};

use rand::Rng as _;
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::{Instant, interval};

use super::{Injector, PATIENCE, connect, diary::Diary, now};
use crate::{
    cluster::{Cluster, wait_until},
    faults::Injection,
    history::LeaseName,
};

impl Injector<'_> {
    pub(super) async fn kill_worker(&mut self) -> anyhow::Result<Injection> {
        let victim = self.random.random_range(0..self.cluster.workers.len());
        let (name, diary) = self.stop_busy(victim).await?;
        let (session, lost) = (diary.session()?, diary.running());
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
        let (name, mut diary) = self.stop_busy(victim).await?;
        let (session, lost) = (diary.session()?, diary.running());
        let at = now();
        let given_back = given_back(self.cluster, &lost, self.cluster.intervals().session * 2 + PATIENCE).await;
        self.cluster.workers[victim].signal(Signal::CONT)?;
        given_back?;
        wait_until("the continued worker has another session", PATIENCE, async || {
            diary.read_on()?;
            Ok(diary.session()? != session)
        })
        .await?;
        Ok(Injection { session: Some(session), ..self.injection(at, &name) })
    }

    /// Stops a worker at a moment at which its handlers run, and the owner knows of one that it has received the job: else
    /// there would be nothing to lose, or nothing but what comes back as if it had never been sent. Answers its name and
    /// what it says of itself.
    async fn stop_busy(&self, victim: usize) -> anyhow::Result<(String, Diary)> {
        let worker = &self.cluster.workers[victim];
        let mut diary = Diary::open(&self.cluster.journal(worker.name()))?;
        wait_until("the worker runs jobs", PATIENCE, async || {
            // What it says of itself stays true only while it stands still.
            worker.signal(Signal::STOP)?;
            diary.read_on()?;
            if !diary.is_busy() {
                worker.signal(Signal::CONT)?;
            }
            Ok(diary.is_busy())
        })
        .await?;
        Ok((worker.name().to_owned(), diary))
    }
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
