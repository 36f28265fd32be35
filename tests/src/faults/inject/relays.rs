//! What is done to a relay that carries everything.

use std::path::Path;

use anyhow::Context as _;
use rand::seq::IteratorRandom as _;
use rustix::process::Signal;
use tokio::task::spawn_blocking;

use super::{
    Injector, PATIENCE,
    cables::{CUT, Failure, cables, fail, to_database},
    diary::Diary,
    now,
};
use crate::{
    cluster::{Process, wait_until},
    faults::{Fault, Injection},
    proxy::Proxy,
};

/// A worker before a fault.
pub(super) struct WorkerBefore {
    diary: Diary,
    /// How often it had been welcomed.
    welcomes: usize,
}

impl WorkerBefore {
    fn of(journal: &Path) -> anyhow::Result<Self> {
        let diary = Diary::open(journal)?;
        Ok(Self { welcomes: diary.welcomes(), diary })
    }
}

impl Injector<'_> {
    /// A relay goes away that had every worker and every client; the others take them.
    pub(super) async fn lose_relay(&mut self) -> anyhow::Result<Injection> {
        let relay = self.only_relay().await?;
        let (mut before, client) = (self.workers_now().await?, self.a_client());
        cables(self.cluster.cables.as_ref())?.all().for_each(Proxy::heal);
        let at = now();
        if self.step.fault == Fault::KillRelay {
            self.cluster.brokers[relay].process.kill().await?;
            self.all_welcome_again(&mut before).await?;
            self.cluster.start_broker_again(relay)?;
            self.cluster.wait_ready(relay).await?;
        } else {
            self.cluster.brokers[relay].process.signal(Signal::STOP)?;
            let elsewhere = self.all_welcome_again(&mut before).await;
            self.cluster.brokers[relay].process.signal(Signal::CONT)?;
            elsewhere?;
            self.follows(relay).await?;
        }
        Ok(self.injection(at, client))
    }

    /// A relay that has everybody loses the database, of which it needs nothing to pass calls on.
    pub(super) async fn isolate_relay(&mut self) -> anyhow::Result<Injection> {
        let relay = self.only_relay().await?;
        let (failure, client) = (Failure::Cut(self.some(CUT)), self.a_client());
        let at = now();
        let cable = to_database(self.cluster.cables.as_ref(), &format!("broker-{relay}"))?;
        fail(&[cable], failure).await?;
        self.more_answers().await?;
        to_database(self.cluster.cables.as_ref(), &format!("broker-{relay}"))?.heal();
        self.follows(relay).await?;
        Ok(self.injection(at, client))
    }

    /// Leaves one relay to all workers and clients.
    async fn only_relay(&mut self) -> anyhow::Result<usize> {
        let (owner, _) = self.cluster.owner().await?;
        let others = (0..self.cluster.brokers.len()).filter(|broker| *broker != owner);
        let relay = others.choose(self.random).context("a relay takes two brokers")?;
        self.leave_only(|broker| broker == relay).await?;
        Ok(relay)
    }

    /// Cuts the cables of clients and workers to all other brokers, and waits until every worker has a stream again.
    pub(super) async fn leave_only(&self, stays: impl Fn(usize) -> bool) -> anyhow::Result<()> {
        let mut before = self.workers_now().await?;
        let cables = cables(self.cluster.cables.as_ref())?;
        for process in self.cluster.workers.iter().chain(&self.cluster.clients) {
            let left = (0..self.cluster.brokers.len()).filter(|broker| !stays(*broker));
            let left = left.filter_map(|broker| cables.between(process.name(), &format!("broker-{broker}")));
            left.for_each(Proxy::cut);
        }
        // Those that are there already are to come again as well: so it shows of each that it has left the others.
        for worker in &self.cluster.workers {
            cables.of(worker.name()).for_each(Proxy::reset);
        }
        self.all_welcome_again(&mut before).await
    }

    /// The running workers as they are now. What their journals hold already is read elsewhere: meanwhile the cables
    /// carry on.
    pub(super) async fn workers_now(&self) -> anyhow::Result<Vec<WorkerBefore>> {
        let running = self.cluster.workers.iter().filter(|worker| worker.is_running());
        let journals: Vec<_> = running.map(|worker| self.cluster.journal(worker.name())).collect();
        spawn_blocking(move || journals.iter().map(|journal| WorkerBefore::of(journal)).collect()).await?
    }

    /// Waits until each of these workers was welcomed more often.
    pub(super) async fn all_welcome_again(&self, before: &mut [WorkerBefore]) -> anyhow::Result<()> {
        wait_until("every worker is welcome again", PATIENCE, async || {
            for worker in before.iter_mut() {
                worker.diary.read_on()?;
            }
            Ok(before.iter().all(|worker| worker.diary.welcomes() > worker.welcomes))
        })
        .await
    }

    /// Any client, by its name: the next answer to it shows that calls are served.
    pub(super) fn a_client(&self) -> String {
        let client = self.cluster.clients.iter().find(|client| client.is_running()).map(Process::name);
        client.unwrap_or_default().to_owned()
    }
}
