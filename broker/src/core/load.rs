//! Starting from a state: every index is built anew, and sessions get their grace.

use std::collections::BTreeMap;

use super::{
    decide::{Core, Draft},
    index::Index,
    job::{Phase, Record, Run},
    limits::Limits,
    place::Place,
    sessions::{Held, Session},
    state::State,
    types::{JobId, Now, Stream},
};

impl Core {
    /// Builds every index from a state. Sessions that are known keep their streams; others are orphans.
    pub(super) fn rebuild(&mut self, state: State, now: Now) {
        self.state = state;
        self.index = Index::default();
        self.draft = Draft::default();
        let known = std::mem::take(&mut self.sessions);
        let mut by_no = known.by_no;
        self.sessions.timers.clear();
        let mut kept: BTreeMap<_, _> = self
            .state
            .sessions
            .keys()
            .map(|no| (*no, by_no.remove(no).unwrap_or_else(|| Session::orphan(now.mono))))
            .collect();
        for session in kept.values_mut() {
            session.leases.clear();
            session.held_bytes = 0;
            session.tainted = 0;
            session.told_caught_up = false;
            for load in session.tasks.values_mut() {
                load.held = 0;
            }
        }
        self.sessions.by_no = kept;
        let Limits { watchdog, grace, session: whole, .. } = self.limits;
        for (no, session) in &self.sessions.by_no {
            if let Some(link) = session.link {
                self.sessions.by_link.insert(link, *no);
            }
            self.sessions.timers.insert((session.deadline(watchdog, grace, whole), *no));
        }
        let with_run = |(id, record): (JobId, &Record)| (id, record.clone(), self.state.run(id));
        let jobs: Vec<(JobId, Record, Option<Run>)> = self.state.jobs.iter().map(with_run).collect();
        for (id, record, run) in jobs {
            self.ensure_lane(record.stream);
            if matches!(record.phase, Phase::Waiting) {
                self.latest_due = self.latest_due.max(record.due);
            }
            self.index.add(id, &record, run, self.limits.timeout_slack);
            if let Some(run) = run {
                let held = Held { task: record.stream.task, bytes: record.args_bytes, tainted: record.crashes > 0 };
                if let Some(session) = self.sessions.by_no.get_mut(&run.session) {
                    session.hold(id, held);
                }
            }
        }
        let ticks: Vec<_> =
            self.state.schedules.iter().map(|(name, record)| (name.clone(), record.next_tick())).collect();
        for (name, next) in ticks {
            self.index.expect_tick(&name, next);
        }
        let places: Vec<(Place, u64)> = self.state.places.iter().map(|(place, state)| (*place, state.count)).collect();
        for (place, count) in places {
            match place {
                Place::Stream(stream) | Place::Due(stream) => self.ensure_lane(stream),
                Place::Lock(lock, queue, task) | Place::Strict(lock, queue, task) => {
                    self.ensure_lane(Stream { queue, task, priority: 0 });
                    self.index.join_lane(lock, (queue, task));
                    self.index.lanes.entry((queue, task)).or_default().parked_behind_locks += count;
                }
            }
        }
        // A state that was built from the tables has in memory what ran; what is parked may go before it.
        let waiting: Vec<JobId> = self
            .index
            .streams
            .iter()
            .filter(|(stream, _)| self.state.place(Place::Stream(**stream)).is_some())
            .flat_map(|(_, jobs)| jobs.ready.iter().chain(jobs.tainted.iter()))
            .collect();
        for id in waiting {
            self.settle_in(now, id);
        }
    }
}
