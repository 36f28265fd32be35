//! What is done to the links from relays to the owner.

use std::time::Duration;

use anyhow::Context as _;

use super::{
    Injector,
    cables::{CUT, Failure, LOSING, cables, fail},
    now,
};
use crate::{
    cluster::PEERS_PARTY,
    faults::{Fault, Injection},
};

/// How long links are silent: longer than both of their ends wait for a word.
const SILENT_FOR: Duration = Duration::from_secs(7);

impl Injector<'_> {
    /// The links to the owner fail while they carry everything: no client and no worker reaches the owner itself.
    pub(super) async fn break_links(&mut self) -> anyhow::Result<Injection> {
        anyhow::ensure!(self.cluster.brokers.len() > 1, "a link takes two brokers");
        let (owner, _) = self.cluster.owner().await?;
        self.leave_only(|broker| broker != owner).await?;
        let mut before = self.workers_now().await?;
        let failure = match self.step.fault {
            Fault::LoseRepliesLink => Failure::LoseReplies(self.some(LOSING)),
            Fault::HalfOpenLink => Failure::HalfOpen(SILENT_FOR),
            _ => Failure::Cut(self.some(CUT)),
        };
        let link = cables(self.cluster.cables.as_ref())?.between(PEERS_PARTY, &format!("broker-{owner}"));
        let link = link.context("a cable to the owner")?;
        fail(&[link], failure).await?;
        let at = now();
        link.heal();
        // Before anybody reaches the owner itself again: else it could not be told which way they came back.
        self.all_welcome_again(&mut before).await?;
        self.more_answers().await?;
        Ok(self.injection(at, self.a_client()))
    }
}
