//! Who may start among the jobs of a lock: C9.

use cabbage_broker::core::{ask::By, state::Pause};

use super::*;

// ---- C9

#[test]
fn c9_two_running_jobs_of_one_lock_are_wrong() {
    let mut story = Story::new();
    let (first, second) = (story.defer("a", locked("l")), story.defer("b", locked("l")));
    let (first, second) = (story.start(first), story.start(second));
    story.succeed(first);
    story.succeed(second);
    story.breaks(Clause::C9);
}

#[test]
fn c9_a_later_job_that_starts_first_is_wrong() {
    let mut story = Story::new();
    let (first, second) = (story.defer("a", locked("l")), story.defer("b", locked("l")));
    for job in [second, first] {
        let lease = story.start(job);
        story.succeed(lease);
    }
    story.breaks(Clause::C9);
    let rules = Rules { everything_served: false, ..Rules::default() };
    assert!(check(&story.history, rules).is_clean());
}

#[test]
fn c9_a_job_that_waits_for_its_retry_lets_others_go_first() {
    let mut story = Story::new();
    let mut wish = retried(2, SECOND);
    wish.rare.lock = locked("l").rare.lock;
    let (first, second) = (story.defer("a", wish), story.defer("b", locked("l")));
    let lease = story.start(first);
    story.fail_and_retry(lease, SECOND);
    let lease = story.start(second);
    story.succeed(lease);
    story.due(first, SECOND_MICROS);
    let lease = story.start(first);
    story.succeed(lease);
    is_clean(&story);
}

#[test]
fn c9_a_paused_queue_lets_others_go_first() {
    let mut story = Story::new();
    let (first, second) = (story.defer("a", locked("l")), story.defer("b", locked("l")));
    // The second lies in another queue.
    for row in &mut story.history.database.log {
        for fact in &mut row.facts {
            if let Fact::Created { id, stream, .. } = fact {
                stream.queue.0 = u32::from(id.0 == second);
            }
        }
    }
    story.row(vec![Fact::QueuePaused { no: STREAM.queue, pause: Some(pause()) }]);
    let lease = story.start(second);
    story.succeed(lease);
    story.row(vec![Fact::QueuePaused { no: STREAM.queue, pause: None }]);
    let lease = story.start(first);
    story.succeed(lease);
    is_clean(&story);
}

#[test]
fn c9_a_strict_job_waits_for_all_before_it() {
    let mut story = Story::new();
    let first = story.defer("a", locked("l"));
    story.row(vec![Fact::QueuePaused { no: STREAM.queue, pause: Some(pause()) }]);
    let second = story.defer("b", strict("l"));
    for job in [second, first] {
        let lease = story.start(job);
        story.succeed(lease);
    }
    story.breaks(Clause::C9);
}

#[test]
fn c9_a_strict_job_that_is_the_first_goes_first() {
    let mut story = Story::new();
    let (first, second) = (story.defer("a", strict("l")), story.defer("b", locked("l")));
    for job in [second, first] {
        let lease = story.start(job);
        story.succeed(lease);
    }
    story.breaks(Clause::C9);
}

/// Whoever pauses a queue.
fn pause() -> Pause {
    Pause { since: Timestamp(1), by: By::default() }
}
