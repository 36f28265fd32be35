//! Jobs, from their start to the end that goes into the outbox.

use std::{collections::VecDeque, time::Duration};

use cabbage_proto::v1;

use super::{
    Action, CancelCause, Finish, Phase, Session, Slot,
    lease::{Ending, Held, Place},
};
use crate::{failure::TaskError, wire};

/// How long a handler may clean up after its timeout, before its task is aborted.
const TIMEOUT_CLEANUP: Duration = Duration::from_secs(1);
/// After that, how long until the timeout is reported although the handler still runs. In all that is less than the
/// 10 s after which the owner ends the attempt by itself (C8).
const TIMEOUT_REPORT: Duration = Duration::from_secs(4);
/// How many ended jobs may wait to be skipped before they are swept out.
const STALE_STARTS: usize = 64;

/// What a job's timer stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimeoutStage {
    Cancel,
    Abort,
    Report,
}

impl Session {
    /// Starts what may start, in the order in which it came (C15).
    pub(super) fn start_jobs(&mut self, now: Duration) {
        // A lease may have been given to another worker by then; starting would only run the job twice.
        let too_late = self.disconnected_since.is_some_and(|since| now >= since + self.terms.grace);
        while self.running < self.config.concurrency && self.phase == Phase::Serving && !too_late {
            let Some(start) = self.queue.pop_front() else {
                break;
            };
            let limit = self.config.tasks[start.task].max_concurrent;
            let full = limit > 0 && self.running_by_task[start.task] >= limit;
            let Some(held) = self.leases.get_mut(start.slot).filter(|held| held.place == Place::Unended) else {
                // Cancelled, lost or given back since; its turn goes to the next of its task.
                self.stale_starts = self.stale_starts.saturating_sub(1);
                if !full && let Some(next) = self.crowded[start.task].pop_front() {
                    self.queue.push_front(next);
                }
                continue;
            };
            if full {
                self.crowded[start.task].push_back(start);
                continue;
            }
            held.handler = true;
            self.running += 1;
            self.running_by_task[start.task] += 1;
            if let Some(timeout) = start.delivery.attempt_timeout.and_then(wire::to_duration) {
                self.set_timer(start.slot, Some((now + timeout, TimeoutStage::Cancel)));
            }
            self.counters.started += 1;
            self.actions.push_back(Action::Start(start));
        }
    }

    pub(super) fn on_finished(&mut self, slot: Slot, finish: Finish) {
        let stopping = self.phase != Phase::Serving;
        let Some(held) = self.leases.get_mut(slot).filter(|held| held.handler) else {
            return;
        };
        held.handler = false;
        let (task, place) = (held.task, held.place);
        let timeout = held.timed_out.then(|| timeout_ending(held));
        self.set_timer(slot, None);
        self.running -= 1;
        self.running_by_task[task] -= 1;
        if let Some(start) = self.crowded[task].pop_front() {
            self.queue.push_front(start);
        }
        match place {
            Place::Unended => {
                let ending = timeout.unwrap_or_else(|| self.ending(finish, stopping));
                self.end(slot, ending);
            }
            Place::Done => self.leases.done(slot),
            // Reported before the handler came back; the outbox still has it.
            Place::Ready | Place::Sent(_) | Place::Later => {}
        }
    }

    /// Puts the end of a delivery into the outbox.
    pub(super) fn end(&mut self, slot: Slot, ending: Ending) {
        use v1::job_result::Outcome;
        match &ending {
            Ending::Plain => self.counters.succeeded += 1,
            Ending::Full(outcome) => match **outcome {
                Outcome::Succeeded(_) => self.counters.succeeded += 1,
                Outcome::Failed(_) => self.counters.failed += 1,
                Outcome::Cancelled(_) | Outcome::Released(_) | Outcome::Snoozed(_) => {
                    self.counters.other_ends += 1;
                }
            },
        }
        if let Some(held) = self.leases.get_mut(slot) {
            held.ending = Some(ending);
            self.outbox.push(&mut self.leases, slot);
        }
    }

    pub(super) fn ending(&self, finish: Finish, stopping: bool) -> Ending {
        match finish {
            Finish::Succeeded(result) if result.is_empty() => Ending::Plain,
            Finish::Succeeded(result) if result.len() > self.terms.max_result_bytes => {
                let message =
                    format!("the result has {} bytes; the limit is {}", result.len(), self.terms.max_result_bytes);
                full(TaskError::new("ResultTooLarge", message).never_retry().into_outcome())
            }
            Finish::Succeeded(result) => full(v1::job_result::Outcome::Succeeded(v1::Succeeded { result })),
            // It obeyed the stop of its worker, not somebody who wants the job cancelled.
            Finish::Error(error) if error.is_cancelled() && self.has_told_to_stop() => {
                released("the handler stopped with its worker", None)
            }
            Finish::Error(error) => full(error.into_outcome()),
            Finish::Aborted if stopping => released("the worker stopped before the handler was done", None),
            Finish::Aborted => released("the handler's task was aborted", None),
        }
    }

    pub(super) fn on_timeout(&mut self, now: Duration, slot: Slot, stage: TimeoutStage) {
        let Some(held) = self.leases.get_mut(slot) else {
            return;
        };
        if !held.handler {
            return;
        }
        match stage {
            TimeoutStage::Cancel => {
                held.timed_out = true;
                self.actions.push_back(Action::Cancel(slot, CancelCause::Timeout));
                self.set_timer(slot, Some((now + TIMEOUT_CLEANUP, TimeoutStage::Abort)));
            }
            TimeoutStage::Abort => {
                if !self.config.tasks[held.task].blocking {
                    self.actions.push_back(Action::Abort(slot));
                }
                self.set_timer(slot, Some((now + TIMEOUT_REPORT, TimeoutStage::Report)));
            }
            TimeoutStage::Report => {
                if held.place == Place::Unended {
                    tracing::warn!(job = held.job_id, "a handler goes on after its timeout and cannot be stopped");
                    let ending = timeout_ending(held);
                    self.end(slot, ending);
                }
            }
        }
    }

    /// The lease is gone: the handler should stop, and what it answers is dropped (C5).
    pub(super) fn lose(&mut self, slot: Slot) {
        let Some(held) = self.leases.get(slot) else {
            return;
        };
        tracing::debug!(job = held.job_id, "lease lost");
        self.counters.lost += 1;
        let never_started = !held.handler && held.place == Place::Unended;
        if held.handler {
            self.actions.push_back(Action::Cancel(slot, CancelCause::LeaseLost));
        }
        self.outbox.remove(&mut self.leases, slot);
        if never_started {
            self.forget_start();
        }
    }

    /// A job that waits was ended. It is skipped when its turn comes, but those that are skipped must not pile up
    /// behind handlers that take long.
    pub(super) fn forget_start(&mut self) {
        self.stale_starts += 1;
        // At powers of two only, since to count them all takes a while.
        if self.stale_starts < STALE_STARTS || !self.stale_starts.is_power_of_two() {
            return;
        }
        let waiting = self.queue.len() + self.crowded.iter().map(VecDeque::len).sum::<usize>();
        if self.stale_starts * 2 >= waiting {
            self.stale_starts = 0;
            let leases = &self.leases;
            for line in self.crowded.iter_mut().chain([&mut self.queue]) {
                line.retain(|start| leases.get(start.slot).is_some_and(|held| held.place == Place::Unended));
            }
        }
    }

    /// Sets the timer of a job, in place of the one that it had.
    pub(super) fn set_timer(&mut self, slot: Slot, timer: Option<(Duration, TimeoutStage)>) {
        let Some(held) = self.leases.get_mut(slot) else {
            return;
        };
        if let Some((at, stage)) = std::mem::replace(&mut held.timer, timer) {
            self.timers.remove(&(at, slot, stage));
        }
        if let Some((at, stage)) = timer {
            self.timers.insert((at, slot, stage));
        }
    }

    /// Handlers that asked for it are told, once the session must have ended without us.
    pub(super) fn cancel_orphans(&mut self) {
        self.orphans_cancelled = true;
        for (slot, held) in self.leases.iter() {
            if held.handler && self.config.tasks[held.task].cancel_when_orphaned {
                self.actions.push_back(Action::Cancel(slot, CancelCause::LeaseLost));
            }
        }
    }
}

pub(super) fn full(outcome: v1::job_result::Outcome) -> Ending {
    Ending::Full(Box::new(outcome))
}

pub(super) fn released(reason: &str, delay: Option<Duration>) -> Ending {
    full(v1::job_result::Outcome::Released(v1::Released {
        reason: reason.to_owned(),
        delay: delay.map(wire::duration),
    }))
}

fn timeout_ending(held: &mut Held) -> Ending {
    let error = held.timeout.take().map_or_else(TaskError::timeout, |judged| *judged);
    full(error.into_outcome())
}
