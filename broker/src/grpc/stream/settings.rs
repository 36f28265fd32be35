//! What every stream of a broker has in common.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{core::limits::Limits, telemetry::Metrics};

/// What every stream of a broker has in common.
#[derive(Clone)]
pub struct StreamSettings {
    /// How often a worker, and the broker, must send something.
    pub beat: Duration,
    /// How long a worker may not read before its stream is cut.
    pub send_timeout: Duration,
    /// How long after the start of a stop streams may stay.
    pub drain: Duration,
    /// The core's intervals, which workers are told.
    pub limits: Limits,
    /// Cancelled when the broker begins to stop.
    pub draining: CancellationToken,
    /// Where streams are counted.
    pub metrics: Metrics,
}
