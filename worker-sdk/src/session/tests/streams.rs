use bytes::Bytes;
use cabbage_proto::v1::{self, work_request::Frame as Up, work_response::Frame as Down};

use super::rig::{Rig, TERM, config, secs};
use crate::session::{CancelCause, Event, LinkEnd, LinkId};

fn another_may_serve() -> LinkEnd {
    LinkEnd { try_next: true, ..LinkEnd::default() }
}

fn resume(hello: v1::Hello) -> (String, Vec<String>) {
    let resume = hello.resume.expect("a resume");
    let tokens = resume.lease_tokens.iter().map(|token| String::from_utf8(token.to_vec()).expect("text"));
    (resume.session_id, tokens.collect())
}

#[test]
fn the_first_hello_tells_everything_and_resumes_nothing() {
    let mut rig = Rig::new(config());
    let hello = rig.accept(v1::Welcome::default());
    assert_eq!((hello.min_protocol, hello.max_protocol, hello.language.as_str()), (1, 1, "rust"));
    assert_eq!((hello.queues.len(), hello.tasks.len(), hello.tasks[1].max_concurrent), (1, 4, 1));
    let capacity = hello.capacity.expect("a capacity");
    assert_eq!((capacity.max_jobs, capacity.revision, capacity.paused), (6, 1, false));
    assert!(hello.resume.is_none());
    assert_eq!(hello.capabilities, ["owner-changed"]);
    assert!(rig.session.is_welcome());
    // Nothing changed since `Hello`, so nothing is to be said.
    assert_eq!(rig.next(), None);
}

#[test]
fn frames_of_another_term_or_nonce_are_dropped() {
    let mut rig = Rig::welcome();
    let frame = rig.jobs_frame(&[("a", 0)]);
    rig.frame_of(rig.link, (TERM.0, TERM.1 + 1), Down::Jobs(frame.clone()));
    rig.frame_of(rig.link, (TERM.0 + 1, TERM.1), Down::Jobs(frame.clone()));
    assert_eq!((rig.held(), rig.session.counters().dropped_frames), (0, 2));
    rig.frame(Down::Jobs(frame));
    assert_eq!(rig.held(), 1);
}

#[test]
fn each_frame_acknowledges_what_was_received() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 0)]);
    rig.jobs(&[("b", 0)]);
    rig.succeed("a");
    let frame = rig.session.next_frame(rig.now, rig.link).expect("results");
    assert_eq!(frame.received_seq, 2);
}

#[test]
fn beats_keep_their_interval_and_count_leases() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("a", 0)]);
    rig.now = secs(2.9);
    assert_eq!(rig.next(), None);
    rig.now = secs(3.0);
    assert_eq!(rig.next(), Some(Up::Beat(v1::Beat { number: 1, in_flight: 1 })));
    assert_eq!(rig.next(), None);
    assert_eq!(rig.session.next_wakeup(rig.now), Some(secs(6.0)));
}

#[test]
fn a_beat_that_cannot_be_written_does_not_spin_the_timer() {
    let rig = Rig::welcome();
    assert_eq!(rig.session.next_wakeup(secs(4.0)), Some(secs(8.0)));
}

#[test]
fn silence_drops_the_channel_and_reconnects() {
    let mut rig = Rig::welcome();
    rig.beats_answered = false;
    rig.wait(7.9);
    assert!(rig.seen.closed.is_empty());
    rig.wait(0.1);
    assert_eq!(rig.seen.closed, [rig.link]);
    rig.wait(0.25);
    assert_eq!(rig.seen.connects.len(), 2);
}

#[test]
fn answered_beats_keep_the_stream() {
    let mut rig = Rig::welcome();
    rig.wait(600.0);
    assert_eq!((rig.seen.connects.len(), rig.seen.closed.len()), (1, 0));
}

#[test]
fn the_broker_sets_the_intervals() {
    let mut rig = Rig::new(config());
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    rig.accept(v1::Welcome { beat: seconds(1), watchdog: seconds(2), ..v1::Welcome::default() });
    rig.now = secs(1.0);
    assert!(matches!(rig.next(), Some(Up::Beat(_))));
    rig.now = secs(2.0);
    rig.event(Event::Tick);
    assert_eq!(rig.seen.closed.len(), 1);
}

#[test]
fn a_new_stream_resumes_all_that_is_held_and_sends_unacknowledged_results_again() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("acked", 0), ("sent", 0), ("ready", 0), ("runs", 0), ("queued", 0)]);
    rig.succeed("acked");
    assert!(rig.results().is_some());
    rig.ack(1, &[]);
    rig.succeed("sent");
    assert!(rig.results().is_some_and(|(seq, ..)| seq == 2));
    rig.succeed("ready");
    rig.end_link(LinkEnd::default());
    rig.wait(0.25);
    let hello = rig.greet();
    let (session, mut tokens) = resume(hello);
    tokens.sort();
    assert_eq!(session, "s");
    assert_eq!(tokens, ["queued", "ready", "runs", "sent"]);
    rig.welcome_as((5, 55), v1::Welcome { resumed: true, ..v1::Welcome::default() });
    assert_eq!(rig.results(), Some((1, vec!["sent".to_owned(), "ready".to_owned()], Vec::new())));
    // An acknowledgement of the old stream means nothing here.
    rig.frame_of(LinkId(1), TERM, Down::SettleAck(v1::SettleAck { recorded_through: 9, ..Default::default() }));
    assert_eq!(rig.held(), 4);
    rig.frame_of(rig.link, (5, 55), Down::SettleAck(v1::SettleAck { recorded_through: 1, ..Default::default() }));
    assert_eq!(rig.held(), 2);
}

#[test]
fn leases_that_are_lost_on_resume_are_dropped() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("runs", 0), ("ended", 0), ("kept", 0)]);
    rig.succeed("ended");
    rig.end_link(LinkEnd::default());
    rig.wait(0.25);
    let lost = [&b"runs"[..], b"ended", b"nobody knows"].map(Bytes::from_static).to_vec();
    rig.accept(v1::Welcome { resumed: true, lost_lease_tokens: lost, ..v1::Welcome::default() });
    assert_eq!(rig.seen.cancels, [(rig.slot("runs"), CancelCause::LeaseLost)]);
    assert_eq!((rig.held(), rig.results()), (1, None));
}

#[test]
fn a_result_that_was_sent_before_the_resume_is_sent_again_whatever_became_of_its_lease() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("sent", 0)]);
    rig.succeed("sent");
    assert!(rig.results().is_some());
    rig.end_link(LinkEnd::default());
    rig.wait(0.25);
    // It was recorded, and the lease ended with that; only the acknowledgement was lost.
    let lost = vec![Bytes::from_static(b"sent")];
    rig.accept(v1::Welcome { resumed: true, lost_lease_tokens: lost, ..v1::Welcome::default() });
    assert_eq!(rig.results(), Some((1, vec!["sent".to_owned()], Vec::new())));
    rig.ack(1, &[("sent", v1::SettleCode::AlreadyRecorded)]);
    let counters = rig.session.counters();
    assert_eq!((rig.held(), counters.recorded, counters.lost), (0, 1, 0));
}

#[test]
fn each_broker_is_tried_at_once_and_then_the_waits_grow() {
    let mut config = config();
    (config.addresses, config.seed) = (3, 3);
    let mut rig = Rig::new(config);
    for tries in 1..=3 {
        assert_eq!(rig.seen.connects.len(), tries);
        rig.end_link(another_may_serve());
    }
    let addresses: Vec<_> = rig.seen.connects.iter().map(|(_, address)| *address).collect();
    assert_eq!(addresses, [0, 1, 2]);
    assert!(rig.session.next_wakeup(rig.now).is_some_and(|at| at <= secs(0.25)));
    rig.wait(0.25);
    assert_eq!(rig.seen.connects.last().map(|(_, address)| *address), Some(0));
}

#[test]
fn waits_stay_short_while_leases_are_at_stake_and_then_reach_their_cap() {
    let mut rig = Rig::welcome();
    rig.end_link(LinkEnd::default());
    let mut longest = (secs(0.0), secs(0.0));
    for _ in 0..200 {
        let at = rig.session.next_wakeup(rig.now).expect("another try, for ever");
        let wait = at.saturating_sub(rig.now);
        if rig.now < secs(20.0) {
            longest.0 = longest.0.max(wait);
        } else {
            longest.1 = longest.1.max(wait);
        }
        rig.wait(wait.as_secs_f64() + 1e-6);
        rig.end_link(another_may_serve());
    }
    assert!(longest.0 <= secs(1.0), "{longest:?}");
    assert!(longest.1 <= secs(20.0) && longest.1 > secs(10.0), "{longest:?}");
}

#[test]
fn the_wait_that_a_broker_asks_for_is_kept() {
    let mut rig = Rig::new(config());
    rig.end_link(LinkEnd { retry_after: Some(secs(7.0)), ..LinkEnd::default() });
    let at = rig.session.next_wakeup(rig.now).expect("another try");
    assert!(at >= secs(7.0) && at <= secs(8.75), "{at:?}");
}

#[test]
fn a_handshake_without_an_answer_is_given_up() {
    let mut rig = Rig::new(config());
    rig.greet();
    rig.wait(10.0);
    assert_eq!(rig.seen.closed.len(), 1);
    rig.wait(0.25);
    assert_eq!(rig.seen.connects.len(), 2);
}

#[test]
fn a_leaving_broker_is_left_only_when_the_next_stream_is_welcome() {
    let mut rig = Rig::welcome();
    let old = rig.link;
    rig.jobs(&[("a", 0)]);
    let start_after = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    rig.frame(Down::BrokerDrain(v1::BrokerDrain { start_after, ..v1::BrokerDrain::default() }));
    rig.wait(0.9);
    assert_eq!(rig.seen.connects.len(), 1);
    rig.wait(0.2);
    assert_eq!(rig.seen.connects.len(), 2);
    assert_eq!(resume(rig.greet()).1, ["a"]);
    // The inventory is on its way: what the old stream still brings is not in it, and is not acknowledged.
    let late = rig.jobs_frame(&[("late", 0)]);
    rig.frame_of(old, TERM, Down::Jobs(late));
    rig.succeed("a");
    let frame = rig.session.next_frame(rig.now, old).expect("the old stream still takes results");
    assert_eq!(frame.received_seq, 1);
    assert!(rig.seen.half_closed.is_empty());
    rig.welcome_as((5, 55), v1::Welcome { resumed: true, ..v1::Welcome::default() });
    assert_eq!(rig.seen.half_closed, [old]);
    assert_eq!(rig.results(), Some((1, vec!["a".to_owned()], Vec::new())));
    rig.event(Event::Ended(old, LinkEnd::default()));
    assert!(rig.session.is_welcome());
    assert_eq!((rig.started(), rig.seen.connects.len()), (vec!["a".to_owned()], 2));
}

#[test]
fn a_leaving_broker_keeps_its_worker_until_another_one_takes_it() {
    let mut rig = Rig::welcome();
    rig.frame(Down::BrokerDrain(v1::BrokerDrain::default()));
    rig.end_link(another_may_serve());
    assert!(rig.session.is_welcome());
    rig.wait(0.25);
    assert_eq!(rig.seen.connects.len(), 3);
    // The old one ends first: the try that is under way becomes the reconnect.
    let old = rig.link;
    rig.event(Event::Ended(old, LinkEnd::default()));
    assert_eq!(rig.seen.connects.len(), 3);
    rig.accept(v1::Welcome { resumed: true, ..v1::Welcome::default() });
    assert!(rig.session.is_welcome());
}

#[test]
fn a_goodbye_ends_the_stream_and_not_the_worker() {
    let mut rig = Rig::welcome();
    rig.frame(Down::Goodbye(v1::Goodbye::default()));
    assert_eq!(rig.seen.closed, [rig.link]);
    rig.wait(0.25);
    assert_eq!(rig.seen.connects.len(), 2);
    assert!(!rig.seen.stopped);
}

#[test]
fn handlers_that_asked_for_it_are_told_once_the_session_must_be_over() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("plain", 0), ("careful", 2)]);
    rig.end_link(LinkEnd::default());
    rig.wait(59.9);
    assert!(rig.seen.cancels.is_empty());
    rig.wait(0.2);
    assert_eq!(rig.seen.cancels, [(rig.slot("careful"), CancelCause::LeaseLost)]);
}

#[test]
fn nothing_is_started_once_the_grace_of_a_broken_stream_is_over() {
    let mut config = config();
    config.concurrency = 1;
    let mut rig = Rig::welcome_with(config);
    rig.jobs(&[("a", 0), ("b", 0), ("c", 0)]);
    rig.end_link(LinkEnd::default());
    rig.wait(19.0);
    rig.succeed("a");
    assert_eq!(rig.started(), ["a", "b"]);
    rig.wait(2.0);
    rig.succeed("b");
    assert_eq!(rig.started(), ["a", "b"]);
    rig.wait(20.0);
    rig.accept(v1::Welcome { resumed: true, ..v1::Welcome::default() });
    assert_eq!(rig.started(), ["a", "b", "c"]);
}

#[test]
fn an_unknown_protocol_is_no_welcome() {
    let mut rig = Rig::new(config());
    rig.greet();
    let (link, _) = rig.seen.connects[0];
    rig.frame_of(link, TERM, Down::Welcome(v1::Welcome { protocol: 2, ..v1::Welcome::default() }));
    assert!(!rig.session.is_welcome());
    assert_eq!(rig.seen.closed, [link]);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut rig = Rig::welcome();
        let mut waits = Vec::new();
        for _ in 0..20 {
            rig.end_link(LinkEnd::default());
            let at = rig.session.next_wakeup(rig.now).expect("another try");
            rig.wait(at.saturating_sub(rig.now).as_secs_f64() + 1e-6);
            waits.push(at);
        }
        waits
    };
    assert_eq!(run(), run());
}

#[test]
fn a_new_owner_is_greeted_on_the_same_stream() {
    let mut rig = Rig::welcome();
    rig.jobs(&[("runs", 0), ("ended", 0)]);
    rig.succeed("ended");
    assert_eq!(rig.results().expect("results").0, 1);
    rig.frame(Down::OwnerChanged(v1::OwnerChanged {}));
    assert!(!rig.session.is_welcome());
    let Some(Up::Hello(hello)) = rig.next() else { panic!("no hello on the same stream") };
    assert_eq!(resume(hello), ("s".to_owned(), vec!["runs".to_owned(), "ended".to_owned()]));
    // What still comes from the owner before is void.
    let late = rig.jobs_frame(&[("late", 0)]);
    rig.frame(Down::Jobs(late));
    assert_eq!(rig.held(), 2);
    let next = (TERM.0 + 1, TERM.1 + 1);
    rig.welcome_as(next, v1::Welcome { resumed: true, ..v1::Welcome::default() });
    assert_eq!((rig.seen.connects.len(), rig.seen.closed.len()), (1, 0), "the stream stays");
    // Counting begins anew, with what was not acknowledged.
    let (seq, succeeded, _) = rig.results().expect("the result again");
    assert_eq!((seq, succeeded), (1, vec!["ended".to_owned()]));
}

#[test]
fn a_new_owner_that_does_not_answer_is_given_up() {
    let mut rig = Rig::welcome();
    rig.frame(Down::OwnerChanged(v1::OwnerChanged {}));
    assert!(matches!(rig.next(), Some(Up::Hello(_))));
    rig.wait(11.0);
    assert_eq!(rig.seen.closed, [rig.link]);
    assert_eq!(rig.seen.connects.len(), 2);
}
