//! Does a fault, and undoes it.

mod brokers;
mod cables;
mod database;
mod diary;
mod links;
mod primary;
mod relays;
mod workers;

use std::time::Duration;

use rand::{Rng as _, rngs::StdRng};
use sqlx::{ConnectOptions as _, PgConnection, postgres::PgConnectOptions};

use super::{Fault, plan::Step, recovery::Injection};
use crate::{
    cluster::{Cables, Cluster, Process, wait_until},
    history::Stamp,
    proxy::Proxy,
};

/// More than any recovery may take: after it the run has failed.
const PATIENCE: Duration = Duration::from_mins(1);

/// How late things come over slow cables.
const SLOW: Duration = Duration::from_millis(60);

/// Does one fault, and heals the cluster.
pub(super) async fn inject(cluster: &mut Cluster, step: Step, random: &mut StdRng) -> anyhow::Result<Injection> {
    let (_, term) = cluster.owner().await?;
    // From here on nothing returns before they are healed.
    if step.under_slow_cables {
        cluster.cables.iter().flat_map(Cables::all).for_each(|cable| cable.dawdle(SLOW));
    }
    let began = now();
    let mut injector = Injector { cluster, random, step, term };
    let injection = injector.inject().await;
    // Whatever came of it: nothing of it goes on.
    cluster.cables.iter().flat_map(Cables::all).for_each(Proxy::heal);
    Ok(Injection { began, ..injection? })
}

/// Whoever does a fault.
struct Injector<'a> {
    cluster: &'a mut Cluster,
    random: &'a mut StdRng,
    step: Step,
    /// The term before.
    term: u64,
}

impl Injector<'_> {
    async fn inject(&mut self) -> anyhow::Result<Injection> {
        match self.step.fault {
            Fault::KillBrokerRestart | Fault::KillBrokerStandby | Fault::OldTransactions | Fault::WrongClocks => {
                self.kill_broker().await
            }
            Fault::StopBroker => self.stop_broker().await,
            Fault::KillWorker => self.kill_worker().await,
            Fault::StopWorker => self.stop_worker().await,
            Fault::CutWorker | Fault::HalfOpenWorker | Fault::LoseRepliesWorker => self.break_worker().await,
            Fault::CutClient | Fault::HalfOpenClient | Fault::LoseRepliesClient => self.break_client().await,
            Fault::CutLink | Fault::HalfOpenLink | Fault::LoseRepliesLink => self.break_links().await,
            Fault::KillRelay | Fault::StopRelay => self.lose_relay().await,
            Fault::CutRelayDatabase => self.isolate_relay().await,
            Fault::CutDatabase | Fault::HalfOpenDatabase | Fault::HoldDatabase => self.isolate_owner().await,
            Fault::LoseRepliesDatabase => self.lose_commit().await,
            Fault::SlowCables => self.slow_down().await,
            Fault::RestartPostgres | Fault::RestartPostgresImmediate => self.restart_postgres().await,
            Fault::SwitchOver | Fault::KillPrimary | Fault::StopPrimary | Fault::AbandonPrimary => {
                self.fail_over().await
            }
            Fault::EndSessions => self.end_sessions().await,
            Fault::UseUpConnections => self.use_up_connections().await,
            Fault::FillDisk => self.fill_disk().await,
            Fault::LockTables => self.lock_tables().await,
        }
    }

    /// What was done, to be measured from a moment on.
    fn injection(&self, at: i64, process: impl Into<String>) -> Injection {
        let process = process.into();
        let workers = self.cluster.workers.iter().filter(|worker| worker.is_running() && worker.name() != process);
        let workers = workers.map(|worker| worker.name().to_owned()).collect();
        let Step { fault, under_slow_cables } = self.step;
        Injection {
            fault,
            began: at,
            at,
            term: self.term,
            under_slow_cables,
            process,
            workers,
            session: None,
            leaderless: None,
        }
    }

    /// A time between two.
    fn some(&mut self, times: std::ops::Range<Duration>) -> Duration {
        self.random.random_range(times)
    }

    /// Waits until the clients were answered for a number of further jobs, or ended.
    async fn more_answers(&mut self) -> anyhow::Result<()> {
        let answered = self.cluster.answered() + self.random.random_range(100..500);
        wait_until("more calls are answered", PATIENCE, async || {
            let cluster = &self.cluster;
            Ok(cluster.answered() >= answered || !cluster.clients.iter().any(Process::is_running))
        })
        .await
    }
}

fn now() -> i64 {
    Stamp::now("").wall
}

pub(super) async fn connect(cluster: &Cluster) -> anyhow::Result<PgConnection> {
    let options: PgConnectOptions = cluster.database_url().parse()?;
    Ok(options.disable_statement_logging().connect().await?)
}
