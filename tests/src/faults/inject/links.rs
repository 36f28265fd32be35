//! What is done to the links from relays to the owner.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use tokio::time::sleep;

use super::{
    Injector, PATIENCE,
    cables::{CUT, LOSING, cables},
    now,
};
use crate::{
    cluster::{Cluster, PEERS_PARTY, Process, wait_until},
    faults::{Fault, Injection},
    history::{WorkerEvent, WorkerStep, read_journal},
    proxy::{Direction, Proxy},
};

/// How long links are silent: longer than both of their ends wait for a word.
const SILENT_FOR: Duration = Duration::from_secs(7);

impl Injector<'_> {
    /// The links to the owner fail while they carry everything: no client and no worker reaches the owner itself.
    pub(super) async fn break_links(&mut self) -> anyhow::Result<Injection> {
        anyhow::ensure!(self.cluster.brokers.len() > 1, "a link takes two brokers");
        let (owner, _) = self.cluster.owner().await?;
        let owner = format!("broker-{owner}");
        self.leave_only_relays(&owner).await?;
        let before = welcomes(self.cluster)?;
        let (cut, losing) = (self.some(CUT), self.some(LOSING));
        let link =
            cables(self.cluster.cables.as_ref())?.between(PEERS_PARTY, &owner).context("a cable to the owner")?;
        match self.step.fault {
            Fault::LoseRepliesLink => {
                let swallowed = link.swallowed();
                link.swallow(Direction::ToClient);
                let lost = async || Ok(link.swallowed() > swallowed);
                wait_until("the owner answers a relay", PATIENCE, lost).await?;
                sleep(losing).await;
                link.reset();
            }
            Fault::HalfOpenLink => {
                link.forget();
                link.swallow_all();
                sleep(SILENT_FOR).await;
            }
            _ => {
                link.cut();
                sleep(cut).await;
            }
        }
        let at = now();
        link.heal();
        // Before anybody reaches the owner itself again: else it could not be told which way they came back.
        all_welcome_again(self.cluster, &before).await?;
        self.more_answers().await?;
        let client = self.cluster.clients.iter().find(|client| client.is_running()).map(Process::name);
        Ok(self.injection(at, client.unwrap_or_default()))
    }

    /// Cuts the cables of clients and workers to the owner, and waits until every worker has a stream over a relay.
    async fn leave_only_relays(&self, owner: &str) -> anyhow::Result<()> {
        let before = welcomes(self.cluster)?;
        let cables = cables(self.cluster.cables.as_ref())?;
        for process in self.cluster.workers.iter().chain(&self.cluster.clients) {
            if let Some(cable) = cables.between(process.name(), owner) {
                cable.cut();
            }
        }
        // Those at a relay already are to come again as well: so it shows of each that it has left the owner.
        for worker in &self.cluster.workers {
            cables.of(worker.name()).for_each(Proxy::reset);
        }
        all_welcome_again(self.cluster, &before).await
    }
}

/// How often each running worker was welcomed.
fn welcomes(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, usize>> {
    let running = cluster.workers.iter().filter(|worker| worker.is_running());
    running
        .map(|worker| {
            let events: Vec<WorkerEvent> = read_journal(&cluster.journal(worker.name()))?;
            let welcomes = events.iter().filter(|event| matches!(event.step, WorkerStep::Welcome { .. }));
            Ok((worker.name().to_owned(), welcomes.count()))
        })
        .collect()
}

/// Waits until each of these workers was welcomed more often.
async fn all_welcome_again(cluster: &Cluster, before: &BTreeMap<String, usize>) -> anyhow::Result<()> {
    wait_until("every worker is welcome at a relay", PATIENCE, async || {
        let now = welcomes(cluster)?;
        Ok(before.iter().all(|(worker, times)| now.get(worker).is_none_or(|now| now > times)))
    })
    .await
}
