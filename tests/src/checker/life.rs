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
    /// The one that it was created with.
    pub(super) first_queueing_lock: Option<Arc<str>>,
    pub(super) retry: Option<Arc<RetryPolicy>>,
    /// Attempts that failed and were followed by another, since it was last opened.
    pub(super) retried: u32,
    /// The same of crashes.
    pub(super) crashes: u16,
    pub(super) cancel_requested: bool,
    pub(super) parked: Option<(Place, PlaceKey)>,
    pub(super) parkings: u64,
    pub(super) fetched: u64,
    pub(super) deliveries: Vec<Leased>,
    /// What has a number and is no delivery: the end of a job that did not run, and that a final was opened again.
    pub(super) notes: Vec<(u32, Ended)>,
    /// When it was erased.
    pub(super) erased: Option<Timestamp>,
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
    pub(super) number: u32,
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

    /// The last number that was used.
    pub(super) fn last_number(&self) -> u32 {
        (self.deliveries.len() + self.notes.len()) as u32
    }

    /// The delivery of this number.
    pub(super) fn delivery(&self, number: u32) -> Option<&Leased> {
        self.deliveries.binary_search_by_key(&number, |delivery| delivery.number).ok().map(|at| &self.deliveries[at])
    }

    /// How the delivery of this number ended, or what else has the number.
    pub(super) fn end(&self, number: u32) -> Option<Ended> {
        let note = || self.notes.iter().find(|(of, _)| *of == number).map(|(_, ended)| *ended);
        self.delivery(number).map_or_else(note, |delivery| delivery.end)
    }

    /// Every end of it.
    pub(super) fn ends(&self) -> impl Iterator<Item = Ended> {
        let notes = self.notes.iter().map(|(_, ended)| *ended);
        self.deliveries.iter().filter_map(|delivery| delivery.end).chain(notes)
    }

    /// When it was opened again, by number.
    pub(super) fn openings(&self) -> impl Iterator<Item = (u32, Ended)> {
        self.notes.iter().copied().filter(|(_, ended)| ended.verdict == Verdict::Reopened)
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
