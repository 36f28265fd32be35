//! Ticks of schedules (C12): each is decided once, after its time, with the job that it defers in the same batch.

use std::{sync::Arc, time::Duration};

use super::{
    batch::RareRow,
    decide::Core,
    fact::Fact,
    questions::{Keys, Known, Waiting},
    schedule::{MISSED_TICKS_MAX, MissedTicks, ScheduleRecord, TickOutcome},
    types::{Now, Timestamp},
};

/// What a row of a tick weighs, about.
const TICK_ROW_BYTES: usize = 256;

/// How far the ticks of a schedule that have come were decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fired {
    /// All of them.
    All,
    /// The batch has no room for more.
    Full,
    /// There are no ids.
    Starved,
    /// It must be looked up first who carries this queueing lock.
    Carrier(Arc<str>),
}

impl Core {
    /// Decides the ticks that have come.
    pub(super) fn fire_ticks(&mut self, now: Now) {
        self.tick_starved = false;
        while let Some((at, name)) = self.index.ticks.first().cloned() {
            if at > now.db || self.is_full() {
                break;
            }
            match self.fire_schedule(now, &name, None) {
                // A tick moved on, so another is first.
                Fired::All => {}
                Fired::Full => break,
                Fired::Starved => {
                    self.tick_starved = true;
                    break;
                }
                Fired::Carrier(value) => self.ask_for_tick(&name, value),
            }
        }
    }

    /// Decides the ticks of one schedule that have come.
    pub(super) fn fire_schedule(&mut self, now: Now, name: &Arc<str>, known: Option<&Known>) -> Fired {
        let Some(record) = self.state.schedules.get(name) else { return Fired::All };
        let schedule = record.schedule.clone();
        let due = due_ticks(record, now.db, self.limits.tick_grace);
        self.drop_old_ids(now);
        for (tick, is_missed) in due {
            if self.is_full() {
                return Fired::Full;
            }
            let taken_by = match &schedule.job.queueing_lock {
                Some(value) if !is_missed => {
                    if !self.knows_carrier(value, known) {
                        return Fired::Carrier(value.clone());
                    }
                    self.carrier(value, known)
                }
                _ => None,
            };
            let outcome = if is_missed {
                TickOutcome::Missed
            } else if let Some(by) = taken_by {
                TickOutcome::QueueingLockTaken(by)
            } else if self.refuse(&schedule.job).is_err() {
                TickOutcome::LimitReached
            } else if self.ids_left() == 0 {
                return Fired::Starved;
            } else {
                TickOutcome::Deferred(self.create(now, &schedule.job_of(Some(tick))))
            };
            self.record(Fact::ScheduleTicked { name: name.clone(), tick, outcome });
            self.draft.bytes += TICK_ROW_BYTES;
            self.draft.batch.rare_rows.push(RareRow::Ticked(self.state.schedules[name].clone()));
        }
        Fired::All
    }

    /// What a tick waits for was looked up, or could not be.
    pub(super) fn tick_answered(&mut self, now: Now, name: &Arc<str>, known: Option<&Known>) {
        match known.map(|known| self.fire_schedule(now, name, Some(known))) {
            Some(Fired::Carrier(value)) => self.ask_for_tick(name, value),
            Some(Fired::All | Fired::Full | Fired::Starved) | None => self.expect_tick(name),
        }
    }

    /// The next tick of a schedule is found anew.
    pub(super) fn expect_tick(&mut self, name: &Arc<str>) {
        let next = self.state.schedules.get(name).and_then(ScheduleRecord::next_tick);
        self.index.expect_tick(name, next);
    }

    fn ask_for_tick(&mut self, name: &Arc<str>, value: Arc<str>) {
        self.index.expect_tick(name, None);
        let keys = Keys { queueing_locks: [value].into(), ..Keys::default() };
        self.questions.look_up(keys, Waiting::Tick(name.clone()));
    }
}

/// The ticks that have come and are to be decided, and whether each is skipped as missed.
fn due_ticks(record: &ScheduleRecord, now: Timestamp, grace: Duration) -> Vec<(Timestamp, bool)> {
    if record.paused {
        return Vec::new();
    }
    let rule = record.schedule.missed;
    let count = if rule == MissedTicks::All { MISSED_TICKS_MAX } else { 1 };
    let ticks = record.schedule.cron.newest(record.decided, now, count);
    ticks.into_iter().map(|tick| (tick, rule == MissedTicks::Skip && now.since(tick) > grace)).collect()
}
