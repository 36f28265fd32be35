//! What people ask of schedules (C12, C17).

use std::sync::Arc;

use super::{
    ask::{Ask, Verb},
    batch::{Answer, RareRow},
    decide::Core,
    effect::Refusal,
    fact::Fact,
    questions::Known,
    schedule::{Schedule, ScheduleRecord},
    ticks::Fired,
    types::{Now, Timestamp},
};

/// What the row of a schedule weighs besides its arguments, about.
const SCHEDULE_ROW_BYTES: usize = 1_024;

/// Whether a verb about a schedule can be decided.
pub(super) enum Readiness {
    Ready,
    /// It must be looked up first who carries this queueing lock.
    Carrier(Arc<str>),
    /// It waits for ids, or for room in a batch.
    Starved,
}

impl Core {
    /// Prepares for a verb about a schedule: its ticks that have come before are decided before it.
    pub(super) fn ready_for_schedule(&mut self, now: Now, ask: &Ask, known: Option<&Known>) -> Readiness {
        let Some(record) = ask.verb.schedule().and_then(|name| self.state.schedules.get(name)) else {
            return Readiness::Ready;
        };
        let schedule = record.schedule.clone();
        match self.fire_schedule(now, &schedule.name, known) {
            Fired::All => {}
            Fired::Full | Fired::Starved => return Readiness::Starved,
            Fired::Carrier(value) => return Readiness::Carrier(value),
        }
        if !matches!(ask.verb, Verb::RunSchedule(_)) {
            return Readiness::Ready;
        }
        match &schedule.job.queueing_lock {
            Some(value) if !self.knows_carrier(value, known) => Readiness::Carrier(value.clone()),
            _ if self.ids_left() == 0 => Readiness::Starved,
            _ => Readiness::Ready,
        }
    }

    /// Creates a schedule, or changes it. To put the same again changes nothing.
    pub(super) fn put_schedule(&mut self, now: Now, schedule: Arc<Schedule>, paused: bool) -> Result<Answer, Refusal> {
        let (paused, decided) = match self.state.schedules.get(&schedule.name) {
            Some(record) if record.schedule == schedule => return Ok(Answer::ScheduleChanged),
            // Ticks of another expression count from now on.
            Some(record) if record.schedule.cron != schedule.cron => (record.paused, record.decided.max(now.db)),
            Some(record) => (record.paused, record.decided),
            None if self.state.schedules.len() >= self.limits.schedules_max => {
                let value = self.limits.schedules_max as u64;
                return Err(Refusal::LimitReached { limit: "schedules of the cell", value });
            }
            None => (paused, now.db),
        };
        self.set_schedule(schedule, paused, decided);
        Ok(Answer::ScheduleChanged)
    }

    /// Takes a schedule away.
    pub(super) fn delete_schedule(&mut self, name: &Arc<str>) -> Result<Answer, Refusal> {
        self.scheduled(name)?;
        self.record(Fact::ScheduleDeleted { name: name.clone() });
        self.draft.batch.rare_rows.push(RareRow::ScheduleDeleted(name.clone()));
        Ok(Answer::ScheduleChanged)
    }

    /// Pauses a schedule, or resumes it: then its ticks count from now on.
    pub(super) fn pause_schedule(&mut self, now: Now, name: &Arc<str>, paused: bool) -> Result<Answer, Refusal> {
        let record = self.scheduled(name)?;
        if record.paused == paused {
            return Ok(Answer::ScheduleChanged);
        }
        let decided = if paused { record.decided } else { record.decided.max(now.db) };
        self.set_schedule(record.schedule.clone(), paused, decided);
        Ok(Answer::ScheduleChanged)
    }

    /// Defers a schedule's job now, whether it is paused or not.
    pub(super) fn run_schedule(&mut self, now: Now, name: &Arc<str>, known: Option<&Known>) -> Result<Answer, Refusal> {
        let schedule = self.scheduled(name)?.schedule.clone();
        if let Some(by) = schedule.job.queueing_lock.as_ref().and_then(|value| self.carrier(value, known)) {
            return Err(Refusal::QueueingLockTaken { by, item: None });
        }
        self.refuse(&schedule.job)?;
        let first = self.create(now, &schedule.job_of(None));
        Ok(Answer::Deferred { first, count: 1 })
    }

    fn scheduled(&self, name: &str) -> Result<&ScheduleRecord, Refusal> {
        self.state.schedules.get(name).ok_or(Refusal::ScheduleNotFound)
    }

    fn set_schedule(&mut self, schedule: Arc<Schedule>, paused: bool, decided: Timestamp) {
        let name = schedule.name.clone();
        self.draft.bytes += SCHEDULE_ROW_BYTES + 2 * schedule.job.args.len();
        self.record(Fact::SchedulePut { schedule, paused, decided });
        self.draft.batch.rare_rows.push(RareRow::Schedule(self.state.schedules[&name].clone()));
    }
}
