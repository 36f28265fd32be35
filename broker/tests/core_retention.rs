//! What the core answers while retention moves what outlives its partition.

use std::time::Duration;

use cabbage_broker::core::{
    ask::{Ask, By, Verb},
    batch::Changed,
    decide::Core,
    effect::{CallId, Effect, FinishedJob, Found, JobFound, Question, Refusal, Reply},
    event::Event,
    job::{Rare, Verdict},
    limits::Limits,
    retention::Bound,
    state::State,
    types::{JobId, Now, QueueNo, Stream, TaskNo, Term, Timestamp},
};

const NOW: Now =
    Now { db: Timestamp(1_700_000_000_000_000), db_latest: Timestamp(1_700_000_000_000_000), mono: Duration::ZERO };

/// A core of a cell with one queue, one task, and a job that succeeded.
fn core() -> Core {
    let mut state = State::default();
    (state.queues, state.tasks) = (vec!["q".into()], vec!["t".into()]);
    state.number_names();
    state.finished.insert((QueueNo(0), Verdict::Succeeded), 1);
    Core::new(state, 0, Term { number: 1, nonce: 1 }, Limits::default(), NOW)
}

/// Commits what there is to be committed.
fn commit(core: &mut Core) -> Vec<Effect> {
    let Some(batch) = core.take_batch(NOW) else { return Vec::new() };
    if batch.writes() {
        core.committed(batch.number, NOW.db);
    }
    batch.effects
}

/// What somebody is answered who asks for something about a job that succeeded long ago.
fn asked(core: &mut Core, verb: Verb) -> Vec<Effect> {
    core.handle(NOW, Event::Ask(Ask { call: CallId(1), request: None, by: By::default(), verb }));
    let look_up = |question| match question {
        Question::LookUp(keys) => Some(keys),
        Question::Fetch(_) | Question::Look(_) => None,
    };
    let keys = core.questions().into_iter().find_map(look_up).expect("the job is looked up");
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
    core.handle(NOW, Event::Found(found));
    commit(core)
}

#[test]
fn what_is_final_stays_as_it_is_while_its_partition_is_looked_through() {
    let mut core = core();
    core.handle(NOW, Event::Retain(Bound::KeptBelow(JobId(10))));
    commit(&mut core);
    let moving = |job| Effect::Reply(CallId(1), Reply::Refused(Refusal::Moving { job }));
    for verb in [Verb::Retry { job: JobId(9), due: None }, Verb::Delete(JobId(9))] {
        assert_eq!(asked(&mut core, verb), [moving(JobId(9))]);
    }
    let done = |effects: Vec<Effect>| matches!(&effects[..], [Effect::Reply(_, Reply::Done { .. })]);
    assert!(done(asked(&mut core, Verb::Cancel(JobId(9)))), "it is final, and that is all that it is told");
    core.handle(NOW, Event::Retain(Bound::MovedBelow(JobId(10))));
    commit(&mut core);
    assert!(done(asked(&mut core, Verb::Retry { job: JobId(9), due: None })), "it lies where it stays");
}

#[test]
fn bounds_only_rise_and_are_recorded_once() {
    let mut core = core();
    let mut recorded = |bound| {
        core.handle(NOW, Event::Retain(bound));
        let batch = core.take_batch(NOW);
        if let Some(batch) = &batch {
            core.committed(batch.number, NOW.db);
        }
        batch.is_some_and(|batch| !batch.facts.is_empty() && !batch.rare_rows.is_empty())
    };
    assert!(!recorded(Bound::MovedBelow(JobId(1))), "nothing is kept elsewhere yet");
    assert!(recorded(Bound::KeptBelow(JobId(10))));
    assert!(!recorded(Bound::KeptBelow(JobId(10))));
    assert!(!recorded(Bound::MovedBelow(JobId(11))));
    assert!(recorded(Bound::MovedBelow(JobId(10))));
    assert!(!recorded(Bound::MovedBelow(JobId(10))));
    assert!(!recorded(Bound::KeptBelow(JobId(9))));
}
