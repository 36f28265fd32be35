//! The life of one job, as the log tells it.

use std::sync::Arc;

use cabbage_broker::core::{
    job::{RetryPolicy, Verdict},
    place::{Place, PlaceKey},
    types::{LockId, QueueNo, SessionNo, Timestamp},
};

/// A job from its creation to its end.
#[derive(Clone, Debug)]
pub(super) struct Life {
    /// The time of the row that created it.
    pub(super) created: Timestamp,
    pub(super) began_scheduled: bool,
    pub(super) phase: Phase,
    pub(super) due: Timestamp,
    pub(super) queue: QueueNo,
    pub(super) lock: Option<LockId>,
    pub(super) strict: bool,
    pub(super) queueing_lock: Option<Arc<str>>,
    pub(super) retry: Option<Arc<RetryPolicy>>,
    /// Attempts that failed and were followed by another.
    pub(super) retried: u32,
    pub(super) crashes: u16,
    pub(super) cancel_requested: bool,
    pub(super) parked: Option<(Place, PlaceKey)>,
    pub(super) parkings: u64,
    pub(super) deliveries: Vec<Leased>,
    /// A final state without a delivery.
    pub(super) unstarted_end: Option<Ended>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Scheduled,
    Waiting,
    Running,
    Final(Verdict),
}

/// One delivery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leased {
    pub(super) nonce: u64,
    pub(super) session: SessionNo,
    /// The time of the row that recorded the start, and its place in the log.
    pub(super) started: Timestamp,
    pub(super) started_row: u64,
    pub(super) end: Option<Ended>,
}

/// The end of a delivery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) verdict: Verdict,
    /// The time of the row that recorded it, and its place in the log.
    pub(super) at: Timestamp,
    pub(super) row: u64,
}

impl Life {
    pub(super) fn is_final(&self) -> bool {
        matches!(self.phase, Phase::Final(_))
    }

    /// The delivery of this number, from 1.
    pub(super) fn delivery(&self, number: u32) -> Option<&Leased> {
        self.deliveries.get(usize::try_from(number).ok()?.checked_sub(1)?)
    }

    /// How the delivery of this number ended. A final without a delivery has the number after the last.
    pub(super) fn end(&self, number: u32) -> Option<Ended> {
        match self.delivery(number) {
            Some(delivery) => delivery.end,
            None => self.unstarted_end.filter(|_| number as usize == self.deliveries.len() + 1),
        }
    }

    /// The most attempts there may be; `None`: no limit.
    pub(super) fn max_attempts(&self) -> Option<u32> {
        match &self.retry {
            None => Some(1),
            Some(policy) if policy.max_attempts == 0 => None,
            Some(policy) => Some(policy.max_attempts),
        }
    }
}
