//! Signals of the operating system, as wishes: the first one stops, the second one stops now.

use std::{future::Future, io};

use super::WorkerHandle;

/// Listens from now on, until it is dropped.
pub(super) fn obey(handle: WorkerHandle) -> impl Future<Output = ()> + Send {
    // Before the first poll, so that no signal kills the process meanwhile.
    let signals = Signals::listen();
    async move {
        match signals {
            Ok(signals) => pass_on(signals, handle).await,
            Err(error) => tracing::warn!(%error, "signals cannot be handled"),
        }
    }
}

async fn pass_on(mut signals: Signals, handle: WorkerHandle) {
    signals.next().await;
    tracing::info!("a signal: draining");
    handle.stop();
    signals.next().await;
    tracing::info!("a second signal: stopping now");
    handle.stop_now();
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
