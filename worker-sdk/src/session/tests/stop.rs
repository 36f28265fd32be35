use cabbage_proto::v1::{self, job_result::Outcome, work_request::Frame as Up, work_response::Frame as Down};

use super::{
    log,
    rig::{Rig, config, secs},
};
use crate::{
    TaskError,
    session::{CancelCause, Event, Finish, LinkEnd},
};

fn drained(rig: &mut Rig) {
    rig.frame(Down::DrainAck(v1::DrainAck { last_seq: 9 }));
}

fn released(results: &[v1::JobResult]) -> usize {
    results.iter().filter(|result| matches!(result.outcome, Some(Outcome::Released(_)))).count()
}

#[test]
fn an_idle_worker_drains_half_closes_and_ends() {
    let mut rig = Rig::welcome();
    rig.event(Event::Stop(secs(30.0)));
    assert!(matches!(rig.next(), Some(Up::Drain(_))));
    assert!(matches!(rig.next(), Some(Up::Capacity(capacity)) if capacity.paused));
    assert!(rig.seen.half_closed.is_empty());
    drained(&mut rig);
    assert_eq!(rig.seen.half_closed, [rig.link]);
    assert!(!rig.seen.stopped);
    rig.end_link(LinkEnd::default());
    assert!(rig.seen.stopped);
}

#[test]
fn a_draining_worker_finishes_what_runs_and_gives_back_the_rest() {
    let mut config = config();
    config.concurrency = 1;
    let mut rig = Rig::welcome_with(config);
    rig.jobs(&[("a", 0), ("b", 0)]);
    rig.event(Event::Stop(secs(30.0)));
    // This one was on its way.
    rig.jobs(&[("c", 0)]);
    let (_, _, results) = rig.results().expect("results");
    assert_eq!(released(&results), 2);
    drained(&mut rig);
    rig.succeed("a");
    assert_eq!(rig.results(), Some((2, vec!["a".to_owned()], Vec::new())));
    assert!(rig.seen.half_closed.is_empty());
    rig.ack(2, &[]);
    assert_eq!(rig.seen.half_closed, [rig.link]);
    assert_eq!(rig.started(), ["a"]);
}

#[test]
fn beats_go_on_while_a_worker_drains() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 0)]);
    rig.event(Event::Stop(secs(30.0)));
    while rig.next().is_some() {}
    rig.now = secs(3.0);
    assert!(matches!(rig.next(), Some(Up::Beat(_))));
}

#[test]
fn what_runs_beyond_the_time_is_aborted_and_given_back() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 0), ("b", 3)]);
    rig.event(Event::Stop(secs(5.0)));
    drained(&mut rig);
    rig.wait(5.0);
    assert_eq!(rig.seen.cancels.len(), 2);
    assert!(rig.seen.cancels.iter().all(|(_, cause)| *cause == CancelCause::Stopping));
    assert_eq!(rig.seen.aborts, [rig.slot("a")]);
    rig.finish("a", Finish::Aborted);
    assert_eq!(rig.results().map(|(_, _, results)| released(&results)), Some(1));
    // The blocking handler does not listen; after a second its job goes back under it.
    rig.now += secs(1.0);
    rig.event(Event::Tick);
    assert_eq!(rig.results().map(|(_, _, results)| released(&results)), Some(1));
    rig.ack(2, &[]);
    assert_eq!(rig.seen.half_closed, [rig.link]);
}

#[test]
fn a_blocking_handler_that_obeys_the_stop_of_its_worker_goes_back_and_is_not_cancelled() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 3), ("b", 3)]);
    rig.event(Event::Stop(secs(5.0)));
    drained(&mut rig);
    // Whoever gives up before it is told does so by itself.
    rig.finish("a", Finish::Error(TaskError::cancelled("no use")));
    let (_, _, results) = rig.results().expect("results");
    assert!(matches!(results[0].outcome, Some(Outcome::Cancelled(_))), "{results:?}");
    rig.wait(5.0);
    rig.finish("b", Finish::Error(TaskError::cancelled("told to")));
    assert_eq!(rig.results().map(|(_, _, results)| released(&results)), Some(1));
}

#[test]
fn a_drain_names_the_jobs_that_it_waits_for_again_and_again() {
    log::keep();
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 0), ("b", 1)]);
    rig.event(Event::Stop(secs(30.0)));
    let text = log::take();
    assert!(text.contains("1 (plain), 1 (single)"), "{text}");
    rig.succeed("a");
    rig.wait(9.0);
    assert_eq!(log::take(), "");
    rig.wait(2.0);
    let text = log::take();
    assert!(text.contains("1 (single)") && !text.contains("plain"), "{text}");
}

#[test]
fn a_second_signal_gives_everything_back_at_once() {
    let mut config = config();
    config.concurrency = 1;
    let mut rig = Rig::welcome_with(config);
    rig.jobs(&[("a", 0), ("b", 0)]);
    rig.event(Event::Stop(secs(30.0)));
    rig.event(Event::StopNow);
    assert_eq!(rig.seen.aborts, [rig.slot("a")]);
    assert_eq!(rig.results().map(|(_, _, results)| released(&results)), Some(2));
    // Not even an answer is waited for very long.
    rig.now += secs(1.0);
    rig.event(Event::Tick);
    assert_eq!(rig.seen.half_closed, [rig.link]);
    rig.now += secs(2.0);
    rig.event(Event::Tick);
    assert!(rig.seen.stopped);
}

#[test]
fn a_worker_without_a_stream_stops_at_once_if_it_holds_nothing() {
    let mut rig = Rig::new(config());
    rig.event(Event::Stop(secs(30.0)));
    assert!(rig.seen.stopped);
}

#[test]
fn a_draining_worker_reconnects_to_hand_in_its_results() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 0)]);
    rig.event(Event::Stop(secs(30.0)));
    rig.end_link(LinkEnd::default());
    rig.wait(0.25);
    let hello = rig.accept(v1::Welcome { resumed: true, ..v1::Welcome::default() });
    assert!(hello.capacity.is_some_and(|capacity| capacity.paused));
    assert!(matches!(rig.next(), Some(Up::Drain(_))));
    drained(&mut rig);
    rig.succeed("a");
    assert_eq!(rig.results().map(|(seq, plain, _)| (seq, plain.len())), Some((1, 1)));
    rig.ack(1, &[]);
    assert_eq!(rig.seen.half_closed, [rig.link]);
}

fn until_caught_up() -> Rig {
    let mut config = config();
    config.until_caught_up = true;
    let mut rig = Rig::new(config);
    let hello = rig.accept(v1::Welcome::default());
    assert_eq!(hello.capabilities, ["owner-changed", "caught-up"]);
    rig
}

#[test]
fn a_worker_that_only_runs_what_is_there_stops_when_it_has_caught_up() {
    let mut rig = until_caught_up();
    rig.jobs(&[("a", 0)]);
    rig.succeed("a");
    assert!(rig.results().is_some());
    // The broker has the result, but has not recorded it yet.
    rig.frame(Down::CaughtUp(v1::CaughtUp { last_seq: 1 }));
    assert!(!rig.session.is_stopping());
    rig.ack(1, &[]);
    assert!(rig.session.is_stopping());
    assert!(matches!(rig.next(), Some(Up::Drain(_))));
    drained(&mut rig);
    rig.end_link(LinkEnd::default());
    assert!(rig.seen.stopped);
}

#[test]
fn caught_up_is_over_when_more_jobs_come() {
    let mut rig = until_caught_up();
    rig.frame(Down::CaughtUp(v1::CaughtUp { last_seq: 7 }));
    assert!(!rig.session.is_stopping(), "that was said of another place in the stream");
    rig.jobs(&[("a", 0)]);
    rig.frame(Down::CaughtUp(v1::CaughtUp { last_seq: 1 }));
    rig.jobs(&[("b", 0)]);
    for token in ["a", "b"] {
        rig.succeed(token);
    }
    assert!(rig.results().is_some());
    rig.ack(1, &[]);
    assert!(!rig.session.is_stopping());
}

#[test]
fn other_workers_do_not_stop_when_they_have_caught_up() {
    let mut rig = Rig::welcome();
    rig.frame(Down::CaughtUp(v1::CaughtUp { last_seq: 0 }));
    assert!(!rig.session.is_stopping());
}
