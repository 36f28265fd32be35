//! Deliveries and their ends: C4, C5, C6.

use super::*;

// ---- C4

#[test]
fn c4_a_second_delivery_needs_the_end_of_the_first() {
    let (story, _) = one_crash();
    is_clean(&story);
    let mut story = Story::new();
    let job = story.defer("a", plain());
    story.start(job);
    let second = story.start(job);
    story.succeed(second);
    // The first lease is still open: its job has two at once, and two runs of which none had ended.
    let report = story.check();
    assert!(report.breaks(Clause::C4), "{report}");
}

#[test]
fn c4_two_starts_in_the_log_are_two_live_leases() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    story.row(vec![story.started_fact(job)]);
    let lease = story.start(job);
    story.succeed(lease);
    story.breaks(Clause::C4);
}

#[test]
fn c4_a_lease_of_a_session_that_is_over_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    story.row(vec![Fact::SessionClosed { no: SessionNo(0) }]);
    let lease = story.start(job);
    story.succeed(lease);
    story.breaks(Clause::C4);
}

#[test]
fn c4_a_handler_without_a_lease_is_wrong() {
    let (mut story, lease) = one_success();
    story.worker(WorkerStep::Start { lease: LeaseName { nonce: nonce(9), ..lease }, attempt: 1 });
    story.breaks(Clause::C4);
}

#[test]
fn c4_one_lease_that_runs_twice_is_wrong() {
    let (mut story, lease) = one_success();
    story.worker(WorkerStep::Start { lease, attempt: 1 });
    assert!(story.check().breaks(Clause::C4));
}

#[test]
fn c4_a_handler_that_starts_before_its_start_is_committed_is_wrong() {
    let (mut story, _) = one_success();
    let start = story.history.workers.iter_mut().find(|event| matches!(event.step, WorkerStep::Start { .. }));
    start.expect("a start").stamp.wall -= 2 * SECOND_MICROS;
    story.breaks(Clause::C4);
}

// ---- C5

#[test]
fn c5_a_late_result_that_changed_nothing_is_right() {
    let (mut story, lost) = one_crash();
    story.ended(lost, End::Succeeded);
    story.answered(lost, End::Succeeded, SettleCode::LeaseLost, false);
    story.answered(lost, End::Succeeded, SettleCode::LeaseLost, true);
    is_clean(&story);
    assert_eq!(story.check().counts.lease_lost, 2);
}

#[test]
fn c5_a_result_that_was_refused_and_recorded_all_the_same_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    let lease = story.start(job);
    story.succeed(lease);
    story.answered(lease, End::Succeeded, SettleCode::LeaseLost, false);
    story.breaks(Clause::C5);
}

#[test]
fn c5_lease_lost_while_the_lease_lives_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", retried(3, Duration::ZERO));
    let lease = story.start(job);
    story.answered(lease, End::Failed, SettleCode::LeaseLost, false);
    story.ended(lease, End::Cancelled);
    story.outcome(lease, Verdict::Cancelled, None);
    story.row(vec![Fact::Finished { id: JobId(job), verdict: Verdict::Cancelled }]);
    story.breaks(Clause::C5);
}

#[test]
fn c5_a_late_result_that_was_taken_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    let lease = story.start(job);
    story.ended(lease, End::Succeeded);
    story.outcome(lease, Verdict::Succeeded, None);
    story.row(vec![Fact::Finished { id: JobId(job), verdict: Verdict::Succeeded }]);
    story.answered(lease, End::Succeeded, SettleCode::Recorded, true);
    story.breaks(Clause::C5);
}

// ---- C6

#[test]
fn c6_an_acknowledged_result_without_its_outcome_is_wrong() {
    let (mut story, _) = one_success();
    story.history.database.outcomes.clear();
    story.breaks(Clause::C6);
}

#[test]
fn c6_a_result_that_is_recorded_as_something_else_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    let lease = story.start(job);
    story.fail(lease);
    is_clean(&story);
    for event in &mut story.history.workers {
        if let WorkerStep::End { end, .. } | WorkerStep::Acknowledged { end, .. } = &mut event.step {
            *end = End::Succeeded;
        }
    }
    story.breaks(Clause::C6);
}

#[test]
fn c6_an_outcome_that_differs_from_the_log_is_wrong() {
    let (mut story, lease) = one_success();
    story.history.workers.retain(|event| !matches!(event.step, WorkerStep::Acknowledged { .. }));
    story.last_row().facts = vec![Fact::Finished { id: JobId(lease.job), verdict: Verdict::Cancelled }];
    story.breaks(Clause::C6);
}

#[test]
fn c6_a_delivery_with_two_outcomes_is_wrong() {
    let (mut story, _) = one_success();
    let twin = story.history.database.outcomes[0].clone();
    story.history.database.outcomes.push(twin);
    story.breaks(Clause::C6);
}

#[test]
fn c6_a_final_that_changes_is_wrong() {
    let (mut story, lease) = one_success();
    story.row(vec![Fact::Finished { id: JobId(lease.job), verdict: Verdict::Failed }]);
    story.breaks(Clause::C6);
}

#[test]
fn c6_a_final_that_starts_again_is_wrong() {
    let (mut story, lease) = one_success();
    let again = story.start(lease.job);
    story.succeed(again);
    assert!(story.check().breaks(Clause::C6));
}

#[test]
fn c6_a_result_that_is_recorded_twice_is_wrong() {
    let (mut story, lease) = one_success();
    story.answered(lease, End::Succeeded, SettleCode::AlreadyRecorded, false);
    is_clean(&story);
    story.answered(lease, End::Succeeded, SettleCode::Recorded, false);
    story.breaks(Clause::C6);
}

#[test]
fn c6_an_acknowledgement_before_the_commit_is_wrong() {
    let (mut story, _) = one_success();
    let commit = story.last_row().at.0;
    story.history.workers.last_mut().expect("an answer").stamp.wall = commit - 1;
    story.breaks(Clause::C6);
}

#[test]
fn c6_a_success_that_no_worker_reported_is_wrong() {
    let (mut story, _) = one_success();
    story
        .history
        .workers
        .retain(|event| !matches!(event.step, WorkerStep::End { .. } | WorkerStep::Acknowledged { .. }));
    story.breaks(Clause::C6);
}

#[test]
fn c6_a_verdict_conflict_without_a_conflict_is_wrong() {
    let (mut story, lease) = one_success();
    story.answered(lease, End::Failed, SettleCode::VerdictConflict, false);
    is_clean(&story);
    story.answered(lease, End::Succeeded, SettleCode::VerdictConflict, false);
    story.breaks(Clause::C6);
}
