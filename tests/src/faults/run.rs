//! One run: load, faults, drain, judgement.

use std::{fmt, path::PathBuf, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustix::process::Signal;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection as _};

use super::{
    Plan, Step,
    conditions::{OldTransactions, refuse_poison},
    inject::{connect, inject},
    recovery::{Injection, Recovery, measure},
};
use crate::{
    checker::{Report, Rules, Sometimes, check},
    cluster::{Cluster, Process, Share, wait_until},
    history::{History, load_database, read_journals},
};

/// How long workers may take to end after the drain.
const WORKERS_END_WITHIN: Duration = Duration::from_secs(40);
/// The longest that the load may stand still.
const LOAD_PATIENCE: Duration = Duration::from_mins(2);

/// What came of a run.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// The fault, or that it is a mixture.
    pub name: String,
    /// Drew the jobs and the moments.
    pub seed: u64,
    /// What held for the whole run.
    pub conditions: Vec<String>,
    /// What was done.
    pub injections: Vec<Injection>,
    /// How soon it recovered.
    pub recoveries: Vec<Recovery>,
    /// The checker's judgement.
    pub report: Report,
    /// What was never reached, though it had to be.
    pub missed: Vec<Sometimes>,
    /// What went wrong besides.
    pub troubles: Vec<String>,
    /// Where the logs are, if it failed.
    pub folder: Option<PathBuf>,
}

impl Verdict {
    /// Whether every clause was kept, everything was reached, and every recovery was in time.
    pub fn is_good(&self) -> bool {
        self.report.is_clean()
            && self.missed.is_empty()
            && self.troubles.is_empty()
            && self.recoveries.iter().all(Recovery::is_in_time)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "== {} (seed {})", self.name, self.seed)?;
        let done = self.injections.iter().map(|injection| injection.fault.name());
        writeln!(f, "done: {}; {}", done.collect::<Vec<_>>().join(", "), self.conditions.join(", "))?;
        write!(f, "{}", self.report)?;
        for recovery in &self.recoveries {
            writeln!(f, "{recovery}")?;
        }
        for missed in &self.missed {
            writeln!(f, "MISSED {missed:?}")?;
        }
        for trouble in &self.troubles {
            writeln!(f, "TROUBLE {trouble}")?;
        }
        if let Some(folder) = &self.folder {
            writeln!(f, "logs: {}", folder.display())?;
        }
        writeln!(f, "{}", if self.is_good() { "good" } else { "FAILED" })
    }
}

/// Starts a cluster, does the plan to it, and judges.
pub async fn run(plan: Plan) -> anyhow::Result<Verdict> {
    let mut cluster = Cluster::start(plan.shape()).await?;
    refuse_poison(&cluster).await?;
    tracing::info!("the cluster runs");
    let outcome = run_on(&mut cluster, &plan).await;
    match outcome {
        Ok(mut verdict) => {
            if !verdict.is_good() {
                verdict.folder = Some(cluster.keep_folder());
            }
            Ok(verdict)
        }
        Err(error) => Err(error.context(format!("logs: {}", cluster.keep_folder().display()))),
    }
}

async fn run_on(cluster: &mut Cluster, plan: &Plan) -> anyhow::Result<Verdict> {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let old = if plan.old_transactions { Some(OldTransactions::hold(cluster).await?) } else { None };
    for number in 0..plan.clients {
        cluster.start_client(Share {
            jobs: plan.jobs / plan.clients,
            seed: plan.seed.wrapping_mul(1_000).wrapping_add(number),
            rate: plan.rate / plan.clients,
            latest: plan.latest,
            agenda: number == 0,
        })?;
    }
    let mut troubles = Vec::new();
    let mut injections = Vec::new();
    let mut rested = 0;
    for (round, step) in plan.steps.iter().enumerate() {
        // Within the first two thirds of the load, so that it goes on afterwards.
        let span = plan.jobs * 2 / 3 / plan.steps.len() as u64;
        let moment = rested.max(span * round as u64 + random.random_range(span / 4..span));
        wait_until("the load goes on", LOAD_PATIENCE, async || Ok(cluster.answered() >= moment)).await?;
        if !cluster.clients.iter().any(Process::is_running) {
            let left = plan.steps[round..].iter().map(|step| step.fault.name()).collect::<Vec<_>>().join(", ");
            troubles.push(format!("the load was over before {left}: give it more jobs"));
            break;
        }
        let Step { fault, under_slow_cables } = *step;
        tracing::info!(%fault, under_slow_cables, round, answered = cluster.answered(), "the fault is done");
        match inject(cluster, *step, &mut random).await {
            Ok(injection) => injections.push(injection),
            Err(error) => {
                troubles.push(format!("{fault} did not heal: {error:#}"));
                break;
            }
        }
        rested = cluster.answered() + plan.rest;
        tracing::info!(%fault, "it is healed");
    }
    for client in &mut cluster.clients {
        match client.ended(Duration::from_secs(plan.jobs / plan.rate.max(1)) + LOAD_PATIENCE * 2).await {
            Ok(status) if status.success() => {}
            Ok(status) => troubles.push(format!("{}: {status}", client.name())),
            Err(error) => troubles.push(error.to_string()),
        }
    }
    tracing::info!("the load is over");
    if let Some(old) = old
        && let Err(error) = old.release().await
    {
        troubles.push(format!("the transactions that were held open: {error:#}"));
    }
    if let Err(error) = drain(cluster, plan.drain).await {
        troubles.push(error.to_string());
    }
    tracing::info!("every job is final");
    // In order, so that every journal is complete.
    for worker in cluster.workers.iter().filter(|worker| worker.is_running()) {
        worker.signal(Signal::TERM)?;
    }
    for worker in &mut cluster.workers {
        match worker.ended(WORKERS_END_WITHIN).await {
            Ok(status) if status.success() => {}
            Ok(status) => troubles.push(format!("{}: {status}", worker.name())),
            Err(error) => troubles.push(error.to_string()),
        }
    }
    for broker in &mut cluster.brokers {
        if !broker.process.is_running() {
            troubles.push(format!("{} ended by itself", broker.process.name()));
        }
    }
    tracing::info!("the workers ended");
    let database = load_database(&cluster.database_url(), &Cluster::schema()).await?;
    let mut history = History { database, ..History::default() };
    read_journals(cluster.folder(), &mut history)?;
    let started = std::time::Instant::now();
    let report = check(&history, Rules::default());
    tracing::info!(
        rows = history.database.log.len(),
        outcomes = history.database.outcomes.len(),
        client_events = history.clients.len(),
        worker_events = history.workers.len(),
        took = ?started.elapsed(),
        "the history is checked"
    );
    let recoveries = measure(&injections, &history, plan.intervals, plan.times);
    Ok(Verdict {
        name: plan.name.clone(),
        seed: plan.seed,
        conditions: plan.conditions(),
        injections,
        recoveries,
        missed: report.missed(&plan.required),
        report,
        troubles,
        folder: None,
    })
}

/// Waits until every job is final.
async fn drain(cluster: &Cluster, within: Duration) -> anyhow::Result<()> {
    let connection = tokio::sync::Mutex::new(connect(cluster).await?);
    let schema = Cluster::schema().quoted();
    // What was opened again has one final more than it counts for. What is erased has neither job nor outcome.
    let sql = format!(
        "-- cabbage:fault_drain\nSELECT (SELECT count(*) FROM {schema}.inbox) + (SELECT count(*) FROM {schema}.job) \
         - (SELECT count(*) FILTER (WHERE verdict IN (1, 2, 3)) - count(*) FILTER (WHERE verdict = 8) \
         FROM {schema}.outcome_now)"
    );
    wait_until("every job is final", within, async || {
        let left: i64 = sqlx::query_scalar(AssertSqlSafe(sql.clone())).fetch_one(&mut *connection.lock().await).await?;
        Ok(left == 0)
    })
    .await?;
    connection.into_inner().close().await?;
    Ok(())
}
