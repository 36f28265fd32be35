//! For each clause a history that keeps it, and histories broken by hand.

use std::time::Duration;

use cabbage_broker::core::{
    fact::Fact,
    job::Verdict,
    place::{Place, PlaceKey},
    types::{JobId, SessionNo, Timestamp},
};
use cabbage_proto::v1::SettleCode;

use super::{
    Clause, Rules, Sometimes, check,
    story::{STREAM, Story, due_in, locked, nonce, plain, queueing, retried, strict},
};
use crate::history::{Asked, ClientStep, End, JobRow, LeaseName, WorkerStep};

const SECOND: Duration = Duration::from_secs(1);
const SECOND_MICROS: i64 = 1_000_000;

/// One job that succeeded.
fn one_success() -> (Story, LeaseName) {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    let lease = story.start(job);
    story.succeed(lease);
    (story, lease)
}

/// A delivery that ended with its worker; its job runs again and succeeds.
fn one_crash() -> (Story, LeaseName) {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    let lost = story.start(job);
    story.worker_dies(&[lost]);
    let again = story.start(job);
    story.succeed(again);
    (story, lost)
}

#[track_caller]
fn is_clean(story: &Story) {
    let report = story.check();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_run_with_everything_in_it_is_clean_and_counted() {
    let mut story = Story::new();
    let first = story.defer("first", locked("l"));
    let second = story.defer("second", locked("l"));
    let third = story.defer("third", strict("l"));
    let late = story.defer("late", due_in(SECOND_MICROS));
    let flaky = story.defer("flaky", retried(2, SECOND));
    let only = story.defer("only", queueing("q"));
    story.invoke("refused");
    story.client("refused", ClientStep::Refused { reason: "QUEUEING_LOCK_TAKEN".into(), by: Some(only) });
    story.invoke("unknown");
    let unknown = story.create("unknown", plain());
    story.client("unknown", ClientStep::Unknown { detail: "broken pipe".into() });
    story.invoke("unknown");
    story.client("unknown", ClientStep::Deferred { jobs: vec![unknown], repeated: true });

    let lease = story.start(flaky);
    story.fail_and_retry(lease, SECOND);
    let lost = story.start(first);
    story.takeover();
    story.worker_dies(&[lost]);
    story.ended(lost, End::Succeeded);
    story.answered(lost, End::Succeeded, SettleCode::LeaseLost, false);
    for job in [first, second, third, only, unknown] {
        let lease = story.start(job);
        story.succeed(lease);
    }
    story.due(late, SECOND_MICROS);
    story.due(flaky, SECOND_MICROS);
    for job in [late, flaky] {
        let lease = story.start(job);
        story.succeed(lease);
    }
    let dropped = story.defer("dropped", due_in(SECOND_MICROS));
    story.client("cancel", ClientStep::Invoke { asked: Asked::Cancel { job: dropped } });
    story.row(vec![Fact::Finished { id: JobId(dropped), verdict: Verdict::Cancelled }]);
    story.outcome(LeaseName { job: dropped, delivery: 1, nonce: 0 }, Verdict::Cancelled, None);
    story.client("cancel", ClientStep::Cancelled { state: 6 });

    let report = story.check();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.missed(&Sometimes::ALL), []);
    let counts = &report.counts;
    assert_eq!((counts.attempted, counts.acknowledged, counts.refused, counts.unknown), (9, 8, 1, 0));
    assert_eq!((counts.jobs, counts.succeeded, counts.cancelled, counts.unfinished), (8, 7, 1, 0));
    assert_eq!((counts.deliveries, counts.executions, counts.duplicates), (9, 9, 1));
    assert_eq!((counts.duplicates_explained, counts.takeovers_with_jobs_in_flight), (1, 1));
    assert_eq!(serde_json::to_value(&report).expect("JSON")["counts"]["lease_lost"], 1);
}

#[test]
fn an_event_that_was_never_reached_is_missed() {
    let (story, _) = one_success();
    assert_eq!(story.check().missed(&[Sometimes::Retry, Sometimes::Locked]), [Sometimes::Retry, Sometimes::Locked]);
}

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
    story.row(vec![Fact::QueuePaused { no: STREAM.queue, paused: true }]);
    let lease = story.start(second);
    story.succeed(lease);
    story.row(vec![Fact::QueuePaused { no: STREAM.queue, paused: false }]);
    let lease = story.start(first);
    story.succeed(lease);
    is_clean(&story);
}

#[test]
fn c9_a_strict_job_waits_for_all_before_it() {
    let mut story = Story::new();
    let first = story.defer("a", locked("l"));
    story.row(vec![Fact::QueuePaused { no: STREAM.queue, paused: true }]);
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

// ---- the table of transitions

#[test]
fn a_scheduled_job_that_starts_is_no_transition_of_the_table() {
    let mut story = Story::new();
    let job = story.defer("a", due_in(SECOND_MICROS));
    story.pass(SECOND_MICROS);
    let lease = story.start(job);
    story.succeed(lease);
    story.breaks(Clause::Transitions);
}

#[test]
fn a_waiting_job_that_succeeds_is_no_transition_of_the_table() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    story.row(vec![Fact::Finished { id: JobId(job), verdict: Verdict::Succeeded }]);
    assert!(story.check().breaks(Clause::Transitions));
}

#[test]
fn a_waiting_job_that_comes_due_is_no_transition_of_the_table() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    story.due(job, 0);
    let lease = story.start(job);
    story.succeed(lease);
    story.breaks(Clause::Transitions);
}

// ---- terms

#[test]
fn a_row_of_a_lost_term_after_the_takeover_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    story.takeover();
    is_clean_but_unfinished(&story);
    let lease = story.start(job);
    story.succeed(lease);
    is_clean(&story);
    let stale = story.history.database.log[1].clone();
    story.row(vec![]);
    let row = story.last_row();
    (row.term, row.nonce) = (stale.term, stale.nonce);
    story.breaks(Clause::Terms);
}

#[track_caller]
fn is_clean_but_unfinished(story: &Story) {
    let report = check(&story.history, Rules { drained: false, ..Rules::default() });
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_gap_in_the_log_is_wrong() {
    let (mut story, _) = one_success();
    story.last_row().number += 1;
    story.breaks(Clause::Terms);
}

#[test]
fn a_row_that_follows_another_row_than_the_one_before_is_wrong() {
    let (mut story, _) = one_success();
    story.takeover();
    is_clean(&story);
    story.last_row().after_nonce += 1;
    story.breaks(Clause::Terms);
}

#[test]
fn a_row_that_is_older_than_the_one_before_is_wrong() {
    let (mut story, _) = one_success();
    story.takeover();
    story.last_row().at = Timestamp(1);
    story.breaks(Clause::Terms);
}

#[test]
fn a_start_under_the_nonce_of_another_term_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    story.start(job);
    if let Fact::Started { nonce, .. } = &mut story.last_row().facts[0] {
        *nonce += 1;
    }
    let report = story.check();
    assert!(report.breaks(Clause::Terms), "{report}");
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
    story.history.database.jobs.push(JobRow { id: 99, key: Some("b".into()), queueing_lock: None });
    story.breaks(Clause::Unexpected);
}

// ---- one place

#[test]
fn a_parked_job_that_comes_back_is_right_and_one_that_starts_where_it_lies_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    let (id, place) = (JobId(job), Place::Stream(STREAM));
    let key = PlaceKey { sort: 0, id };
    story.row(vec![Fact::Parked { id, place, key }]);
    let record = story.record(job);
    let mut good = story.clone();
    good.row(vec![Fact::Unparked { id, place, key, record }]);
    let lease = good.start(job);
    good.succeed(lease);
    is_clean(&good);
    let lease = story.start(job);
    story.succeed(lease);
    story.breaks(Clause::OnePlace);
}

#[test]
fn a_parked_job_that_forgot_its_attempts_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    let (id, place) = (JobId(job), Place::Stream(STREAM));
    let key = PlaceKey { sort: 0, id };
    let record = cabbage_broker::core::job::Record { deliveries: 1, ..story.record(job) };
    story.row(vec![Fact::Parked { id, place, key }, Fact::Unparked { id, place, key, record }]);
    let lease = story.start(job);
    story.succeed(lease);
    story.breaks(Clause::OnePlace);
}

#[test]
fn a_row_of_a_job_that_is_not_parked_is_wrong() {
    let (mut story, lease) = one_success();
    story.history.database.parked.push(lease.job);
    story.breaks(Clause::OnePlace);
}
