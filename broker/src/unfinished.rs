//! How many jobs are unfinished, and what they wait for: for metrics. The owner's state knows it, so nothing is searched.

use std::sync::Arc;

use crate::{
    cell::{CallError, Cell},
    core::{decide::WaitingFor, queues::QueueNow, types::QueueNo},
};

/// Queues that are shown one by one: those that the cell has known for the longest. The others are shown together, so
/// that however many there are, the metrics stay small.
pub const QUEUES_SHOWN_MAX: u32 = 100;

/// Queues that the owner is asked for at once, so that it is not held up.
const QUEUES_PER_LOOK: u32 = 100;

/// What a job is doing that has not ended: it is scheduled, or runs, or waits for one of these.
const WAITING: [(WaitingFor, &str); 5] = [
    (WaitingFor::Ready, "ready"),
    (WaitingFor::Limited, "limited"),
    (WaitingFor::Blocked, "blocked"),
    (WaitingFor::Paused, "paused"),
    (WaitingFor::Unserved, "unserved"),
];

/// The unfinished jobs of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Its name. Empty: all queues beyond the first [`QUEUES_SHOWN_MAX`] together.
    pub queue: Arc<str>,
    /// How many jobs there are in each state, in one order for all queues.
    pub states: [(&'static str, u64); 7],
}

impl Unfinished {
    fn new(queue: Arc<str>) -> Self {
        let mut states = [("scheduled", 0), ("running", 0), ("", 0), ("", 0), ("", 0), ("", 0), ("", 0)];
        for (state, (_, word)) in states[2..].iter_mut().zip(WAITING) {
            state.0 = word;
        }
        Self { queue, states }
    }

    fn add(&mut self, now: &QueueNow) {
        self.states[0].1 += now.scheduled;
        self.states[1].1 += now.running;
        for (state, (what_for, _)) in self.states[2..].iter_mut().zip(WAITING) {
            state.1 += now.waiting.get(&what_for).copied().unwrap_or_default();
        }
    }
}

/// The unfinished jobs of the cell by queue. An error: this broker does not own it.
pub async fn unfinished(cell: &Cell) -> Result<Vec<Unfinished>, CallError> {
    let names = cell.owned()?.names;
    let queues = names.queue_count();
    let mut shown: Vec<Unfinished> = Vec::new();
    for first in (0..queues).step_by(QUEUES_PER_LOOK as usize) {
        let some: Vec<QueueNo> = (first..queues.min(first + QUEUES_PER_LOOK)).map(QueueNo).collect();
        for (no, now) in some.iter().zip(cell.queues(some.clone()).await?) {
            if no.0 <= QUEUES_SHOWN_MAX {
                let name = if no.0 < QUEUES_SHOWN_MAX { names.queue(*no) } else { "".into() };
                shown.push(Unfinished::new(name));
            }
            if let Some(last) = shown.last_mut() {
                last.add(&now);
            }
        }
    }
    Ok(shown)
}
