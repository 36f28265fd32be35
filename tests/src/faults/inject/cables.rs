//! What is done to the network.

use std::time::Duration;

use anyhow::Context as _;
use rand::seq::IteratorRandom as _;
use tokio::time::{sleep, timeout};

use super::{Injector, PATIENCE, SLOW, now};
use crate::{
    cluster::{Cables, DATABASE_PARTY, wait_until},
    faults::{Fault, Injection},
    proxy::{Direction, Proxy},
};

/// How long a cable is cut.
pub(super) const CUT: std::ops::Range<Duration> = Duration::from_millis(300)..Duration::from_secs(3);

/// How long after a reply was lost the connection breaks, so that more of them are lost.
pub(super) const LOSING: std::ops::Range<Duration> = Duration::from_millis(1)..Duration::from_millis(300);

/// How long everything is slow.
const SLOW_FOR: Duration = Duration::from_secs(4);

/// How cables fail.
pub(super) enum Failure {
    /// They are cut for so long.
    Cut(Duration),
    /// They are silent for so long, and what they carried stays silent for ever.
    HalfOpen(Duration),
    /// What comes back over them is lost, and so long after the first of it the connections are reset.
    LoseReplies(Duration),
}

/// Lets cables fail. Afterwards they are to be healed.
pub(super) async fn fail(cables: &[&Proxy], failure: Failure) -> anyhow::Result<()> {
    let all = || cables.iter().copied();
    match failure {
        Failure::Cut(time) => {
            all().for_each(Proxy::cut);
            sleep(time).await;
        }
        Failure::HalfOpen(time) => {
            all().for_each(Proxy::forget);
            all().for_each(Proxy::swallow_all);
            sleep(time).await;
        }
        Failure::LoseReplies(time) => {
            let before: u64 = all().map(Proxy::swallowed).sum();
            all().for_each(|cable| cable.swallow(Direction::ToClient));
            let lost = async || Ok(all().map(Proxy::swallowed).sum::<u64>() > before);
            wait_until("a reply is lost", PATIENCE, lost).await?;
            sleep(time).await;
            all().for_each(Proxy::reset);
        }
    }
    Ok(())
}

impl Injector<'_> {
    /// The cables of a worker fail.
    pub(super) async fn break_worker(&mut self) -> anyhow::Result<Injection> {
        let running = self.cluster.workers.iter().filter(|worker| worker.is_running());
        let victim = running.choose(self.random).context("a worker runs")?.name().to_owned();
        let silence = self.cluster.intervals().watchdog + self.cluster.intervals().beat;
        self.break_cables(&victim, silence).await
    }

    /// The cables of a client fail.
    pub(super) async fn break_client(&mut self) -> anyhow::Result<Injection> {
        let running = self.cluster.clients.iter().filter(|client| client.is_running());
        let victim = running.choose(self.random).context("a client runs")?.name().to_owned();
        self.break_cables(&victim, Duration::from_secs(2)).await
    }

    /// All cables of this party fail. Half-open ones stay so for this long.
    async fn break_cables(&mut self, victim: &str, silence: Duration) -> anyhow::Result<Injection> {
        let failure = match self.step.fault {
            Fault::LoseRepliesClient | Fault::LoseRepliesWorker => Failure::LoseReplies(self.some(LOSING)),
            Fault::HalfOpenClient | Fault::HalfOpenWorker => Failure::HalfOpen(silence),
            _ => Failure::Cut(self.some(CUT)),
        };
        let own: Vec<&Proxy> = cables(self.cluster.cables.as_ref())?.of(victim).collect();
        fail(&own, failure).await?;
        let at = now();
        own.into_iter().for_each(Proxy::heal);
        Ok(self.injection(at, victim))
    }

    /// The owner loses the database, and a standby takes over.
    pub(super) async fn isolate_owner(&mut self) -> anyhow::Result<Injection> {
        let (owner, term) = self.cluster.owner().await?;
        let name = format!("broker-{owner}");
        let cut = self.some(CUT);
        let at = now();
        {
            let cable = to_database(self.cluster.cables.as_ref(), &name)?;
            match self.step.fault {
                Fault::CutDatabase => cable.cut(),
                Fault::HoldDatabase => cable.hold(),
                _ => {
                    cable.forget();
                    cable.swallow_all();
                }
            }
        }
        self.cluster.owner_after(term).await?;
        if self.step.fault == Fault::CutDatabase {
            sleep(cut).await;
        } else {
            // The new owner works for a while, so that there is something to be written over.
            self.more_answers().await?;
        }
        to_database(self.cluster.cables.as_ref(), &name)?.heal();
        self.follows(owner).await?;
        Ok(self.injection(at, name))
    }

    /// The owner does not hear of its commit.
    pub(super) async fn lose_commit(&mut self) -> anyhow::Result<Injection> {
        let (owner, term) = self.cluster.owner().await?;
        let name = format!("broker-{owner}");
        let losing = self.some(LOSING);
        let cable = to_database(self.cluster.cables.as_ref(), &name)?;
        let before = cable.swallowed();
        cable.swallow(Direction::ToClient);
        timeout(PATIENCE, cable.swallowed_more(before)).await.context("the database answers the owner")?;
        sleep(losing).await;
        let at = now();
        cable.reset();
        cable.heal();
        self.cluster.owner_after(term).await?;
        Ok(self.injection(at, name))
    }

    /// Everything is late for a while.
    pub(super) async fn slow_down(&mut self) -> anyhow::Result<Injection> {
        let cables = cables(self.cluster.cables.as_ref())?;
        cables.all().for_each(|cable| cable.dawdle(SLOW));
        sleep(SLOW_FOR).await;
        let at = now();
        cables.all().for_each(Proxy::heal);
        Ok(self.injection(at, self.a_client()))
    }
}

pub(super) fn cables(cables: Option<&Cables>) -> anyhow::Result<&Cables> {
    cables.context("the cluster has cables that can fail")
}

pub(super) fn to_database<'a>(all: Option<&'a Cables>, broker: &str) -> anyhow::Result<&'a Proxy> {
    cables(all)?.between(broker, DATABASE_PARTY).context("a cable to the database")
}
