//! The channels to all brokers. One that stays silent while a call waits is replaced: its connection may be dead without
//! anybody having noticed, and the keepalives of the transport take most of a minute to find that out.

use std::{
    error::Error as _,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// One for each broker.
pub(super) struct Channels {
    endpoints: Vec<Endpoint>,
    lines: Vec<Mutex<Option<Line>>>,
}

/// A channel, and when something last came over it.
struct Line {
    channel: Channel,
    opened: Instant,
    heard: Instant,
}

impl Channels {
    pub(super) fn new(endpoints: Vec<Endpoint>) -> Self {
        let lines = endpoints.iter().map(|_| Mutex::default()).collect();
        Self { endpoints, lines }
    }

    pub(super) fn count(&self) -> usize {
        self.endpoints.len()
    }

    /// The channel to a broker. It connects when it is first used.
    pub(super) fn to(&self, broker: usize) -> Channel {
        self.with(broker, |line| {
            let now = Instant::now();
            let open = || Line { channel: self.endpoints[broker].connect_lazy(), opened: now, heard: now };
            line.get_or_insert_with(open).channel.clone()
        })
    }

    /// Something came over the channel to a broker.
    pub(super) fn heard(&self, broker: usize) {
        self.with(broker, |line| {
            if let Some(line) = line {
                line.heard = Instant::now();
            }
        });
    }

    /// A call that was sent then got no answer. If nothing else came since, the next call opens another channel; calls
    /// that still wait on this one may go on.
    pub(super) fn unheard(&self, broker: usize, sent: Instant) {
        self.with(broker, |line| {
            if line.as_ref().is_some_and(|line| line.opened <= sent && line.heard <= sent) {
                tracing::debug!(broker, "nothing comes from this broker; another connection is opened");
                *line = None;
            }
        });
    }

    fn with<R>(&self, broker: usize, act: impl FnOnce(&mut Option<Line>) -> R) -> R {
        act(&mut self.lines[broker].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether this status came from the other side, and not from our own transport.
pub(super) fn came_from_afar(status: &Status) -> bool {
    status.source().is_none()
}

/// Whether our own transport gave up because the time was over.
pub(super) fn timed_out(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::TimeoutExpired>() {
            return true;
        }
        cause = error.source();
    }
    false
}
