//! What the core does where memory is short, or the database's clock was set back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cabbage_broker::core::{
    decide::Core,
    effect::{CallId, Fetch, Fetched, Found, LinkId, LookUp, Question},
    event::{Capacity, Defer, DeferItem, Event, Hello, OnConflict},
    job::{JobSpec, Phase, Rare, Record, Run},
    limits::Limits,
    place::{ParkedJob, Place, PlaceKey, PlaceState},
    state::{SessionRecord, State},
    types::{JobId, LockId, Now, QueueNo, SessionNo, Stream, TaskNo, Term, Timestamp},
};
use uuid::Uuid;

use crate::rig::{NOW, look_up, now, spec};

fn stream(queue: u32) -> Stream {
    Stream { queue: QueueNo(queue), task: TaskNo(0), priority: 0 }
}

fn record(phase: Phase, due: Timestamp, lock: Option<&str>) -> Record {
    let rare = Rare { lock: lock.map(LockId::of), ..Rare::default() };
    Record { stream: stream(0), phase, due, attempts: 0, deliveries: 0, crashes: 0, args_bytes: 2, rare: rare.boxed() }
}

/// A state with queues, one task, and a session that runs job 1 under the lock `l`.
fn state(queues: u32) -> State {
    let mut state = State::default();
    state.queues = (0..queues).map(|no| Arc::from(format!("q{no}"))).collect();
    state.tasks = vec!["t".into()];
    state.number_names();
    state.sessions = BTreeMap::from([(SessionNo(0), SessionRecord { id: Uuid::nil(), secret: Uuid::nil() })]);
    state.next_session = 1;
    let run = Run { session: SessionNo(0), nonce: 1, started: NOW, cancel_requested: false };
    let running = Record { deliveries: 1, ..record(Phase::Running, NOW, Some("l")) };
    state.jobs.insert(JobId(1), running);
    state.runs.insert(JobId(1), run);
    state
}

/// An owner's core with this state, and a worker for every queue.
fn core(state: State, limits: Limits) -> Core {
    let mut core = Core::new(state, 1, Term { number: 2, nonce: 2 }, limits, now());
    core.handle(
        now(),
        Event::Hello(Box::new(Hello {
            link: LinkId(1),
            new_session: Uuid::from_u128(1),
            new_secret: Uuid::from_u128(1),
            queues: Vec::new(),
            tasks: vec![("t".into(), 0)],
            capacity: Capacity { revision: 1, max_jobs: 10, max_bytes: 0, paused: false },
            wants_caught_up: false,
            resume: None,
        })),
    );
    core
}

fn fetches(core: &mut Core) -> Vec<Fetch> {
    let fetch = |question| match question {
        Question::Fetch(fetch) => Some(fetch),
        Question::LookUp(_) | Question::Look(_) => None,
    };
    core.questions().into_iter().filter_map(fetch).collect()
}

#[test]
fn jobs_behind_a_lock_do_not_keep_parked_ones_from_starting() {
    let mut state = state(1);
    for id in 2..102 {
        state.jobs.insert(JobId(id), record(Phase::Waiting, NOW, Some("l")));
    }
    let low = PlaceKey { sort: 0, id: JobId(200) };
    state.places.insert(Place::Stream(stream(0)), PlaceState { count: 5, low });
    let mut core = core(state, Limits::default());
    core.take_batch(now());
    assert!(fetches(&mut core).iter().any(|fetch| fetch.place == Place::Stream(stream(0))), "workers idle");
}

#[test]
fn what_can_start_is_not_parked_before_what_waits_for_a_lock() {
    let mut state = state(1);
    for id in 2..102 {
        state.jobs.insert(JobId(id), record(Phase::Waiting, NOW, Some("l")));
    }
    state.jobs.insert(JobId(200), record(Phase::Waiting, NOW, Some("other")));
    let mut core = core(state, Limits { memory_jobs_max: 120, stream_floor_jobs: 4, ..Limits::default() });
    core.take_batch(now());
    let job = core.live(JobId(200)).expect("it could start, so it stays");
    assert_eq!(job.record.phase, Phase::Running);
}

#[test]
fn a_full_memory_takes_in_what_can_start_in_place_of_what_cannot() {
    let mut state = state(2);
    for id in 2..200 {
        state.jobs.insert(JobId(id), record(Phase::Waiting, NOW, Some("l")));
    }
    let mut core = core(state, Limits { memory_jobs_max: 240, stream_floor_jobs: 1, ..Limits::default() });
    core.handle(now(), Event::IdsReserved { first: JobId(1_000), end: JobId(1_100) });
    let first = core.take_batch(now()).expect("the worker is new");
    core.committed(first.number, NOW);
    let job = |lock: Option<&str>| {
        let spec = JobSpec { lock: lock.map(Arc::from), ..spec("q1") };
        DeferItem { request: None, spec: Arc::new(spec), on_conflict: OnConflict::default() }
    };
    let items = (0..20).map(|_| job(None)).chain([job(Some("l"))]).collect();
    core.handle(now(), Event::Defer(Defer { call: CallId(1), request: None, items, independent: false }));
    let batch = core.take_batch(now()).expect("jobs are new");
    let parked: Vec<_> = batch.parked.iter().map(|parked| parked.id.0).collect();
    assert!(parked.contains(&1_020), "what waits behind a lock finds no room: {parked:?}");
    assert!(!parked.iter().any(|id| (1_000..1_020).contains(id)), "what can start stays: {parked:?}");
    assert!(parked.iter().any(|id| *id < 200), "others go for it: {parked:?}");
}

#[test]
fn all_fetches_together_ask_for_no_more_than_there_is_room_for() {
    let mut state = state(1_000);
    for queue in 0..1_000 {
        let low = PlaceKey { sort: NOW.0, id: JobId(1_000 + i64::from(queue)) };
        state.places.insert(Place::Due(stream(queue)), PlaceState { count: 100_000, low });
    }
    let limits = Limits { memory_jobs_max: 100_000, ..Limits::default() };
    let most = limits.memory_jobs_max / 5 * 4 + 1_000 * limits.stream_floor_jobs;
    let mut core = core(state, limits);
    core.take_batch(now());
    let asked: usize = fetches(&mut core).iter().map(|fetch| fetch.limit as usize).sum();
    assert!(asked <= most, "{asked} jobs were asked for, {most} at most should be");
}

#[test]
fn a_clock_that_was_set_back_holds_up_only_what_was_due_later() {
    let mut state = state(1);
    let later = NOW.plus(Duration::from_hours(1));
    state.jobs.insert(JobId(2), record(Phase::Waiting, later, None));
    state.jobs.insert(JobId(3), record(Phase::Waiting, NOW, None));
    let mut core = core(state, Limits::default());
    let batch = core.take_batch(now()).expect("job 3 starts");
    assert!(batch.not_before.is_none_or(|at| at <= NOW), "the database would refuse this batch for an hour");
    assert_eq!(core.live(JobId(3)).expect("it is there").record.phase, Phase::Running);
    assert!(core.wake_at().db.is_some(), "job 2 is not forgotten");
    core.committed(batch.number, NOW);
    let then = Now { db: later, db_latest: later, ..now() };
    core.take_batch(then).expect("job 2 starts");
    assert_eq!(core.live(JobId(2)).expect("it is there").record.phase, Phase::Running);
}

#[test]
fn a_strict_job_is_not_passed_over_for_an_answer_that_came_too_late() {
    // Job 10 is parked, comes back, and fails for its deadline. Until then strict job 20 waits for it.
    let mut state = state(1);
    let strict = |strict, deadline| Rare { lock: Some(LockId::of("s")), strict, deadline, ..Rare::default() };
    let waiting = |rare: Rare| Record { rare: rare.boxed(), ..record(Phase::Waiting, NOW, None) };
    state.jobs.insert(JobId(20), waiting(strict(true, None)));
    state.jobs.insert(JobId(30), waiting(strict(false, None)));
    let (place, key) = (Place::Due(stream(0)), PlaceKey { sort: NOW.0, id: JobId(10) });
    let parked = Record { phase: Phase::Scheduled, ..waiting(strict(false, Some(NOW))) };
    // Job 40 stays parked, so that there is something to ask.
    let later = PlaceKey { sort: NOW.plus(Duration::from_hours(1)).0, id: JobId(40) };
    state.places.insert(place, PlaceState { count: 2, low: key });
    state.parked_with_lock.insert(LockId::of("s"), 2);
    let mut core = core(state, Limits::default());
    let batch = core.take_batch(now()).expect("the worker is new");
    let questions = core.questions();
    core.committed(batch.number, NOW);
    let mut first = None;
    for question in questions {
        match question {
            Question::LookUp(keys) => first = Some(keys),
            Question::Fetch(Fetch { id, .. }) => {
                let jobs = vec![ParkedJob { id: JobId(10), place, key, record: parked.clone() }];
                let snapshot = batch.number;
                core.handle(now(), Event::Fetched(Fetched { id, snapshot, jobs, next: Some(later) }));
            }
            Question::Look(_) => {}
        }
    }
    let next = core.take_batch(now()).expect("job 10 fails");
    let second = look_up(&mut core);
    core.committed(next.number, NOW);
    let answer = |asked: &LookUp, snapshot, before| {
        assert_eq!(asked.locks_before, [(LockId::of("s"), JobId(20))]);
        Event::Found(Found { id: asked.id, snapshot, locks_before: vec![before], ..Found::default() })
    };
    core.handle(now(), answer(&first.expect("job 20 is asked for"), batch.number, true));
    assert!(core.take_batch(now()).is_none(), "nobody passes job 20 before it is known");
    core.handle(now(), answer(&second, next.number, false));
    core.take_batch(now()).expect("job 20 starts");
    assert_eq!(core.live(JobId(20)).expect("it is there").record.phase, Phase::Running);
    assert!(matches!(core.live(JobId(30)).expect("it is there").record.phase, Phase::Waiting));
}
