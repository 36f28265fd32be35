//! Ticks: C12.

use super::*;

/// Five ticks, one after the other.
fn five_ticks(missed: MissedTicks) -> Story {
    ticks_of(missed, &[1, 2, 3, 4, 5])
}

fn ticks_of(missed: MissedTicks, seconds: &[i64]) -> Story {
    let mut story = Story::new();
    story.put_schedule("s", missed);
    for second in seconds {
        story.tick_of("s", *second);
    }
    story.delete_schedule("s");
    story
}

/// The tick that was decided as the `nth`, from 0.
fn tick(story: &mut Story, nth: usize) -> (&mut Timestamp, &mut TickOutcome) {
    let facts = story.history.database.log.iter_mut().flat_map(|row| &mut row.facts);
    let mut ticks = facts.filter_map(|fact| match fact {
        Fact::ScheduleTicked { tick, outcome, .. } => Some((tick, outcome)),
        _ => None,
    });
    ticks.nth(nth).expect("a tick")
}

#[test]
fn c12_each_tick_once_is_right() {
    for missed in [MissedTicks::All, MissedTicks::Latest, MissedTicks::Skip] {
        let story = five_ticks(missed);
        is_clean(&story);
        assert_eq!(story.check().counts.ticks, 5);
    }
}

#[test]
fn c12_a_tick_that_is_left_out_is_wrong_where_all_are_deferred() {
    ticks_of(MissedTicks::All, &[1, 2, 4]).breaks(Clause::C12);
    let latest = ticks_of(MissedTicks::Latest, &[1, 2, 4]);
    is_clean(&latest);
    assert_eq!(latest.check().counts.ticks_skipped, 1);
}

#[test]
fn c12_ticks_that_end_before_the_schedule_does_are_wrong() {
    let mut story = Story::new();
    story.put_schedule("s", MissedTicks::Latest);
    story.tick_of("s", 1);
    // Two seconds with much else to do.
    for _ in 0..1_000 {
        story.pass(2_000);
        story.row(Vec::new());
    }
    let mut undeleted = story.clone();
    undeleted.tick();
    undeleted.breaks(Clause::C12);
    story.delete_schedule("s");
    story.breaks(Clause::C12);
}

#[test]
fn c12_a_tick_that_is_deferred_twice_is_wrong() {
    ticks_of(MissedTicks::All, &[1, 2, 2, 3]).breaks(Clause::C12);
}

#[test]
fn c12_a_tick_that_comes_early_is_wrong() {
    let mut story = five_ticks(MissedTicks::Latest);
    let ahead = tick(&mut story, 4).0;
    ahead.0 += SECOND_MICROS;
    let told = *ahead;
    story.history.database.jobs.last_mut().expect("a job").tick = Some(("s".into(), told));
    story.breaks(Clause::C12);
}

#[test]
fn c12_an_instant_that_is_no_tick_is_wrong() {
    let mut story = five_ticks(MissedTicks::Latest);
    let odd = tick(&mut story, 4).0;
    odd.0 -= 1;
    let told = *odd;
    story.history.database.jobs.last_mut().expect("a job").tick = Some(("s".into(), told));
    story.breaks(Clause::C12);
}

#[test]
fn c12_an_old_tick_in_place_of_the_newest_is_wrong() {
    let mut story = Story::new();
    story.put_schedule("s", MissedTicks::Latest);
    story.pass(5 * SECOND_MICROS);
    story.row(Vec::new());
    story.row(Vec::new());
    story.tick_of("s", 1);
    story.tick_of("s", 5);
    story.delete_schedule("s");
    story.breaks(Clause::C12);
}

#[test]
fn c12_a_tick_is_missed_by_the_rule_only() {
    // Late by more than the grace, and skipped.
    let mut story = Story::new();
    story.put_schedule("s", MissedTicks::Skip);
    story.pass(70 * SECOND_MICROS);
    let tick = Timestamp(1_070 * SECOND_MICROS);
    story.row(Vec::new());
    story.row(Vec::new());
    let missed = |tick| Fact::ScheduleTicked { name: "s".into(), tick, outcome: TickOutcome::Missed };
    let mut late = story.clone();
    late.pass(61 * SECOND_MICROS);
    late.row(vec![missed(Timestamp(tick.0))]);
    late.row(Vec::new());
    late.delete_schedule("s");
    is_clean(&late);
    // In time, and skipped all the same.
    story.row(vec![missed(tick)]);
    story.delete_schedule("s");
    story.breaks(Clause::C12);
}

#[test]
fn c12_a_job_of_a_tick_that_is_not_there_is_lost() {
    let mut story = five_ticks(MissedTicks::All);
    let last = story.history.database.jobs.pop().expect("a job");
    assert!(story.check().breaks(Clause::C12));
    // As a job like any other, it is lost too.
    assert!(story.check().breaks(Clause::C1));
    story.history.database.jobs.push(JobRow { tick: None, ..last });
    assert!(story.check().breaks(Clause::C12));
}

#[test]
fn c12_a_job_that_no_tick_deferred_is_wrong() {
    let mut story = five_ticks(MissedTicks::All);
    *tick(&mut story, 4).1 = TickOutcome::Missed;
    story.breaks(Clause::C12);
}

#[test]
fn c12_a_tick_that_a_limit_refused_is_wrong_here() {
    let mut story = five_ticks(MissedTicks::All);
    *tick(&mut story, 4).1 = TickOutcome::LimitReached;
    story.breaks(Clause::C12);
}

#[test]
fn c12_a_schedule_that_was_acknowledged_and_is_not_there_is_wrong() {
    let mut story = five_ticks(MissedTicks::All);
    story.put_schedule("t", MissedTicks::All);
    story.last_row().facts.clear();
    story.breaks(Clause::C12);
}

#[test]
fn c12_a_schedule_that_ticks_after_its_end_is_wrong() {
    let mut story = five_ticks(MissedTicks::All);
    story.tick_of("s", 6);
    story.breaks(Clause::C12);
}

#[test]
fn a_schedule_that_nobody_asked_for_is_unexpected() {
    let mut story = five_ticks(MissedTicks::All);
    story.history.clients.retain(|event| !event.request.starts_with("put"));
    story.breaks(Clause::Unexpected);
}
