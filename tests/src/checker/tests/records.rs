//! What the log may hold: transitions, terms, places.

use super::*;

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
fn a_parked_job_that_two_rows_have_is_wrong() {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    let (id, place) = (JobId(job), Place::Stream(STREAM));
    story.row(vec![Fact::Parked { id, place, key: PlaceKey { sort: 0, id } }]);
    story.history.database.parked.push(job);
    assert!(!story.check().breaks(Clause::OnePlace));
    story.history.database.parked.push(job);
    assert!(story.check().breaks(Clause::OnePlace));
}

#[test]
fn a_row_of_a_job_that_is_not_parked_is_wrong() {
    let (mut story, lease) = one_success();
    story.history.database.parked.push(lease.job);
    story.breaks(Clause::OnePlace);
}
