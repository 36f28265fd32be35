//! Schedules in the core (C12): which ticks are decided when, and what changes of a schedule do to them.

use std::{sync::Arc, time::Duration};

use cabbage_broker::{
    core::{
        ask::{Ask, By, Verb},
        cron::Cron,
        decide::Core,
        effect::{CallId, Effect, Refusal, Reply},
        event::Event,
        fact::Fact,
        job::JobSpec,
        limits::Limits,
        schedule::{MISSED_TICKS_MAX, MissedTicks, Schedule, TickOutcome},
        state::State,
        types::{JobId, Now, Timestamp},
    },
    store::memory::Tables,
};

use crate::rig::spec;

/// 2023-11-14T22:13:20Z.
const START: i64 = 1_700_000_000;

/// An owner, its tables, and a clock that the test moves.
struct Owner {
    core: Core,
    tables: Tables,
    seconds: i64,
    limits: Limits,
    calls: u64,
}

impl Owner {
    fn new(limits: Limits) -> Self {
        let mut tables = Tables::new();
        let term = tables.take_term(1);
        let core = Core::new(State::default(), 0, term, limits.clone(), now(START));
        Self { core, tables, seconds: START, limits, calls: 0 }
    }

    /// Commits until nothing is left to commit. Gives the ticks that were decided, and what calls were answered.
    fn settle(&mut self) -> (Vec<(i64, TickOutcome)>, Vec<Reply>) {
        let (mut ticks, mut replies) = (Vec::new(), Vec::new());
        let now = now(self.seconds);
        self.core.handle(now, Event::Tick);
        while let Some(batch) = self.core.take_batch(now) {
            if batch.writes() {
                let committed = self.tables.commit(now.db, self.tables.term(), &batch).expect("a right batch");
                self.core.committed(batch.number, committed.at);
                let (first, end) = (JobId(committed.ids.start), JobId(committed.ids.end));
                self.core.handle(now, Event::IdsReserved { first, end });
            }
            ticks.extend(batch.facts.iter().filter_map(|fact| match fact {
                Fact::ScheduleTicked { tick, outcome, .. } => Some((tick.0 / 1_000_000 - START, *outcome)),
                _ => None,
            }));
            replies.extend(batch.effects.into_iter().filter_map(|effect| match effect {
                Effect::Reply(_, reply) => Some(reply),
                _ => None,
            }));
        }
        (ticks, replies)
    }

    /// The ticks that are decided once so many more seconds have passed, in seconds since the start.
    fn after(&mut self, seconds: i64) -> Vec<(i64, TickOutcome)> {
        self.seconds += seconds;
        self.settle().0
    }

    /// The same, of those that deferred a job.
    fn deferred_after(&mut self, seconds: i64) -> Vec<i64> {
        let is_deferred = |outcome: &TickOutcome| matches!(outcome, TickOutcome::Deferred(_));
        self.after(seconds).iter().filter(|(_, outcome)| is_deferred(outcome)).map(|(tick, _)| *tick).collect()
    }

    fn ask(&mut self, verb: Verb) -> Reply {
        self.calls += 1;
        let ask = Ask { call: CallId(self.calls), request: None, by: By::default(), verb };
        self.core.handle(now(self.seconds), Event::Ask(ask));
        self.settle().1.pop().expect("an answer")
    }

    fn put(&mut self, schedule: Schedule) {
        let reply = self.ask(Verb::PutSchedule { schedule: Arc::new(schedule), paused: false });
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    }

    /// Another owner takes over; the database's clock shows something else to it.
    fn taken_over(&mut self, seconds: i64) {
        self.seconds += seconds;
        let term = self.tables.take_term(2);
        let mut state = State::default();
        self.tables.log().iter().flat_map(|row| row.facts.iter()).for_each(|fact| state.apply(fact));
        let row = self.tables.position().number;
        self.core = Core::new(state, row, term, self.limits.clone(), now(self.seconds));
    }
}

fn now(seconds: i64) -> Now {
    let db = Timestamp(seconds * 1_000_000);
    Now { db, db_latest: db, mono: Duration::from_secs(seconds.unsigned_abs()) }
}

fn schedule(cron: &str, missed: MissedTicks) -> Schedule {
    let cron = Cron::parse(cron, Cron::zone_of("").expect("UTC")).expect("an expression");
    Schedule { name: "s".into(), cron, missed, job: Arc::new(spec("q")) }
}

#[test]
fn ticks_that_come_one_by_one_are_deferred_under_every_rule() {
    for rule in [MissedTicks::Latest, MissedTicks::Skip, MissedTicks::All] {
        let mut owner = Owner::new(Limits::default());
        owner.put(schedule("* * * * * *", rule));
        assert_eq!(owner.deferred_after(0), [0; 0], "not before its time");
        let ticks: Vec<i64> = (0..5).flat_map(|_| owner.deferred_after(1)).collect();
        assert_eq!(ticks, [1, 2, 3, 4, 5]);
    }
}

#[test]
fn of_ticks_that_come_together_the_rule_says_which_are_deferred() {
    for (rule, expected) in
        [(MissedTicks::Latest, vec![4]), (MissedTicks::Skip, vec![4]), (MissedTicks::All, vec![1, 2, 3, 4])]
    {
        let mut owner = Owner::new(Limits::default());
        owner.put(schedule("* * * * * *", rule));
        assert_eq!(owner.deferred_after(4), expected, "{rule:?}");
        assert_eq!(owner.deferred_after(1), [5], "{rule:?}");
    }
}

#[test]
fn a_tick_that_is_late_within_the_grace_runs_and_later_it_is_skipped() {
    for (late, outcome) in [(60, true), (61, false)] {
        let mut owner = Owner::new(Limits::default());
        // Each hour: the next comes 40 seconds after the start is 2,800 s old.
        owner.put(schedule("0 * * * *", MissedTicks::Skip));
        let ticks = owner.after(2_800 + late);
        assert_eq!(ticks.iter().map(|(tick, _)| *tick).collect::<Vec<_>>(), [2_800]);
        assert_eq!(matches!(ticks[0].1, TickOutcome::Deferred(_)), outcome, "{late} s late: {ticks:?}");
        assert_eq!(ticks[0].1 == TickOutcome::Missed, !outcome);
        assert_eq!(owner.deferred_after(3_600 - late), [6_400], "the schedule goes on");
    }
}

#[test]
fn the_newest_thousand_of_missed_ticks_are_deferred() {
    let mut owner = Owner::new(Limits::default());
    owner.put(schedule("* * * * * *", MissedTicks::All));
    let ticks = owner.deferred_after(3_000);
    assert_eq!(ticks.len(), MISSED_TICKS_MAX);
    assert_eq!((ticks[0], ticks[MISSED_TICKS_MAX - 1]), (2_001, 3_000));
    assert!(ticks.windows(2).all(|pair| pair[0] + 1 == pair[1]));
}

#[test]
fn ticks_wait_for_ids_and_none_is_lost() {
    let mut owner = Owner::new(Limits { reserve_ids_min: 1, ..Limits::default() });
    owner.put(schedule("* * * * * *", MissedTicks::All));
    assert_eq!(owner.deferred_after(50), (1..=50).collect::<Vec<_>>());
}

#[test]
fn a_clock_that_was_set_back_brings_no_tick_twice() {
    let mut owner = Owner::new(Limits::default());
    owner.put(schedule("*/10 * * * * *", MissedTicks::All));
    assert_eq!(owner.deferred_after(20), [10, 20]);
    owner.taken_over(-15);
    assert_eq!(owner.deferred_after(15), [0; 0], "the clock shows what it showed before");
    assert_eq!(owner.deferred_after(10), [30]);
}

#[test]
fn an_owner_that_takes_over_goes_on_where_the_one_before_ended() {
    let mut owner = Owner::new(Limits::default());
    owner.put(schedule("*/10 * * * * *", MissedTicks::All));
    assert_eq!(owner.deferred_after(10), [10]);
    owner.taken_over(25);
    assert_eq!(owner.deferred_after(0), [20, 30]);
}

#[test]
fn to_put_the_same_again_changes_nothing() {
    let mut owner = Owner::new(Limits::default());
    owner.put(schedule("*/10 * * * * *", MissedTicks::All));
    assert_eq!(owner.deferred_after(10), [10]);
    let (rows, audit) = (owner.tables.log().len(), owner.tables.audit().len());
    owner.put(schedule("*/10 * * * * *", MissedTicks::All));
    assert_eq!((owner.tables.log().len(), owner.tables.audit().len()), (rows, audit));
    assert_eq!(owner.deferred_after(10), [20]);
}

#[test]
fn a_change_is_decided_after_the_ticks_that_came_before_it() {
    let mut owner = Owner::new(Limits::default());
    owner.put(schedule("*/10 * * * * *", MissedTicks::All));
    owner.seconds += 16;
    // The owner has not come to the tick of second 10 yet.
    owner.put(schedule("*/7 * * * * *", MissedTicks::All));
    let job = owner.tables.jobs().values().next().expect("the tick was decided");
    assert!(job.job.spec.metadata.contains(&("cabbage.tick".to_owned(), "2023-11-14T22:13:30Z".to_owned())));
    assert_eq!(owner.tables.jobs().len(), 1, "of the new expression nothing has come");
    // :42, :49 and :56, but not :35, which was before the change.
    assert_eq!(owner.deferred_after(20), [22, 29, 36]);
}

#[test]
fn a_paused_schedule_does_not_tick_and_goes_on_from_its_resumption() {
    let mut owner = Owner::new(Limits::default());
    owner.put(schedule("*/10 * * * * *", MissedTicks::All));
    owner.ask(Verb::PauseSchedule("s".into()));
    assert_eq!(owner.after(35), []);
    owner.put(Schedule { missed: MissedTicks::Latest, ..schedule("*/10 * * * * *", MissedTicks::All) });
    assert_eq!(owner.after(10), [], "to put it again does not resume it");
    owner.ask(Verb::ResumeSchedule("s".into()));
    assert!(owner.tables.jobs().is_empty(), "what came while it was paused is no tick");
    assert_eq!(owner.deferred_after(10), [50]);
}

#[test]
fn a_taken_queueing_lock_skips_the_tick_and_the_schedule_goes_on() {
    let mut owner = Owner::new(Limits::default());
    let plain = schedule("*/10 * * * * *", MissedTicks::All);
    let job = JobSpec { queueing_lock: Some("q".into()), ..JobSpec::clone(&plain.job) };
    owner.put(Schedule { job: Arc::new(job), ..plain });
    let first = owner.after(10);
    let [(10, TickOutcome::Deferred(id))] = first[..] else { panic!("{first:?}") };
    assert_eq!(owner.after(20), [(20, TickOutcome::QueueingLockTaken(id)), (30, TickOutcome::QueueingLockTaken(id))]);
    let run = owner.ask(Verb::RunSchedule("s".into()));
    assert_eq!(run, Reply::Refused(Refusal::QueueingLockTaken { by: id, item: None }));
    owner.ask(Verb::Cancel(id));
    assert_eq!(owner.deferred_after(10), [40]);
}

#[test]
fn a_limit_of_schedules_is_named() {
    let mut owner = Owner::new(Limits { schedules_max: 1, ..Limits::default() });
    owner.put(schedule("0 * * * *", MissedTicks::All));
    let second = Schedule { name: "other".into(), ..schedule("0 * * * *", MissedTicks::All) };
    let reply = owner.ask(Verb::PutSchedule { schedule: Arc::new(second), paused: false });
    assert_eq!(reply, Reply::Refused(Refusal::LimitReached { limit: "schedules of the cell", value: 1 }));
    owner.put(schedule("1 * * * *", MissedTicks::All));
    owner.ask(Verb::DeleteSchedule("s".into()));
    assert_eq!(owner.ask(Verb::DeleteSchedule("s".into())), Reply::Refused(Refusal::ScheduleNotFound));
}
