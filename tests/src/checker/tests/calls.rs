//! What clients are promised: C1, C2, C3, C10, C11, and that nothing is there unasked.

use super::*;

// ---- C1

#[test]
fn c1_an_acknowledged_job_that_is_not_there_is_lost() {
    let (mut story, _) = one_success();
    story.invoke("b");
    story.deferred("b", 77);
    story.breaks(Clause::C1);
}

#[test]
fn c1_a_job_of_the_log_without_a_row_is_lost() {
    let (mut story, _) = one_success();
    // Its client never heard of it.
    story.history.clients.pop();
    story.history.clients.retain(|event| !matches!(event.step, ClientStep::Deferred { .. }));
    story.history.database.jobs.clear();
    story.breaks(Clause::C1);
}

#[test]
fn c1_an_acknowledgement_before_the_commit_is_wrong() {
    let (mut story, _) = one_success();
    story.history.clients[1].stamp.wall = story.history.database.log[1].at.0 - 1;
    story.breaks(Clause::C1);
}

// ---- C2

#[test]
fn c2_a_repeated_call_that_makes_a_second_job_is_wrong() {
    let (mut story, _) = one_success();
    story.invoke("a");
    let twin = story.create("a", plain());
    story.deferred("a", twin);
    let lease = story.start(twin);
    story.succeed(lease);
    story.breaks(Clause::C2);
}

#[test]
fn c2_an_unknown_call_that_made_two_jobs_is_wrong() {
    let mut story = Story::new();
    story.invoke("a");
    for _ in 0..2 {
        let job = story.create("a", plain());
        let lease = story.start(job);
        story.succeed(lease);
    }
    story.client("a", ClientStep::Unknown { detail: "gone".into() });
    story.breaks(Clause::C2);
}

#[test]
fn c2_a_refused_call_that_made_a_job_is_wrong() {
    let mut story = Story::new();
    story.invoke("a");
    let job = story.create("a", plain());
    story.client("a", ClientStep::Refused { reason: "LIMIT".into(), by: None });
    let lease = story.start(job);
    story.succeed(lease);
    story.breaks(Clause::C2);
}

// ---- C3

#[test]
fn c3_a_job_that_is_not_final_after_the_drain_is_lost() {
    let (mut story, _) = one_success();
    story.defer("b", plain());
    story.breaks(Clause::C3);
    let rules = Rules { drained: false, ..Rules::default() };
    assert!(check(&story.history, rules).is_clean());
}

#[test]
fn c3_a_session_that_ends_with_an_open_delivery_strands_its_job() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    let lease = story.start(job);
    story.row(vec![Fact::SessionClosed { no: SessionNo(0) }]);
    story.succeed(lease);
    story.breaks(Clause::C3);
}

// ---- C10

#[test]
fn c10_two_jobs_that_never_started_with_one_queueing_lock_are_wrong() {
    let mut story = Story::new();
    let first = story.defer("a", queueing("q"));
    let lease = story.start(first);
    let second = story.defer("b", queueing("q"));
    story.succeed(lease);
    let lease = story.start(second);
    story.succeed(lease);
    is_clean(&story);
    let (third, fourth) = (story.defer("c", queueing("q")), story.defer("d", queueing("q")));
    for job in [third, fourth] {
        let lease = story.start(job);
        story.succeed(lease);
    }
    story.breaks(Clause::C10);
}

#[test]
fn c10_a_refusal_that_names_a_job_without_the_lock_is_wrong() {
    let (mut story, lease) = one_success();
    story.invoke("b");
    story.client("b", ClientStep::Refused { reason: "QUEUEING_LOCK_TAKEN".into(), by: Some(lease.job) });
    story.breaks(Clause::C10);
}

// ---- C11

#[test]
fn c11_a_start_after_the_ok_of_a_cancel_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    let lost = story.start(job);
    story.client("cancel", ClientStep::Invoke { asked: Asked::Cancel { job } });
    story.client("cancel", ClientStep::Cancelled { state: 3 });
    let mut kept = story.clone();
    kept.succeed(lost);
    is_clean(&kept);
    story.worker_dies(&[lost]);
    let again = story.start(job);
    story.succeed(again);
    story.breaks(Clause::C11);
}

#[test]
fn c11_a_job_that_was_told_to_stop_and_starts_again_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    let lost = story.start(job);
    story.row(vec![Fact::CancelRequested { id: JobId(job) }]);
    story.worker_dies(&[lost]);
    let again = story.start(job);
    story.succeed(again);
    story.breaks(Clause::C11);
}

#[test]
fn c11_a_cancelled_job_that_ends_otherwise_is_wrong() {
    let (mut story, lease) = one_success();
    story.client("cancel", ClientStep::Invoke { asked: Asked::Cancel { job: lease.job } });
    story.client("cancel", ClientStep::Cancelled { state: 6 });
    story.breaks(Clause::C11);
}

// ---- nobody asked for it

#[test]
fn a_job_that_nobody_asked_for_is_unexpected() {
    let mut story = Story::new();
    let job = story.create("a", plain());
    let lease = story.start(job);
    story.succeed(lease);
    story.breaks(Clause::Unexpected);
}

#[test]
fn a_row_of_a_job_that_the_log_does_not_know_is_unexpected() {
    let (mut story, _) = one_success();
    story.invoke("b");
    story.history.database.jobs.push(JobRow { id: 99, key: Some("b".into()), queueing_lock: None, tick: None });
    story.breaks(Clause::Unexpected);
}
