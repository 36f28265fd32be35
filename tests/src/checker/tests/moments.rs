//! Due times, attempts and waits: C7, C8.

use super::*;

// ---- C7

#[test]
fn c7_a_start_before_the_due_time_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", due_in(SECOND_MICROS));
    story.due(job, SECOND_MICROS);
    let lease = story.start(job);
    story.succeed(lease);
    is_clean(&story);
    // As if the owner's clock ran ahead of the database's.
    for row in &mut story.history.database.log {
        for fact in &mut row.facts {
            if let Fact::Created { due, .. } = fact {
                *due = Timestamp(due.0 + SECOND_MICROS);
            }
        }
    }
    story.breaks(Clause::C7);
}

#[test]
fn c7_a_start_at_a_time_that_the_database_has_not_reached_is_wrong() {
    let (mut story, _) = one_success();
    for row in &mut story.history.database.log {
        let late = Timestamp(row.at.0 + 1);
        for fact in &mut row.facts {
            if let Fact::Started { at, .. } = fact {
                *at = late;
            }
        }
    }
    story.breaks(Clause::C7);
}

// ---- C8

fn one_retry() -> Story {
    let mut story = Story::new();
    let job = story.defer("a", retried(2, SECOND));
    let lease = story.start(job);
    story.fail_and_retry(lease, SECOND);
    story.due(job, SECOND_MICROS);
    let lease = story.start(job);
    story.fail(lease);
    story
}

#[test]
fn c8_a_start_after_the_last_attempt_is_wrong() {
    is_clean(&one_retry());
    let mut story = Story::new();
    let job = story.defer("a", retried(1, SECOND));
    let lease = story.start(job);
    story.fail_and_retry(lease, SECOND);
    story.due(job, SECOND_MICROS);
    let lease = story.start(job);
    story.fail(lease);
    story.breaks(Clause::C8);
}

#[test]
fn c8_a_wait_that_is_shorter_than_the_policy_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", retried(2, SECOND));
    let lease = story.start(job);
    story.fail_and_retry(lease, SECOND / 2);
    story.due(job, SECOND_MICROS);
    let lease = story.start(job);
    story.fail(lease);
    story.breaks(Clause::C8);
}

#[test]
fn c8_a_wait_that_was_shorter_for_the_workers_is_wrong() {
    let mut story = one_retry();
    let end = story.history.workers.iter_mut().find(|event| matches!(event.step, WorkerStep::End { .. }));
    end.expect("an end").stamp.mono += SECOND_MICROS;
    story.breaks(Clause::C8);
}

#[test]
fn c8_a_wrong_count_of_attempts_is_wrong() {
    let mut story = one_retry();
    story.history.database.outcomes[1].attempt = 1;
    story.breaks(Clause::C8);
}

#[test]
fn c8_a_worker_that_is_told_another_attempt_is_wrong() {
    let mut story = one_retry();
    for event in &mut story.history.workers {
        if let WorkerStep::Start { attempt, .. } = &mut event.step {
            *attempt = 2;
        }
    }
    story.breaks(Clause::C8);
}

#[test]
fn c8_a_job_that_goes_on_after_its_last_crash_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    for _ in 0..3 {
        let lease = story.start(job);
        story.worker_dies(&[lease]);
    }
    let lease = story.start(job);
    story.succeed(lease);
    story.breaks(Clause::C8);
}
