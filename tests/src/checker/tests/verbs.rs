//! Finals that are opened again or erased: C17.

use super::*;

fn one_failure() -> (Story, i64) {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    let lease = story.start(job);
    story.fail(lease);
    (story, job)
}

fn one_reopened() -> (Story, LeaseName) {
    let (mut story, job) = one_failure();
    story.reopen(job, Verdict::Failed);
    let lease = story.start(job);
    story.succeed(lease);
    (story, lease)
}

#[test]
fn c17_a_final_that_was_opened_again_and_runs_again_is_right() {
    let (story, lease) = one_reopened();
    is_clean(&story);
    assert_eq!(lease.delivery, 3);
    assert_eq!(story.check().counts.reopened, 1);
}

#[test]
fn c17_a_job_that_is_opened_while_it_waits_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    story.reopen(job, Verdict::Failed);
    assert!(story.check().breaks(Clause::C17));
}

#[test]
fn c17_a_job_that_is_opened_with_old_attempts_is_wrong() {
    let (mut story, job) = one_failure();
    story.reopen(job, Verdict::Failed);
    let opened = story.history.database.log.iter_mut().flat_map(|row| &mut row.facts).find_map(|fact| match fact {
        Fact::Reopened { record, .. } => Some(record),
        _ => None,
    });
    opened.expect("it was opened").attempts = 1;
    let lease = story.start(job);
    story.succeed(lease);
    story.breaks(Clause::C17);
}

#[test]
fn c17_a_final_that_nobody_asked_to_open_is_wrong() {
    let (mut story, _) = one_reopened();
    story.history.clients.retain(|event| !event.request.starts_with("reopen"));
    story.breaks(Clause::C17);
}

#[test]
fn c17_a_verb_that_was_acknowledged_and_not_done_is_wrong() {
    let (mut story, job) = one_failure();
    story.client("reopen", ClientStep::Invoke { asked: Asked::Reopen { job } });
    let mut unanswered = story.clone();
    unanswered.client("reopen", ClientStep::Unknown { detail: "broken pipe".into() });
    is_clean(&unanswered);
    story.client("reopen", ClientStep::Reopened { state: 2 });
    story.breaks(Clause::C17);
}

#[test]
fn c17_a_verb_whose_outcome_was_unknown_may_be_done_twice() {
    let (mut story, job) = one_failure();
    story.reopen_unanswered(job, Verdict::Failed);
    story.client(&format!("reopen-{job}"), ClientStep::Unknown { detail: "broken pipe".into() });
    let lease = story.start(job);
    story.fail(lease);
    story.reopen(job, Verdict::Failed);
    let lease = story.start(job);
    story.succeed(lease);
    is_clean(&story);
}

#[test]
fn c17_an_erased_job_without_rows_is_right_and_one_with_rows_is_wrong() {
    let (mut story, job) = one_failure();
    let before = story.history.database.clone();
    story.erase(job, Verdict::Failed);
    is_clean(&story);
    let mut kept = story.clone();
    kept.history.database.jobs = before.jobs;
    kept.breaks(Clause::C17);
    story.history.database.outcomes = before.outcomes;
    story.breaks(Clause::C17);
}

#[test]
fn c17_a_job_that_nobody_asked_to_erase_is_wrong() {
    let (mut story, job) = one_failure();
    story.erase(job, Verdict::Failed);
    story.history.clients.retain(|event| !event.request.starts_with("erase"));
    story.breaks(Clause::C17);
}

#[test]
fn c17_a_job_that_is_gone_and_was_not_erased_is_lost() {
    let (mut story, job) = one_failure();
    story.history.database.jobs.retain(|row| row.id != job);
    story.breaks(Clause::C1);
}

#[test]
fn c6_an_erased_job_that_starts_is_wrong() {
    let (mut story, job) = one_failure();
    story.erase(job, Verdict::Failed);
    story.start(job);
    assert!(story.check().breaks(Clause::C6));
}

#[test]
fn c6_a_late_result_of_an_erased_job_is_not_found() {
    let (mut story, lease) = one_success();
    story.erase(lease.job, Verdict::Succeeded);
    let mut found = story.clone();
    found.answered(lease, End::Succeeded, SettleCode::AlreadyRecorded, false);
    is_clean(&found);
    story.answered(lease, End::Succeeded, SettleCode::NotFound, false);
    is_clean(&story);
    let (mut there, lease) = one_success();
    there.answered(lease, End::Succeeded, SettleCode::NotFound, false);
    there.breaks(Clause::C6);
}

#[test]
fn c8_a_reopened_job_begins_with_its_first_attempt() {
    let (mut story, lease) = one_reopened();
    let start = story.history.workers.iter_mut().find_map(|event| match &mut event.step {
        WorkerStep::Start { lease: of, attempt } if *of == lease => Some(attempt),
        _ => None,
    });
    *start.expect("it ran") = 2;
    story.breaks(Clause::C8);
}

#[test]
fn c10_a_reopened_job_that_never_started_takes_its_value_again() {
    let mut story = Story::new();
    let job = story.defer("a", queueing("q"));
    story.client("cancel", ClientStep::Invoke { asked: Asked::Cancel { job } });
    story.row(vec![Fact::Finished { id: JobId(job), verdict: Verdict::Cancelled }]);
    story.outcome(LeaseName { job, delivery: 1, nonce: 0 }, Verdict::Cancelled, None);
    story.client("cancel", ClientStep::Cancelled { state: 6 });
    story.reopen(job, Verdict::Cancelled);
    // It was opened without its value.
    let lease = story.start(job);
    story.succeed(lease);
    story.breaks(Clause::C10);
}
