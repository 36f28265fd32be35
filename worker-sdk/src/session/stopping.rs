//! How a worker ends: drain, finish what runs, give back the rest, wait for the acknowledgements, half-close.

use std::time::Duration;

use super::{Action, CancelCause, Place, Session, running::released};

/// How often a draining worker says for which jobs it waits.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// How many of them it names at most.
const JOBS_NAMED: usize = 20;
/// After the time to finish: how long aborted handlers may take before their jobs are given back under them.
const ABORT_WAIT: Duration = Duration::from_secs(1);
/// How long to wait for acknowledgements, after everything has ended.
const FLUSH_WAIT: Duration = Duration::from_secs(5);
/// The same after a second signal.
const FLUSH_WAIT_NOW: Duration = Duration::from_secs(1);
/// How long the broker may take to end the stream after it was half-closed.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Moves forward only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Takes jobs.
    Serving,
    /// Takes none, and lets handlers finish. Says for which ones it waits, next time at `report_at`.
    Draining { until: Duration, report_at: Duration },
    /// Waits for aborted handlers; then gives their jobs back.
    Aborting { until: Duration },
    /// Waits for the acknowledgements.
    Flushing { until: Duration },
    /// Waits for the broker to end the stream.
    Closing { until: Duration },
    /// Done.
    Stopped,
}

impl Phase {
    pub(super) fn next_wakeup(self) -> Option<Duration> {
        match self {
            Self::Serving | Self::Stopped => None,
            Self::Draining { until, report_at } => Some(until.min(report_at)),
            Self::Aborting { until } | Self::Flushing { until } | Self::Closing { until } => Some(until),
        }
    }

    pub(super) fn wants_link(self) -> bool {
        !matches!(self, Self::Closing { .. } | Self::Stopped)
    }
}

impl Session {
    pub(super) fn stop(&mut self, now: Duration, drain: Duration) {
        if self.phase != Phase::Serving {
            return;
        }
        self.phase = Phase::Draining { until: now + drain, report_at: now };
        self.capacity_revision += 1;
        self.release_queued();
    }

    pub(super) fn stop_now(&mut self, now: Duration) {
        if self.phase == Phase::Stopped || matches!(self.phase, Phase::Closing { .. }) {
            return;
        }
        if self.phase == Phase::Serving {
            self.stop(now, Duration::ZERO);
        }
        self.abort_running();
        self.release_running();
        self.phase = Phase::Flushing { until: now + FLUSH_WAIT_NOW };
    }

    /// Moves on if what the phase waits for is there.
    pub(super) fn advance_stop(&mut self, now: Duration) {
        if self.phase == Phase::Serving && self.config.until_caught_up && self.is_caught_up() {
            self.stop(now, Duration::ZERO);
        }
        if let Phase::Draining { until, report_at } = self.phase
            && now >= report_at
        {
            self.report_running(until.saturating_sub(now));
            self.phase = Phase::Draining { until, report_at: now + REPORT_EVERY };
        }
        if let Phase::Draining { until, .. } = self.phase
            && now >= until
            && self.running > 0
        {
            self.abort_running();
            self.phase = Phase::Aborting { until: now + ABORT_WAIT };
        }
        if let Phase::Aborting { until } = self.phase
            && (now >= until || self.running == 0)
        {
            self.release_running();
            self.phase = Phase::Flushing { until: now + FLUSH_WAIT };
        }
        if let Phase::Draining { until, .. } = self.phase
            && now >= until
        {
            self.phase = Phase::Flushing { until: now + FLUSH_WAIT };
        }
        let out_of_time = matches!(self.phase, Phase::Flushing { until } if now >= until);
        let nothing_left = self.leases.owed() == 0
            && match self.phase {
                Phase::Draining { .. } => self.running == 0,
                Phase::Flushing { .. } => true,
                Phase::Serving | Phase::Aborting { .. } | Phase::Closing { .. } | Phase::Stopped => false,
            };
        let drained = self.active.as_ref().is_none_or(|link| link.drain_acked);
        if out_of_time || (nothing_left && drained) {
            self.close(now);
        }
        if let Phase::Closing { until } = self.phase
            && (self.active.is_none() || now >= until)
        {
            if let Some(link) = self.active.take() {
                self.actions.push_back(Action::Close(link.id));
            }
            self.phase = Phase::Stopped;
            self.actions.push_back(Action::Stopped);
        }
    }

    /// Tells people for which jobs a stop waits.
    fn report_running(&self, left: Duration) {
        if self.running == 0 {
            return;
        }
        let running = self.leases.iter().filter(|(_, held)| held.handler).take(JOBS_NAMED);
        let jobs: Vec<_> =
            running.map(|(_, held)| format!("{} ({})", held.job_id, self.config.tasks[held.task].name)).collect();
        let unnamed = self.running - jobs.len();
        tracing::info!(running = self.running, unnamed, jobs = jobs.join(", "), ?left, "waits for running jobs");
    }

    fn is_caught_up(&self) -> bool {
        self.leases.owed() == 0 && self.running == 0 && self.active.as_ref().is_some_and(|link| link.caught_up)
    }

    fn close(&mut self, now: Duration) {
        if let Some(opening) = self.opening.take() {
            self.actions.push_back(Action::Close(opening.id));
        }
        if let Some(link) = &self.active {
            self.actions.push_back(Action::HalfClose(link.id));
        }
        self.reconnect_at = None;
        self.phase = Phase::Closing { until: now + CLOSE_WAIT };
    }

    /// Jobs that were not started go back at once: other workers may have them.
    fn release_queued(&mut self) {
        let crowded = self.crowded.iter_mut().flat_map(std::mem::take);
        let queued: Vec<_> =
            std::mem::take(&mut self.queue).into_iter().chain(crowded).map(|start| start.slot).collect();
        for slot in queued {
            if self.leases.get(slot).is_some_and(|held| held.place == Place::Unended) {
                self.end(slot, released("the worker stops", None));
            }
        }
    }

    fn abort_running(&mut self) {
        for (slot, held) in self.leases.iter() {
            if held.handler {
                self.actions.push_back(Action::Cancel(slot, CancelCause::Stopping));
                if !self.config.tasks[held.task].blocking {
                    self.actions.push_back(Action::Abort(slot));
                }
            }
        }
    }

    /// Whether every handler that still runs was told to stop with its worker.
    pub(super) fn has_told_to_stop(&self) -> bool {
        match self.phase {
            Phase::Serving | Phase::Draining { .. } => false,
            Phase::Aborting { .. } | Phase::Flushing { .. } | Phase::Closing { .. } | Phase::Stopped => true,
        }
    }

    fn release_running(&mut self) {
        let running: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, held)| held.handler && held.place == Place::Unended)
            .map(|(slot, _)| slot)
            .collect();
        for slot in running {
            self.end(slot, released("the worker stopped before the handler was done", None));
        }
    }
}
