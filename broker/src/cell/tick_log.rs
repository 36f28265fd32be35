//! What the log says of ticks: those that deferred nothing are worth a word.

use crate::core::{schedule::TickOutcome, types::Timestamp};

/// A tick was decided, and that is committed.
pub(super) fn say(schedule: &str, tick: Timestamp, outcome: TickOutcome) {
    let tick = tick.to_rfc3339();
    match outcome {
        TickOutcome::Deferred(job) => tracing::debug!(schedule, tick, %job, "a tick deferred its job"),
        TickOutcome::Missed => tracing::info!(schedule, tick, "a missed tick is skipped, by its schedule's rule"),
        TickOutcome::QueueingLockTaken(job) => {
            tracing::info!(schedule, tick, %job, "a tick is skipped: this job carries its queueing lock, and never started");
        }
        TickOutcome::LimitReached => {
            tracing::warn!(schedule, tick, "a tick is skipped: a limit of the cell is reached");
        }
    }
}
