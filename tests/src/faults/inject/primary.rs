//! What is done to the primary of several servers.

use std::time::Duration;

use super::{Injector, now};
use crate::faults::{Fault, Injection};

impl Injector<'_> {
    /// Has another server become the primary, with the former one gone or still there.
    pub(super) async fn fail_over(&mut self) -> anyhow::Result<Injection> {
        let (_, term) = self.cluster.owner().await?;
        let fault = self.step.fault;
        let patroni = self.cluster.database.patroni()?;
        let former = patroni.primary();
        let struck = now();
        match fault {
            Fault::KillPrimary => patroni.kill(former).await?,
            Fault::StopPrimary => patroni.stop(former)?,
            Fault::AbandonPrimary => patroni.abandon(former).await?,
            _ => patroni.switch_over().await?,
        }
        let led = self.serve_without(former, term).await;
        let logs = self.cluster.folder().to_owned();
        let patroni = self.cluster.database.patroni()?;
        match fault {
            Fault::KillPrimary | Fault::AbandonPrimary => patroni.restart(former, &logs)?,
            Fault::StopPrimary => patroni.go_on(former)?,
            _ => {}
        }
        let at = led?;
        // The former primary follows the new one, and the cell is owned still.
        self.cluster.database.patroni()?.wait_level().await?;
        self.cluster.owner().await?;
        let leaderless = Some(Duration::from_micros((at - struck).unsigned_abs()));
        Ok(Injection { leaderless, ..self.injection(at, format!("node-{former}")) })
    }

    /// Waits until a broker owns the cell on another primary, and works there, so that there is something to be lost.
    /// Gives the time from which recovery counts: when there was a primary.
    async fn serve_without(&mut self, former: usize, term: u64) -> anyhow::Result<i64> {
        self.cluster.database.patroni()?.wait_led_after(former).await?;
        let at = now();
        self.cluster.owner_after(term).await?;
        self.more_answers().await?;
        Ok(at)
    }
}
