//! Queues: pausing them (C11), and what is in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
};

use super::{
    ask::By,
    batch::{Answer, RareRow},
    decide::{Core, WaitingFor},
    effect::Refusal,
    fact::Fact,
    index::LaneKey,
    job::Verdict,
    place::Place,
    state::Pause,
    types::{JobId, Now, QueueNo, Stream, TaskNo},
};

/// A queue at this moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueNow {
    /// If it is paused: since when, by whom, and why.
    pub pause: Option<Pause>,
    /// Jobs that are due later. One that is parked counts as such until it is fetched.
    pub scheduled: u64,
    /// Jobs that are due and do not run, by what they wait for.
    pub waiting: BTreeMap<WaitingFor, u64>,
    /// Jobs that run.
    pub running: u64,
    /// Jobs that became final, by how they ended, but for those that were opened again or erased by hand.
    pub finished: BTreeMap<Verdict, u64>,
    /// The job in memory that was created first of those that could start.
    pub oldest_startable: Option<JobId>,
    /// Live sessions that serve it, those in their grace too.
    pub sessions: u32,
}

impl Core {
    /// No job of the queue starts any more.
    pub(super) fn pause(&mut self, now: Now, name: &Arc<str>, by: &By) -> Result<Answer, Refusal> {
        let names = self.limits.names_max;
        if self.state.queue_no(name).is_none() && self.state.queues.len() >= names {
            return Err(Refusal::LimitReached { limit: "queue names of the cell", value: names as u64 });
        }
        let queue = self.name_queue(name);
        // Who pauses what is paused changes nothing: it is still the first who did it.
        let before = self.state.paused.get(&queue).cloned();
        let pause = before.unwrap_or_else(|| {
            let pause = Pause { since: now.db, by: by.clone() };
            self.set_pause(queue, Some(pause.clone()));
            pause
        });
        Ok(Answer::Paused(pause))
    }

    /// Jobs of the queue start again.
    pub(super) fn resume(&mut self, name: &str) -> Result<Answer, Refusal> {
        let queue = self.state.queue_no(name).ok_or(Refusal::QueueNotFound)?;
        if self.state.is_paused(queue) {
            self.set_pause(queue, None);
        }
        Ok(Answer::Resumed)
    }

    fn set_pause(&mut self, queue: QueueNo, pause: Option<Pause>) {
        let paused = pause.is_some();
        self.draft.batch.rare_rows.push(RareRow::Pause { queue, pause: pause.clone() });
        self.record(Fact::QueuePaused { no: queue, pause });
        let lanes: Vec<LaneKey> = self.index.lanes.range(lanes_of(queue)).map(|(lane, _)| *lane).collect();
        for key in lanes {
            if let Some(lane) = self.index.lanes.get_mut(&key) {
                lane.paused = paused;
            }
            // Another job may be the first of its lock now.
            self.index.lane_changed(key);
        }
    }

    /// What is in these queues. What it costs depends on how many streams they have and how many jobs run, not on how
    /// many wait or are final.
    pub fn queues(&self, queues: &[QueueNo]) -> Vec<QueueNow> {
        let mut running: BTreeMap<QueueNo, u64> = BTreeMap::new();
        for job in self.sessions.by_no.values().flat_map(|session| session.leases.keys()) {
            if let Some(record) = self.state.jobs.get(*job) {
                *running.entry(record.stream.queue).or_default() += 1;
            }
        }
        let of = |queue| QueueNow { running: running.get(queue).copied().unwrap_or_default(), ..self.queue(*queue) };
        queues.iter().map(of).collect()
    }

    /// The same of one, but for what runs.
    fn queue(&self, queue: QueueNo) -> QueueNow {
        let mut now = QueueNow { pause: self.state.paused.get(&queue).cloned(), ..QueueNow::default() };
        for (stream, jobs) in self.index.streams.range(streams_of(queue)) {
            now.scheduled += jobs.scheduled.len() as u64;
            let ready = jobs.ready.len() + jobs.tainted.len();
            let waits_for = self.stream_waits_for(*stream);
            now.wait(waits_for, ready as u64);
            now.wait(behind_a_lock(waits_for), jobs.blocked.len() as u64);
            if matches!(waits_for, WaitingFor::Ready | WaitingFor::Limited) {
                let first = [jobs.ready.first(), jobs.tainted.first()].into_iter().flatten().min();
                now.oldest_startable = now.oldest_startable.into_iter().chain(first).min();
            }
        }
        let streams = streams_of(queue);
        let places = Place::Stream(*streams.start())..=Place::Stream(*streams.end());
        for (place, state) in self.state.places.range(places) {
            if let Place::Stream(stream) = place {
                now.wait(self.stream_waits_for(*stream), state.count);
            }
        }
        let places = Place::Due(*streams.start())..=Place::Due(*streams.end());
        now.scheduled += self.state.places.range(places).map(|(_, state)| state.count).sum::<u64>();
        for ((queue, task), lane) in self.index.lanes.range(lanes_of(queue)) {
            let stream = Stream { queue: *queue, task: *task, priority: 0 };
            now.wait(behind_a_lock(self.stream_waits_for(stream)), lane.parked_behind_locks);
        }
        let finished = (queue, Verdict::Succeeded)..=(queue, Verdict::Reopened);
        let finished = self.state.finished.range(finished);
        now.finished = finished
            .map(|((_, verdict), count)| (*verdict, count.saturating_sub(self.state.forgotten(queue, *verdict))))
            .filter(|(_, count)| *count > 0)
            .collect();
        let serves = |queues: &Option<BTreeSet<QueueNo>>| queues.as_ref().is_none_or(|queues| queues.contains(&queue));
        now.sessions = self.sessions.by_no.values().filter(|session| serves(&session.queues)).count() as u32;
        now
    }
}

impl QueueNow {
    fn wait(&mut self, what_for: WaitingFor, count: u64) {
        if count > 0 {
            *self.waiting.entry(what_for).or_default() += count;
        }
    }
}

/// What a job waits for behind a lock, if its stream as a whole waits for this.
fn behind_a_lock(whole: WaitingFor) -> WaitingFor {
    match whole {
        WaitingFor::Ready | WaitingFor::Limited | WaitingFor::Blocked => WaitingFor::Blocked,
        WaitingFor::Paused | WaitingFor::Unserved => whole,
    }
}

fn lanes_of(queue: QueueNo) -> RangeInclusive<LaneKey> {
    (queue, TaskNo(0))..=(queue, TaskNo(u32::MAX))
}

fn streams_of(queue: QueueNo) -> RangeInclusive<Stream> {
    let end = |task, priority| Stream { queue, task: TaskNo(task), priority };
    end(0, i8::MIN)..=end(u32::MAX, i8::MAX)
}
