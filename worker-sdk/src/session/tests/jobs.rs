use std::time::Duration;

use bytes::Bytes;
use cabbage_proto::v1::{
    self, SettleCode, job_result::Outcome, work_request::Frame as Up, work_response::Frame as Down,
};

use super::{
    log,
    rig::{Rig, config, secs},
};
use crate::{
    TaskError,
    session::{CancelCause, Event, Finish, outbox::MAX_RESULTS_PER_FRAME},
};

fn failed(outcome: Option<&v1::JobResult>) -> v1::Failed {
    match outcome.and_then(|result| result.outcome.clone()) {
        Some(Outcome::Failed(failed)) => failed,
        other => panic!("{other:?}"),
    }
}

fn kind(result: Option<&v1::JobResult>) -> String {
    failed(result).failure.expect("a failure").kind
}

#[test]
fn jobs_start_in_order_as_far_as_there_are_handlers() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 0), ("b", 0), ("c", 0), ("d", 0), ("e", 0), ("f", 0)]);
    assert_eq!(rig.started(), ["a", "b", "c", "d"]);
    rig.succeed("c");
    assert_eq!(rig.started(), ["a", "b", "c", "d", "e"]);
    assert_eq!(rig.session.load(), (6, 4));
}

#[test]
fn a_crowded_task_waits_and_lets_the_others_pass() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("s1", 1), ("s2", 1), ("s3", 1), ("a", 0)]);
    assert_eq!(rig.started(), ["s1", "a"]);
    // The next in the row is cancelled meanwhile: the one after it takes its turn.
    rig.frame(Down::CancelJob(v1::CancelJob { lease_token: Bytes::from_static(b"s2"), reason: 1 }));
    rig.succeed("s1");
    assert_eq!(rig.started(), ["s1", "a", "s3"]);
}

#[test]
fn successes_share_a_frame_and_leave_when_it_is_recorded() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 0), ("b", 0), ("c", 0)]);
    for token in ["a", "b"] {
        rig.succeed(token);
    }
    rig.finish("c", Finish::Succeeded(Bytes::from_static(b"7")));
    let (seq, plain, others) = rig.results().expect("results");
    assert_eq!((seq, plain), (1, vec!["a".to_owned(), "b".to_owned()]));
    assert!(matches!(&others[0].outcome, Some(Outcome::Succeeded(end)) if end.result == "7"));
    assert_eq!((rig.held(), rig.results()), (3, None));
    rig.ack(1, &[]);
    assert_eq!((rig.held(), rig.session.counters().recorded), (0, 3));
}

#[test]
fn an_exception_counts_in_its_own_ack_and_in_later_ones() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 0), ("b", 0), ("c", 0)]);
    for token in ["a", "b", "c"] {
        rig.succeed(token);
    }
    assert!(rig.results().is_some());
    rig.ack(0, &[("a", SettleCode::AlreadyRecorded), ("b", SettleCode::RetryLater)]);
    assert_eq!((rig.held(), rig.results()), (2, None));
    // Frame 1 is recorded but for `b`, which was excepted before.
    rig.ack(1, &[]);
    assert_eq!(rig.held(), 1);
    rig.now += secs(0.5);
    rig.event(Event::Tick);
    assert_eq!(rig.results(), Some((2, vec!["b".to_owned()], Vec::new())));
    rig.ack(2, &[("b", SettleCode::VerdictConflict)]);
    assert_eq!((rig.held(), rig.session.counters().refused, rig.session.counters().recorded), (0, 1, 2));
}

#[test]
fn results_wait_while_too_many_are_unacknowledged() {
    let mut rig = Rig::new(config());
    rig.accept(v1::Welcome { max_unacknowledged_results: 2, ..v1::Welcome::default() });
    rig.jobs(&[("a", 0), ("b", 0), ("c", 0)]);
    for token in ["a", "b", "c"] {
        rig.succeed(token);
    }
    assert_eq!(rig.results().map(|(_, plain, _)| plain.len()), Some(2));
    assert_eq!(rig.results(), None);
    rig.ack(1, &[]);
    assert_eq!(rig.results(), Some((2, vec!["c".to_owned()], Vec::new())));
}

#[test]
fn frames_of_results_are_capped() {
    let mut config = config();
    config.concurrency = 10_000;
    let mut rig = Rig::welcome_with(config);
    let mut frame = rig.jobs_frame(&[("a", 0)]);
    let model = frame.deliveries[0].clone();
    frame.deliveries = (0..MAX_RESULTS_PER_FRAME as u32 + 10)
        .map(|number| v1::Delivery { lease_token: number.to_be_bytes().to_vec().into(), ..model.clone() })
        .collect();
    rig.frame(Down::Jobs(frame));
    for slot in rig.seen.starts.iter().map(|start| start.slot).collect::<Vec<_>>() {
        rig.event(Event::Finished(slot, Finish::Succeeded(Bytes::new())));
    }
    for expected in [MAX_RESULTS_PER_FRAME, 10] {
        match rig.next() {
            Some(Up::Results(results)) => assert_eq!(results.succeeded.len(), expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_result_over_the_limit_is_a_failure_that_names_it() {
    let mut rig = Rig::new(config());
    rig.accept(v1::Welcome { max_result_bytes: 8, ..v1::Welcome::default() });
    rig.jobs(&[("at", 0), ("over", 0)]);
    rig.finish("at", Finish::Succeeded(Bytes::from_static(b"12345678")));
    rig.finish("over", Finish::Succeeded(Bytes::from_static(b"123456789")));
    let (_, _, results) = rig.results().expect("results");
    assert!(matches!(results[0].outcome, Some(Outcome::Succeeded(_))));
    assert_eq!(kind(results.get(1)), "ResultTooLarge");
    assert!(failed(results.get(1)).never_retry);
}

#[test]
fn special_ends_say_what_they_are() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("never", 0), ("later", 0), ("snooze", 0), ("cancelled", 0)]);
    rig.finish("never", Finish::Error(TaskError::new("K", "m").never_retry()));
    rig.finish("later", Finish::Error(TaskError::new("K", "m").retry_after(secs(3.0))));
    rig.finish("snooze", Finish::Error(TaskError::snooze(secs(4.0))));
    rig.finish("cancelled", Finish::Error(TaskError::cancelled("so it is")));
    let (_, _, results) = rig.results().expect("results");
    assert!(failed(results.first()).never_retry);
    let delay = failed(results.get(1)).retry.and_then(|retry| retry.delay);
    assert_eq!(delay.map(|delay| delay.seconds), Some(3));
    assert!(
        matches!(&results[2].outcome, Some(Outcome::Snoozed(end)) if end.delay.is_some_and(|delay| delay.seconds == 4))
    );
    assert!(matches!(&results[3].outcome, Some(Outcome::Cancelled(end)) if end.message == "so it is"));
}

#[test]
fn a_job_without_a_handler_goes_back() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("u", 4)]);
    let (_, _, results) = rig.results().expect("results");
    assert!(matches!(&results[0].outcome, Some(Outcome::Released(end)) if end.delay.is_some()));
    assert!(rig.seen.starts.is_empty());
}

#[test]
fn a_delivery_that_is_held_already_is_not_run_twice() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 0)]);
    rig.jobs(&[("a", 0)]);
    assert_eq!((rig.started(), rig.held()), (vec!["a".to_owned()], 1));
}

#[test]
fn a_cancelled_job_is_told_and_its_result_still_goes() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 0)]);
    rig.frame(Down::CancelJob(v1::CancelJob { lease_token: Bytes::from_static(b"a"), reason: 1 }));
    assert_eq!(rig.seen.cancels, [(rig.slot("a"), CancelCause::Requested)]);
    rig.succeed("a");
    assert_eq!(rig.results(), Some((1, vec!["a".to_owned()], Vec::new())));
}

#[test]
fn a_cancellation_that_comes_after_the_work_ended_does_not_prevent_the_success() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 0)]);
    rig.succeed("a");
    let reason = v1::CancelReason::Requested.into();
    rig.frame(Down::CancelJob(v1::CancelJob { lease_token: "a".into(), reason }));
    assert!(rig.seen.cancels.is_empty());
    assert_eq!(rig.results(), Some((1, vec!["a".to_owned()], Vec::new())));
    rig.ack(1, &[]);
    assert_eq!(rig.session.load(), (0, 0));
}

#[test]
fn a_cancelled_job_that_was_not_started_never_starts() {
    let mut config = config();
    config.concurrency = 1;
    let mut rig = Rig::welcome_with(config);
    rig.jobs(&[("a", 0), ("b", 0)]);
    rig.frame(Down::CancelJob(v1::CancelJob { lease_token: Bytes::from_static(b"b"), reason: 1 }));
    let (_, _, results) = rig.results().expect("a result");
    assert!(matches!(&results[0].outcome, Some(Outcome::Cancelled(_))));
    rig.succeed("a");
    assert_eq!(rig.started(), ["a"]);
}

#[test]
fn a_lost_lease_cancels_the_handler_and_drops_its_result() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 0), ("b", 0)]);
    rig.succeed("b");
    rig.frame(Down::CancelJob(v1::CancelJob { lease_token: Bytes::from_static(b"a"), reason: 3 }));
    assert_eq!(rig.seen.cancels, [(rig.slot("a"), CancelCause::LeaseLost)]);
    rig.succeed("a");
    assert_eq!(rig.results(), Some((1, vec!["b".to_owned()], Vec::new())));
    rig.ack(1, &[("b", SettleCode::LeaseLost)]);
    assert_eq!((rig.session.load(), rig.session.counters().lost), ((0, 0), 2));
}

fn with_timeout(rig: &mut Rig, token: &'static str, task: u32) {
    let mut frame = rig.jobs_frame(&[(token, task)]);
    frame.deliveries[0].attempt_timeout = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    rig.frame(Down::Jobs(frame));
}

#[test]
fn a_timeout_cancels_then_aborts_and_is_a_failure_of_its_own_kind() {
    let mut rig = Rig::welcome();
    with_timeout(&mut rig, "a", 0);
    rig.wait(59.9);
    assert!(rig.seen.cancels.is_empty());
    rig.wait(0.2);
    assert_eq!(rig.seen.cancels, [(rig.slot("a"), CancelCause::Timeout)]);
    assert!(rig.seen.aborts.is_empty());
    rig.wait(1.0);
    assert_eq!(rig.seen.aborts, [rig.slot("a")]);
    rig.finish("a", Finish::Aborted);
    assert_eq!(kind(rig.results().expect("a result").2.first()), "Timeout");
}

#[test]
fn a_success_after_the_timeout_is_still_a_timeout() {
    let mut rig = Rig::welcome();
    with_timeout(&mut rig, "a", 0);
    rig.wait(60.1);
    rig.succeed("a");
    assert_eq!(kind(rig.results().expect("a result").2.first()), "Timeout");
}

#[test]
fn a_timeout_is_what_the_retry_strategy_says_of_it() {
    let mut rig = Rig::welcome();
    for (token, task) in [("a", 0), ("b", 3)] {
        with_timeout(&mut rig, token, task);
    }
    rig.wait(60.1);
    for token in ["a", "b"] {
        let judged = TaskError::timeout().retry_after(secs(7.0));
        let slot = rig.slot(token);
        rig.event(Event::TimeoutJudged(slot, Box::new(judged)));
    }
    rig.finish("a", Finish::Aborted);
    let mut told = rig.results().expect("a result").2;
    // The blocking handler does not come back; its timeout is reported all the same.
    rig.wait(4.8);
    rig.now += secs(0.2);
    rig.event(Event::Tick);
    told.extend(rig.results().expect("a result").2);
    assert_eq!(told.len(), 2);
    for result in &told {
        let failed = failed(Some(result));
        assert_eq!(failed.failure.map(|failure| failure.kind).as_deref(), Some("Timeout"));
        assert_eq!(failed.retry.and_then(|retry| retry.delay).map(|delay| delay.seconds), Some(7));
    }
}

#[test]
fn a_blocking_handler_that_ignores_its_timeout_is_reported_and_keeps_its_place() {
    let mut rig = Rig::welcome();
    with_timeout(&mut rig, "a", 3);
    rig.wait(64.9);
    assert_eq!((rig.seen.cancels.len(), rig.seen.aborts.len()), (1, 0));
    rig.now += secs(0.2);
    rig.event(Event::Tick);
    assert_eq!(kind(rig.results().expect("a result").2.first()), "Timeout");
    rig.ack(1, &[]);
    assert_eq!(rig.session.load(), (0, 1));
    rig.succeed("a");
    assert_eq!((rig.session.load(), rig.results()), ((0, 0), None));
}

#[test]
fn a_pause_is_a_new_capacity_with_a_higher_revision() {
    let mut rig = Rig::welcome();
    rig.event(Event::Pause(true));
    match rig.next() {
        Some(Up::Capacity(capacity)) => {
            assert!(capacity.paused && capacity.revision == 2 && capacity.max_jobs == 6);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.next(), None);
    assert!(rig.session.next_wakeup(rig.now).is_some_and(|at| at > Duration::ZERO));
}

#[test]
fn a_timer_goes_with_its_job() {
    let mut rig = Rig::welcome();
    with_timeout(&mut rig, "a", 0);
    assert_eq!(rig.session.timers.len(), 1);
    rig.succeed("a");
    assert!(rig.session.timers.is_empty());
}

#[test]
fn ended_jobs_do_not_pile_up_behind_a_handler_that_takes_long() {
    let mut config = config();
    config.concurrency = 1;
    let mut rig = Rig::welcome_with(config);
    rig.jobs(&[("a", 0)]);
    for number in 0..1_000_u32 {
        let mut frame = rig.jobs_frame(&[("x", 0)]);
        let lease_token = Bytes::copy_from_slice(&number.to_be_bytes());
        frame.deliveries[0].lease_token = lease_token.clone();
        rig.frame(Down::Jobs(frame));
        let reason = v1::CancelReason::LeaseLost.into();
        rig.frame(Down::CancelJob(v1::CancelJob { lease_token, reason }));
    }
    assert!(rig.session.queue.len() <= 128, "{}", rig.session.queue.len());
    assert_eq!(rig.held(), 1);
}

#[test]
fn absurd_times_of_a_broker_are_bounded() {
    let mut rig = Rig::welcome();
    let mut frame = rig.jobs_frame(&[("a", 0)]);
    let forever = prost_types::Duration { seconds: i64::MAX, nanos: 0 };
    frame.deliveries[0].attempt_timeout = Some(forever);
    rig.frame(Down::Jobs(frame));
    let start_after = Some(forever);
    rig.frame(Down::BrokerDrain(v1::BrokerDrain { start_after, ..Default::default() }));
    let longest = Duration::from_hours(24 * 3_650);
    assert!(rig.session.timers.first().is_some_and(|(at, ..)| *at <= longest));
    assert!(rig.session.reconnect_at.is_some_and(|at| at <= longest));
}

#[test]
fn a_failure_is_logged_once_it_is_recorded_and_as_an_error_if_it_was_the_last() {
    log::keep();
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 0), ("b", 1), ("c", 2)]);
    rig.finish("a", Finish::Error(TaskError::new("Busy", "try later")));
    rig.finish("b", Finish::Error(TaskError::new("Broken", "no hope")));
    rig.finish("c", Finish::Error(TaskError::cancelled("enough")));
    assert!(rig.results().is_some());
    assert_eq!(log::take(), "");
    let retried = vec![Bytes::from_static(b"a")];
    rig.frame(Down::SettleAck(v1::SettleAck { recorded_through: 1, retried, ..Default::default() }));
    let text = log::take();
    let told: Vec<_> = text.lines().map(|line| line.split_whitespace().nth(1).unwrap_or_default()).collect();
    assert_eq!(told, ["INFO", "ERROR", "INFO"], "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].contains("tried again") && lines[0].contains("\"Busy\"") && lines[0].contains("try later"),
        "{text}"
    );
    assert!(lines[1].contains("task=\"single\"") && lines[1].contains("attempt=1"), "{text}");
    assert!(lines[2].contains("cancelled") && lines[2].contains("enough"), "{text}");
}

#[test]
fn an_end_that_was_recorded_before_is_logged_and_a_lost_one_is_not() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 0), ("b", 0)]);
    for token in ["a", "b"] {
        rig.finish(token, Finish::Error(TaskError::new("Broken", token)));
    }
    assert!(rig.results().is_some());
    log::keep();
    rig.ack(1, &[("a", SettleCode::AlreadyRecorded), ("b", SettleCode::LeaseLost)]);
    let text = log::take();
    assert!(text.lines().count() == 1 && text.contains("ERROR") && text.contains("error=\"a\""), "{text}");
}
