//! What a broker says of itself, and how to wait for something.

use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::http::ask;

/// How often somebody who waits looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a broker is for the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It does not answer.
    Silent,
    /// It does not serve.
    NotReady,
    /// It stands by.
    Follows,
    /// It owns the cell, by this term.
    Owns(u64),
}

/// Asks a broker by HTTP.
pub async fn role(admin: SocketAddr) -> Role {
    match ask(admin, "GET /readyz HTTP/1.0\r\n\r\n").await {
        Ok(answer) => match answer.split_once("owns the cell, term ") {
            Some((_, term)) => Role::Owns(term.trim().parse().unwrap_or_default()),
            None if answer.contains("ready: follows") && !answer.contains("not ready") => Role::Follows,
            None => Role::NotReady,
        },
        Err(_) => Role::Silent,
    }
}

/// Waits until something is so. An error of the question ends the wait.
pub async fn wait_until(
    what: &str,
    within: Duration,
    mut is_so: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let until = Instant::now() + within;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if is_so().await? {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < until, "waited {within:?} in vain until {what}");
    }
}
