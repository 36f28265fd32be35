//! Results, from the end of a handler until they are acknowledged.
//!
//! Frames of results are counted per stream, from 1. A new stream starts again, with everything that was not
//! acknowledged; to repeat a result is always safe (C6).

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use cabbage_proto::v1::{self, job_result::Outcome};

use super::lease::{Ending, Held, Leases, Place, Slot};

/// How many results one frame carries at most.
pub(super) const MAX_RESULTS_PER_FRAME: usize = 4_000;
/// How large a frame of results gets at most, as long as no single result is larger.
pub(super) const MAX_FRAME_BYTES: usize = 1 << 20;
/// What a result costs in a frame beside its contents.
const RESULT_OVERHEAD_BYTES: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    ready: VecDeque<Slot>,
    sent: VecDeque<(u64, Vec<Slot>)>,
    later: Vec<Slot>,
    /// When those in `later` are ready again.
    pub(super) later_at: Option<Duration>,
    last_seq: u64,
    unacknowledged: usize,
}

impl Outbox {
    /// A result is ready.
    pub(super) fn push(&mut self, leases: &mut Leases, slot: Slot) {
        if let Some(held) = leases.get_mut(slot) {
            held.place = Place::Ready;
            self.ready.push_back(slot);
        }
    }

    /// Makes a frame of what is ready; `None` if there is nothing, or too much is unacknowledged.
    pub(super) fn next_frame(
        &mut self,
        leases: &mut Leases,
        max_unacknowledged: usize,
        max_bytes: usize,
    ) -> Option<v1::JobResults> {
        let room = max_unacknowledged.saturating_sub(self.unacknowledged).min(MAX_RESULTS_PER_FRAME);
        if room == 0 || self.ready.is_empty() {
            return None;
        }
        let seq = self.last_seq + 1;
        let mut frame = v1::JobResults { results_seq: seq, ..Default::default() };
        let mut slots = Vec::with_capacity(room.min(self.ready.len()));
        let mut bytes = 0;
        while slots.len() < room {
            let Some(&slot) = self.ready.front() else {
                break;
            };
            let Some(held) = leases.get_mut(slot).filter(|held| held.place == Place::Ready) else {
                self.ready.pop_front();
                continue;
            };
            let Some(ending) = &held.ending else {
                self.ready.pop_front();
                continue;
            };
            let size = held.token.len() + size_of_ending(ending);
            if !slots.is_empty() && bytes + size > max_bytes {
                break;
            }
            bytes += size;
            let token: Bytes = held.token.clone();
            match ending {
                Ending::Plain => frame.succeeded.push(token),
                Ending::Full(outcome) => {
                    frame.results.push(v1::JobResult { lease_token: token, outcome: Some((**outcome).clone()) });
                }
            }
            held.place = Place::Sent(seq);
            slots.push(slot);
            self.ready.pop_front();
        }
        if slots.is_empty() {
            return None;
        }
        self.last_seq = seq;
        self.unacknowledged += slots.len();
        self.sent.push_back((seq, slots));
        Some(frame)
    }

    /// Everything sent up to this frame is recorded, but for what was excepted. Says how many results that are, and
    /// reports each.
    pub(super) fn recorded_through(&mut self, leases: &mut Leases, through: u64, report: impl Fn(&Held)) -> u64 {
        let mut recorded = 0;
        while self.sent.front().is_some_and(|(seq, _)| *seq <= through) {
            let Some((seq, slots)) = self.sent.pop_front() else {
                break;
            };
            for slot in slots {
                if let Some(held) = leases.get(slot).filter(|held| held.place == Place::Sent(seq)) {
                    report(held);
                    leases.done(slot);
                    self.unacknowledged -= 1;
                    recorded += 1;
                }
            }
        }
        recorded
    }

    /// A result leaves, whatever became of it.
    pub(super) fn remove(&mut self, leases: &mut Leases, slot: Slot) {
        if leases.get(slot).is_some_and(|held| matches!(held.place, Place::Sent(_))) {
            self.unacknowledged -= 1;
        }
        leases.done(slot);
    }

    /// The broker asks to send a result again.
    pub(super) fn send_later(&mut self, leases: &mut Leases, slot: Slot, at: Duration) {
        let Some(held) = leases.get_mut(slot).filter(|held| matches!(held.place, Place::Sent(_))) else {
            return;
        };
        held.place = Place::Later;
        self.unacknowledged -= 1;
        self.later.push(slot);
        self.later_at = Some(self.later_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// The wait of those in `later` is over.
    pub(super) fn wake_later(&mut self, leases: &mut Leases) {
        self.later_at = None;
        for slot in std::mem::take(&mut self.later) {
            if leases.get(slot).is_some_and(|held| held.place == Place::Later) {
                self.push(leases, slot);
            }
        }
    }

    /// Another stream: all that is not acknowledged is ready again, oldest first, and counting starts anew.
    pub(super) fn restart(&mut self, leases: &mut Leases) {
        let ready = std::mem::take(&mut self.ready);
        let sent = std::mem::take(&mut self.sent);
        let later = std::mem::take(&mut self.later);
        (self.later_at, self.last_seq, self.unacknowledged) = (None, 0, 0);
        for (seq, slots) in sent {
            for slot in slots {
                if leases.get(slot).is_some_and(|held| held.place == Place::Sent(seq)) {
                    self.push(leases, slot);
                }
            }
        }
        for slot in later {
            if leases.get(slot).is_some_and(|held| held.place == Place::Later) {
                self.push(leases, slot);
            }
        }
        self.ready.extend(ready);
    }
}

fn size_of_ending(ending: &Ending) -> usize {
    match ending {
        Ending::Plain => 4,
        Ending::Full(outcome) => {
            RESULT_OVERHEAD_BYTES
                + match &**outcome {
                    Outcome::Succeeded(end) => end.result.len(),
                    Outcome::Failed(end) => {
                        let text = end.failure.as_ref();
                        let moved = end.retry.as_ref();
                        text.map_or(0, |text| text.kind.len() + text.message.len() + text.trace.len())
                            + moved.map_or(0, |to| to.queue.len() + to.lock.as_ref().map_or(0, String::len))
                    }
                    Outcome::Cancelled(end) => end.message.len(),
                    Outcome::Released(end) => end.reason.len(),
                    Outcome::Snoozed(_) => 0,
                }
        }
    }
}
