//! The leases that this worker holds: every delivery from its arrival until its end is acknowledged.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use cabbage_proto::v1;

use super::running::TimeoutStage;
use crate::failure::TaskError;

/// Names a held lease cheaply. A number that was used before comes back with another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Slot {
    index: u32,
    generation: u32,
}

impl Slot {
    /// A small number, that of no other lease with a running handler.
    pub(crate) fn index(self) -> usize {
        self.index as usize
    }

    /// Any slot, for tests of what only carries it.
    #[cfg(test)]
    pub(crate) fn first() -> Self {
        Self { index: 0, generation: 0 }
    }
}

/// Where a result is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// There is no result yet.
    Unended,
    /// Ready to be sent.
    Ready,
    /// Sent in the frame of this number of the current stream.
    Sent(u64),
    /// To be sent again later.
    Later,
    /// Nobody waits for it any more: acknowledged, or the lease is lost.
    Done,
}

/// How a delivery ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ending {
    /// Success without a result: only the token is sent.
    Plain,
    /// Anything else.
    Full(Box<v1::job_result::Outcome>),
}

/// One lease.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) token: Bytes,
    pub(super) job_id: i64,
    /// The number of the task; that of no task, if there is no handler for it.
    pub(super) task: usize,
    /// The number of the attempt, from 1.
    pub(super) attempt: u32,
    /// A handler is running. It may go on after the lease is lost, or after its timeout was reported.
    pub(super) handler: bool,
    pub(super) timed_out: bool,
    /// What the timeout amounts to, where a retry strategy has said it.
    pub(super) timeout: Option<Box<TaskError>>,
    /// Its timer, if one is set.
    pub(super) timer: Option<(Duration, TimeoutStage)>,
    pub(super) ending: Option<Ending>,
    /// The broker said that the attempt failed and that the job will be tried again.
    pub(super) retried: bool,
    pub(super) place: Place,
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    held: Option<Held>,
}

/// All leases, by slot and by token.
#[derive(Debug, Default)]
pub(super) struct Leases {
    entries: Vec<Entry>,
    free: Vec<u32>,
    by_token: HashMap<Bytes, u32>,
    owed: usize,
}

impl Leases {
    /// Takes in a new lease; `None` if it is here already.
    pub(super) fn insert(&mut self, token: Bytes, delivery: &v1::Delivery, task: usize) -> Option<Slot> {
        let held = Held {
            token: token.clone(),
            job_id: delivery.job_id,
            task,
            attempt: delivery.attempts_before.saturating_add(1),
            handler: false,
            timed_out: false,
            timeout: None,
            timer: None,
            ending: None,
            retried: false,
            place: Place::Unended,
        };
        if self.by_token.contains_key(&token) {
            return None;
        }
        let index = if let Some(index) = self.free.pop() {
            self.entries[index as usize].held = Some(held);
            index
        } else {
            self.entries.push(Entry { generation: 0, held: Some(held) });
            self.entries.len() as u32 - 1
        };
        self.by_token.insert(token, index);
        self.owed += 1;
        Some(Slot { index, generation: self.entries[index as usize].generation })
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Held> {
        let entry = self.entries.get(slot.index as usize)?;
        entry.held.as_ref().filter(|_| entry.generation == slot.generation)
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Held> {
        let entry = self.entries.get_mut(slot.index as usize)?;
        entry.held.as_mut().filter(|_| entry.generation == slot.generation)
    }

    pub(super) fn by_token(&self, token: &[u8]) -> Option<Slot> {
        let index = *self.by_token.get(token)?;
        Some(Slot { index, generation: self.entries[index as usize].generation })
    }

    /// Nobody waits for the end of this lease any more. It stays only while its handler runs.
    pub(super) fn done(&mut self, slot: Slot) {
        let Some(held) = self.get_mut(slot) else {
            return;
        };
        let was_owed = held.place != Place::Done;
        held.place = Place::Done;
        held.ending = None;
        let runs_on = held.handler;
        let token = held.token.clone();
        if was_owed {
            self.owed -= 1;
            self.by_token.remove(&token);
        }
        if !runs_on {
            let entry = &mut self.entries[slot.index as usize];
            entry.held = None;
            entry.generation = entry.generation.wrapping_add(1);
            self.free.push(slot.index);
        }
    }

    /// How many leases the broker still waits for.
    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    /// All leases whose end the broker still waits for.
    pub(super) fn iter_owed(&self) -> impl Iterator<Item = (Slot, &Held)> {
        self.iter().filter(|(_, held)| held.place != Place::Done)
    }

    /// All leases, and those that only have a handler left.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Held)> {
        self.entries.iter().enumerate().filter_map(|(index, entry)| {
            let slot = Slot { index: index as u32, generation: entry.generation };
            entry.held.as_ref().map(|held| (slot, held))
        })
    }
}
