//! What a refused batch may not take with it: what time brings, and what is known of streams.

use cabbage_broker::core::{
    batch::Batch,
    effect::{Effect, LinkId, Refusal},
    event::Event,
    job::Verdict,
    limits::Limits,
    types::{JobId, Lease},
};

use crate::rig::{FIRST, Rig, SECOND, verdicts};

fn started_on(batch: &Batch) -> Vec<LinkId> {
    let link = |effect: &Effect| match effect {
        Effect::Deliver { link, .. } => Some(*link),
        _ => None,
    };
    batch.effects.iter().filter_map(link).collect()
}

/// A worker is lost, and its time is over when so many jobs come that the database refuses, and another one meanwhile.
fn is_lost_among_refusals(refused: usize) {
    let mut rig = Rig::with_running_job();
    rig.handle(Event::LinkLost { link: FIRST, reported: true });
    rig.hello(SECOND);
    rig.settle_down("poison");
    rig.passes(Limits::default().grace);
    rig.handle(Event::Heard { link: SECOND, received: 0 });
    for _ in 0..refused {
        rig.defer("poison");
    }
    let batch = rig.take();
    let held = (batch.jobs.len(), batch.outcomes.len());
    assert_eq!(held, (refused, 1), "the end of the session is in the batch to refuse");
    rig.refuse();
    rig.defer("poison");
    // Answers may go first.
    let batch = std::iter::repeat_with(|| rig.take()).find(Batch::writes).expect("a batch that writes");
    assert_eq!(verdicts(std::slice::from_ref(&batch)), [Verdict::Crashed]);
    assert_eq!((batch.jobs.len(), started_on(&batch)), (0, vec![SECOND]));
}

#[test]
fn jobs_of_a_lost_worker_are_given_out_again_while_a_culprit_is_sought() {
    is_lost_among_refusals(2);
}

#[test]
fn jobs_of_a_lost_worker_are_given_out_again_while_culprit_follows_culprit() {
    is_lost_among_refusals(1);
}

#[test]
fn deliveries_that_a_refused_batch_undid_were_not_sent() {
    let mut rig = Rig::new();
    rig.hello(FIRST);
    rig.settle_down("poison");
    rig.defer("good");
    rig.defer("poison");
    let batches = rig.settle_down("poison");
    assert_eq!(batches.iter().flat_map(started_on).collect::<Vec<_>>(), [FIRST]);
    // It has received all that was sent to it, so that its end is a crash.
    rig.handle(Event::Heard { link: FIRST, received: 1 });
    rig.handle(Event::LinkLost { link: FIRST, reported: true });
    rig.passes(Limits::default().grace);
    assert_eq!(verdicts(&rig.settle_down("poison")), [Verdict::Crashed]);
}

#[test]
fn a_silent_stream_is_closed_by_a_refused_batch_too() {
    let mut rig = Rig::with_running_job();
    rig.settle_down("poison");
    rig.passes(Limits::default().watchdog);
    rig.defer("poison");
    let closed = Effect::Close { link: FIRST, error: Refusal::Silent };
    let batch = rig.take();
    assert!(batch.effects.contains(&closed), "the close is in the batch to refuse");
    rig.refuse();
    let batches = rig.settle_down("poison");
    assert!(batches.iter().any(|batch| batch.effects.contains(&closed)));
}

#[test]
fn jobs_that_a_lost_worker_never_received_are_released_by_a_refused_batch_too() {
    let mut rig = Rig::new();
    rig.hello(FIRST);
    rig.defer("good");
    rig.settle_down("poison");
    rig.handle(Event::LinkLost { link: FIRST, reported: true });
    rig.passes(Limits::default().grace);
    rig.defer("poison");
    assert_eq!(verdicts(&[rig.take()]), [Verdict::Released]);
    rig.refuse();
    assert_eq!(verdicts(&rig.settle_down("poison")), [Verdict::Released]);
}

#[test]
fn a_worker_that_is_heard_keeps_its_stream_while_a_culprit_is_sought() {
    let mut rig = Rig::with_running_job();
    rig.settle_down("poison");
    rig.defer("poison");
    rig.defer("poison");
    rig.take();
    rig.refuse();
    rig.passes(Limits::default().watchdog);
    rig.handle(Event::Heard { link: FIRST, received: 1 });
    let closed = Effect::Close { link: FIRST, error: Refusal::Silent };
    assert!(rig.settle_down("poison").iter().all(|batch| !batch.effects.contains(&closed)));
}

#[test]
fn a_worker_that_has_come_back_keeps_its_jobs_while_a_culprit_is_sought() {
    let mut rig = Rig::with_running_job();
    rig.handle(Event::LinkLost { link: FIRST, reported: true });
    rig.settle_down("poison");
    rig.defer("poison");
    rig.defer("poison");
    rig.take();
    rig.refuse();
    rig.resume(SECOND, FIRST, vec![Lease { job: JobId(1), delivery: 1, nonce: 1 }]);
    rig.passes(Limits::default().grace);
    assert_eq!(verdicts(&rig.settle_down("poison")), []);
}

#[test]
fn no_job_goes_out_on_a_new_stream_before_its_worker_is_welcome() {
    let mut rig = Rig::new();
    rig.hello(FIRST);
    rig.settle_down("poison");
    rig.handle(Event::LinkLost { link: FIRST, reported: true });
    rig.defer("good");
    rig.settle_down("poison");
    rig.defer("poison");
    rig.resume(SECOND, FIRST, Vec::new());
    let batch = rig.take();
    assert_eq!((batch.jobs.len(), started_on(&batch)), (1, vec![SECOND]), "both are in the batch to refuse");
    rig.refuse();
    let batches = rig.settle_down("poison");
    assert_eq!(verdicts(&batches), [], "what was given out was not taken back");
    let effects: Vec<&Effect> = batches.iter().flat_map(|batch| &batch.effects).collect();
    let place = |is: fn(&Effect) -> bool| effects.iter().position(|effect| is(effect)).expect("it is there");
    let welcome = place(|effect| matches!(effect, Effect::Welcome { link: SECOND, .. }));
    assert!(welcome < place(|effect| matches!(effect, Effect::Deliver { link: SECOND, .. })));
}
