//! Schedules: what people ask of them, and what must hold of their ticks (C12).

use std::{sync::Arc, time::Duration};

use cabbage_broker::core::{
    ask::Verb,
    batch::Batch,
    cron::Cron,
    fact::Fact,
    job::{DueAt, JobSpec},
    schedule::{MissedTicks, SCHEDULE_LABEL, Schedule, TICK_LABEL, TickOutcome},
    state::State,
    types::Timestamp,
};
use rand::{Rng, seq::IndexedRandom};

use crate::{people, world::World};

/// What the limits of the world say.
const GRACE: Duration = Duration::from_mins(1);

const NAMES: [&str; 3] = ["hourly", "nightly", "weekly"];

impl World {
    /// Somebody puts a schedule, or asks something of one.
    pub(crate) fn client_schedules(&mut self) {
        let name: Arc<str> = (*NAMES.choose(&mut self.rng).expect("there are names")).into();
        let verb = match self.rng.random_range(0..12) {
            0..=5 => Verb::PutSchedule { schedule: self.schedule(name), paused: self.rng.random_bool(0.2) },
            6 => Verb::PauseSchedule(name),
            7 | 8 => Verb::ResumeSchedule(name),
            9 => Verb::DeleteSchedule(name),
            _ => Verb::RunSchedule(name),
        };
        self.asks_for(verb);
    }

    fn schedule(&mut self, name: Arc<str>) -> Arc<Schedule> {
        if let Some(record) = self.tables.schedules().get(&name)
            && self.rng.random_bool(0.3)
        {
            // A worker starts, and puts what it always puts.
            return record.schedule.clone();
        }
        let missed = *[MissedTicks::Latest, MissedTicks::Skip, MissedTicks::All].choose(&mut self.rng).expect("rules");
        let text = if missed == MissedTicks::All { "*/15 * * * * *" } else { "* * * * * *" };
        let text = *[text, "*/5 * * * *", "*/20 * * * * *"].choose(&mut self.rng).expect("expressions");
        let cron = Cron::parse(text, Cron::zone_of("Australia/Lord_Howe").expect("a zone")).expect("an expression");
        let spec = JobSpec::clone(&people::spec(&mut self.rng, self.now.db));
        // Many jobs at once behind one lock are fetched 64 at a time, which is more than the memory of these worlds.
        let job = Arc::new(JobSpec { due: DueAt::Once, deadline: None, lock: None, strict: false, ..spec });
        Arc::new(Schedule { name, cron, missed, job })
    }

    /// The database's clock is set, back or ahead, while nobody owns the cell.
    pub(crate) fn set_clock(&mut self) {
        if self.rng.random_bool(0.5) {
            let step = self.rng.random_range(0..90_000_000);
            self.now.db = Timestamp(self.now.db.0 - step);
            self.now.db_latest = Timestamp(self.now.db_latest.0 - step);
            self.clock_set_back = true;
        } else {
            let step = Duration::from_secs(self.rng.random_range(0..300));
            self.now.db = self.now.db.plus(step);
            self.now.db_latest = self.now.db_latest.plus(step);
        }
    }

    /// Every schedule is taken away, so that its jobs come to an end.
    pub(crate) fn end_schedules(&mut self) {
        for name in NAMES {
            self.asks_for(Verb::DeleteSchedule(name.into()));
        }
    }

    /// Ticks that are committed.
    pub(crate) fn note_ticks(&mut self, batch: &Batch) {
        let mut deferred = 0;
        for fact in batch.facts.iter() {
            match fact {
                Fact::ScheduleDeleted { name } => self.ledger.ticks.retain(|(schedule, _)| schedule != name),
                Fact::ScheduleTicked { name, tick, outcome: TickOutcome::Deferred(_) } => {
                    let is_new = self.ledger.ticks.insert((name.clone(), *tick));
                    assert!(is_new, "C12: tick {tick:?} of schedule {name} is deferred once");
                    self.reached.note("tick deferred");
                    if self.clock_set_back {
                        self.reached.note("tick after the clock was set back");
                    }
                    deferred += 1;
                }
                Fact::ScheduleTicked { outcome: TickOutcome::Missed, .. } => self.reached.note("tick missed"),
                Fact::ScheduleTicked { outcome: TickOutcome::QueueingLockTaken(_), .. } => {
                    self.reached.note("tick met its queueing lock");
                }
                _ => {}
            }
        }
        if deferred > 3 {
            self.reached.note("ticks caught up");
        }
    }
}

/// C12, of the decisions of a batch: each tick after its time, in order, with its job, and none left out that the
/// schedule's rule does not allow to be.
pub(crate) fn check_batch(before: &State, batch: &Batch, now: Timestamp) {
    let mut state = before.clone();
    for fact in batch.facts.iter() {
        if let Fact::ScheduleTicked { name, tick, outcome } = fact {
            let record = &state.schedules[name];
            let Schedule { cron, missed, .. } = &*record.schedule;
            assert!(!record.paused, "a paused schedule does not tick");
            assert!(*tick <= now, "C7: tick {tick:?} of {name} is not decided early");
            assert_eq!(cron.next_after(Timestamp(tick.0 - 1)), Some(*tick), "a tick of {name}");
            if *missed == MissedTicks::All {
                assert_eq!(cron.next_after(record.decided), Some(*tick), "C12: no tick of {name} is left out");
            }
            match outcome {
                TickOutcome::Deferred(id) => {
                    let job = batch.jobs.iter().find(|job| job.id == *id).expect("the job comes in the same batch");
                    let label = |key: &str| {
                        job.spec.metadata.iter().find(|(label, _)| label == key).map(|(_, value)| value.as_str())
                    };
                    assert_eq!(label(SCHEDULE_LABEL), Some(&**name));
                    assert_eq!(label(TICK_LABEL), Some(&*tick.to_rfc3339()));
                    // It is due when it was decided.
                    let late = job.due.since(*tick);
                    assert!(*missed != MissedTicks::Skip || late <= GRACE, "C12: {name} is late by {late:?}");
                    let is_latest = cron.next_after(*tick) > Some(job.due);
                    assert!(
                        *missed == MissedTicks::All || is_latest,
                        "C12: of those of {name}, the latest is deferred"
                    );
                }
                TickOutcome::Missed => {
                    assert_eq!(*missed, MissedTicks::Skip, "C12: a tick of {name} that must not be skipped");
                    assert!(now.since(*tick) > GRACE, "C12: a tick of {name} that was not late");
                }
                TickOutcome::QueueingLockTaken(_) | TickOutcome::LimitReached => {}
            }
        }
        state.apply(fact);
    }
}
