//! What is done to brokers.

use rustix::process::Signal;

use super::{Injector, PATIENCE, now};
use crate::{
    cluster::{Role, role, wait_until},
    faults::{Fault, Injection},
};

impl Injector<'_> {
    pub(super) async fn kill_broker(&mut self) -> anyhow::Result<Injection> {
        let (owner, term) = self.cluster.owner().await?;
        let at = now();
        self.cluster.brokers[owner].process.kill().await?;
        if self.step.fault == Fault::KillBrokerRestart {
            self.cluster.start_broker_again(owner)?;
            self.cluster.owner_after(term).await?;
        } else {
            let (new, _) = self.cluster.owner_after(term).await?;
            anyhow::ensure!(new != owner, "a standby takes over");
            self.cluster.start_broker_again(owner)?;
            self.cluster.wait_ready(owner).await?;
        }
        Ok(self.injection(at, format!("broker-{owner}")))
    }

    pub(super) async fn stop_broker(&mut self) -> anyhow::Result<Injection> {
        let (owner, term) = self.cluster.owner().await?;
        let at = now();
        self.cluster.brokers[owner].process.signal(Signal::STOP)?;
        self.cluster.owner_after(term).await?;
        // The new owner works for a while, so that there is something to be written over.
        let worked = self.more_answers().await;
        self.cluster.brokers[owner].process.signal(Signal::CONT)?;
        worked?;
        self.follows(owner).await?;
        Ok(self.injection(at, format!("broker-{owner}")))
    }

    /// Waits until a broker that had lost the cell knows that, and follows who has it.
    pub(super) async fn follows(&self, broker: usize) -> anyhow::Result<()> {
        let admin = self.cluster.brokers[broker].admin;
        wait_until("the former owner follows", PATIENCE, async || Ok(role(admin).await == Role::Follows)).await
    }
}
