//! What the core answers while retention moves what outlives its partition.

use cabbage_broker::core::{
    ask::{Ask, By, Verb},
    batch::Changed,
    decide::Core,
    effect::{CallId, Effect, FinishedJob, Found, JobFound, Refusal, Reply},
    event::Event,
    job::{Rare, Verdict},
    limits::Limits,
    retention::Milestone,
    state::State,
    types::{JobId, QueueNo, Stream, TaskNo, Term},
};

use crate::rig::{NOW, look_up, now};

/// A core of a cell with one queue, one task, and a job that succeeded.
fn core() -> Core {
    let mut state = State::default();
    (state.queues, state.tasks) = (vec!["q".into()], vec!["t".into()]);
    state.number_names();
    state.finished.insert((QueueNo(0), Verdict::Succeeded), 1);
    Core::new(state, 0, Term { number: 1, nonce: 1 }, Limits::default(), now())
}

/// Commits what there is to be committed.
fn commit(core: &mut Core) -> Vec<Effect> {
    let Some(batch) = core.take_batch(now()) else { return Vec::new() };
    if batch.writes() {
        core.committed(batch.number, NOW);
    }
    batch.effects
}

/// What somebody is answered who asks for something about a job that succeeded long ago.
fn asked(core: &mut Core, verb: Verb) -> Vec<Effect> {
    core.handle(now(), Event::Ask(Ask { call: CallId(1), request: None, by: By::default(), verb }));
    let keys = look_up(core);
    let finished = FinishedJob {
        stream: Stream { queue: QueueNo(0), task: TaskNo(0), priority: 0 },
        rare: Rare::default(),
        args_bytes: 2,
        changed: Changed::default(),
        was_unlocked: false,
        verdict: Verdict::Succeeded,
        delivery: 1,
        has_started: true,
    };
    let found = Found {
        id: keys.id,
        snapshot: 1_000,
        jobs: keys.jobs.iter().map(|_| JobFound::Final { verdict: Verdict::Succeeded, delivery: 1 }).collect(),
        finished: keys.finished.iter().map(|_| Some(Box::new(finished.clone()))).collect(),
        ..Found::default()
    };
    core.handle(now(), Event::Found(found));
    commit(core)
}

#[test]
fn what_is_final_stays_as_it_is_while_its_partition_is_looked_through() {
    let mut core = core();
    core.handle(now(), Event::Retain(Milestone::KeptBelow(JobId(10))));
    commit(&mut core);
    let moving = |job| Effect::Reply(CallId(1), Reply::Refused(Refusal::Moving { job }));
    for verb in [Verb::Retry { job: JobId(9), due: None }, Verb::Delete(JobId(9))] {
        assert_eq!(asked(&mut core, verb), [moving(JobId(9))]);
    }
    let done = |effects: Vec<Effect>| matches!(&effects[..], [Effect::Reply(_, Reply::Done { .. })]);
    assert!(done(asked(&mut core, Verb::Cancel(JobId(9)))), "it is final, and that is all that it is told");
    core.handle(now(), Event::Retain(Milestone::MovedBelow(JobId(10))));
    commit(&mut core);
    assert!(done(asked(&mut core, Verb::Retry { job: JobId(9), due: None })), "it lies where it stays");
}

#[test]
fn bounds_only_rise_and_are_recorded_once() {
    let mut core = core();
    let mut recorded = |bound| {
        core.handle(now(), Event::Retain(bound));
        let batch = core.take_batch(now());
        if let Some(batch) = &batch {
            core.committed(batch.number, NOW);
        }
        batch.is_some_and(|batch| !batch.facts.is_empty() && !batch.rare_rows.is_empty())
    };
    assert!(!recorded(Milestone::MovedBelow(JobId(1))), "nothing is kept elsewhere yet");
    assert!(recorded(Milestone::KeptBelow(JobId(10))));
    assert!(!recorded(Milestone::KeptBelow(JobId(10))));
    assert!(!recorded(Milestone::MovedBelow(JobId(11))));
    assert!(recorded(Milestone::MovedBelow(JobId(10))));
    assert!(!recorded(Milestone::MovedBelow(JobId(10))));
    assert!(!recorded(Milestone::KeptBelow(JobId(9))));
}

#[test]
fn counts_are_of_what_is_still_there() {
    let mut core = core();
    let counts = |core: &Core| core.queues(&[QueueNo(0)]).remove(0).finished;
    assert_eq!(counts(&core), [(Verdict::Succeeded, 1)].into());
    let gone = Milestone::Forgotten { queue: QueueNo(0), verdict: Verdict::Succeeded, jobs: 1 };
    for _ in 0..2 {
        core.handle(now(), Event::Retain(gone));
        commit(&mut core);
    }
    assert_eq!(counts(&core), [].into(), "told twice, it counts once");
}
