//! The only place of this crate that reads a clock; it is monotonic, and decides timeouts only.

use std::time::Duration;

use tokio::time::Instant;

/// Counts from its own start, so that decisions see a plain `Duration` and tests may choose any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }

    /// The instant for the runtime's timers.
    pub(crate) fn instant(self, at: Duration) -> Instant {
        self.0 + at
    }
}
