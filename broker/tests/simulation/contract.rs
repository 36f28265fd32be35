//! The contract, checked over the facts of a batch and over the state after it.

use std::collections::{BTreeMap, HashMap};

use cabbage_broker::{
    core::{
        batch::{Batch, Outcome},
        decide::{Core, WaitingFor},
        fact::Fact,
        job::{Phase, Record, Verdict},
        limits::Limits,
        state::State,
        types::{JobId, LockId, Stream, Timestamp},
    },
    store::memory::Tables,
};

/// How many streams the jobs of this world have: two queues, three tasks, three priorities.
const STREAMS: usize = 18;

/// Checks the decisions of a batch, one by one, against the state and the places before each.
pub(crate) fn check_batch(
    core: &Core,
    before: &State,
    tables: &Tables,
    batch: &Batch,
    ended: &BTreeMap<JobId, Record>,
) {
    let mut state = before.clone();
    let mut parked: BTreeMap<JobId, Record> =
        tables.parked().values().map(|parked| (parked.id, parked.record.clone())).collect();
    for fact in batch.facts.iter() {
        match fact {
            Fact::Started { id, at, .. } => {
                let record = state.jobs.get(*id).expect("a started job is in memory");
                assert!(*at >= record.due, "C7: job {id} is not started early");
                assert!(!state.is_paused(record.stream.queue), "C11: the queue of job {id} is paused");
                check_order(&state, &parked, *id, record, *at);
                if record.lock().is_some() {
                    check_lock_order(core, &state, &parked, *id, record);
                }
                if let Some(policy) = record.rare.as_ref().and_then(|rare| rare.retry.as_ref()) {
                    assert!(
                        policy.max_attempts == 0 || record.attempts < policy.max_attempts,
                        "C8: job {id} has an attempt left"
                    );
                }
                assert!(record.crashes < 3, "C8: job {id} has a crash left");
            }
            Fact::Parked { id, .. } => {
                let record = state.jobs.get(*id).expect("a job is parked from memory").clone();
                assert!(parked.insert(*id, record).is_none(), "job {id} is in one place");
            }
            Fact::Unparked { id, record, .. } => {
                assert_eq!(parked.remove(id).as_ref(), Some(record), "job {id} comes back as it went");
            }
            // It was erased after it was looked up, since its time was over: the tables refuse the batch.
            Fact::Reopened { id, .. } | Fact::Deleted { id, .. } if !tables.jobs().contains_key(id) => {}
            Fact::Reopened { id, record, .. } => {
                assert!(!parked.contains_key(id), "C17: job {id} is not parked");
                let last = newest(tables, *id).expect("a final job has an outcome");
                assert!(last.verdict.is_final(), "C17: only a final job is opened again: {id}");
                assert_eq!(record.deliveries, last.delivery + 1, "C17: the deliveries of job {id} go on");
                let reopened = |row: &&Outcome| row.job == *id && row.verdict == Verdict::Reopened;
                let row = batch.outcomes.iter().find(reopened).expect("C17: that it was opened is an outcome");
                assert_eq!(row.delivery, record.deliveries, "C17: the outcome of job {id} has the next number");
                check_reopened(*id, record, &ended[id], row.finished);
            }
            Fact::Deleted { id, .. } => {
                let last = newest(tables, *id).expect("a final job has an outcome");
                assert!(last.verdict.is_final(), "C17: only a final job is erased: {id}");
            }
            Fact::Replaced { id, .. } => {
                let record = state.jobs.get(*id).expect("a job that changes is in memory");
                assert!(record.queueing_lock().is_some(), "C10: job {id} never started");
            }
            _ => {}
        }
        state.apply(fact);
    }
    assert_eq!(state.difference(core.state()), None, "the fold of the facts is the state");
}

/// C17: a new budget of attempts, and everything else as it was.
fn check_reopened(id: JobId, record: &Record, ended: &Record, at: Timestamp) {
    assert_eq!((record.attempts, record.crashes), (0, 0), "C17: job {id} has a new budget");
    let same = |record: &Record| {
        let rare = record.rare.as_deref().cloned().unwrap_or_default();
        (record.stream, record.args_bytes, rare.lock, rare.strict, rare.attempt_timeout, rare.retry)
    };
    assert_eq!(same(record), same(ended), "C17: job {id} is as it was");
    assert_eq!(record.deadline(), ended.deadline().filter(|deadline| *deadline > at), "C17: job {id}");
    if let Some(value) = ended.queueing_lock() {
        assert_eq!(record.queueing_lock(), Some(value), "C10: job {id} takes its queueing lock again");
    }
}

fn newest(tables: &Tables, job: JobId) -> Option<&Outcome> {
    tables.outcomes().range((job, 0)..=(job, u32::MAX)).next_back().map(|(_, outcome)| outcome)
}

/// C15, within a stream: the lowest id first. Jobs with a lock have an order of their own, and those with a crash
/// behind them go one at a time. After the clock was set back, what waits may not be due.
fn check_order(state: &State, parked: &BTreeMap<JobId, Record>, id: JobId, record: &Record, at: Timestamp) {
    let is_rival = |other: &Record| {
        other.lock().is_none()
            && other.crashes == 0
            && other.phase == Phase::Waiting
            && other.due <= at
            && (other.stream.queue, other.stream.task) == (record.stream.queue, record.stream.task)
    };
    for (other, rival) in state.jobs.iter().filter(|(_, rival)| is_rival(rival)) {
        let goes_first = rival.stream.priority > record.stream.priority
            || (rival.stream.priority == record.stream.priority && other < id);
        assert!(!goes_first, "C15: job {other} goes before job {id}");
    }
    if record.lock().is_none() && record.crashes == 0 {
        for (other, _) in parked.iter().filter(|(_, rival)| is_rival(rival) && rival.stream == record.stream) {
            assert!(*other > id, "C15: parked job {other} goes before job {id}");
        }
    }
}

/// C9: among the startable jobs of a lock the lowest id goes first; a strict one only when all before it are final.
fn check_lock_order(core: &Core, state: &State, parked: &BTreeMap<JobId, Record>, id: JobId, record: &Record) {
    let lock = record.lock();
    let others: Vec<(JobId, &Record)> = state
        .jobs
        .iter()
        .chain(parked.iter().map(|(id, record)| (*id, record)))
        .filter(|(other, rival)| *other != id && rival.lock() == lock)
        .collect();
    for (other, rival) in &others {
        assert!(rival.phase != Phase::Running, "C9: jobs {other} and {id} carry one lock");
        if record.is_strict() {
            assert!(
                *other > id,
                "C9: strict job {id} waits for job {other}: {rival:?}, parked {}",
                parked.contains_key(other)
            );
        }
        let is_first = !rival.is_strict() || others.iter().all(|(third, _)| third >= other);
        assert!(
            !(*other < id && rival.phase == Phase::Waiting && is_first && is_startable(core, rival.stream)),
            "C9: job {other} goes before job {id}: {rival:?}, parked {}",
            parked.contains_key(other)
        );
    }
}

fn is_startable(core: &Core, stream: Stream) -> bool {
    matches!(core.stream_waits_for(stream), WaitingFor::Ready | WaitingFor::Limited)
}

/// Checks what holds after every commit. `erased`: final jobs that retention took away, and that are still counted.
pub(crate) fn check_state(state: &State, tables: &Tables, erased: u64, limits: &Limits) {
    assert_eq!(tables.contradiction(), None);
    let mut running: HashMap<LockId, JobId> = HashMap::new();
    let mut never_started = HashMap::new();
    for (id, record) in state.jobs.iter() {
        if let (Phase::Running, Some(lock)) = (record.phase, record.lock()) {
            assert_eq!(running.insert(lock, id), None, "C9: one running job per lock");
        }
    }
    let unstarted = state.jobs.iter().chain(tables.parked().values().map(|p| (p.id, &p.record)));
    for (id, record) in unstarted {
        if let Some(value) = record.queueing_lock() {
            assert_eq!(never_started.insert(value.clone(), id), None, "C10: one waiting job per queueing lock {value}");
        }
        let args = &tables.jobs()[&id].job.spec.args;
        assert_eq!(record.args_bytes as usize, args.len(), "job {id} has the arguments that are remembered");
    }
    let mut finals = 0;
    for id in tables.jobs().keys() {
        let in_memory = state.jobs.get(*id).is_some();
        let is_parked = tables.parked_at(*id).is_some();
        let is_final = newest(tables, *id).is_some_and(|outcome| outcome.verdict.is_final());
        finals += u64::from(is_final);
        let places = [in_memory, is_parked, is_final].map(usize::from).iter().sum::<usize>();
        assert_eq!(places, 1, "job {id} is in one place: memory {in_memory}, parked {is_parked}, final {is_final}");
    }
    assert_eq!(state.finished.values().sum::<u64>(), finals + erased, "every final job is counted");
    for (queue, verdict, erased, known) in tables.erased() {
        assert!(known <= erased, "no more are forgotten than were erased");
        assert_eq!(state.forgotten(queue, verdict), known, "the tables know which are forgotten");
    }
    assert_eq!(state.paused, *tables.pauses(), "C11: the tables know which queues are paused");
    assert_eq!(state.places.values().map(|place| place.count).sum::<u64>(), tables.parked().len() as u64);
    for (place, key) in tables.parked().keys() {
        let known = state.place(*place).expect("the place of a parked job is known");
        assert!(known.low <= *key, "{key:?} in {place:?} lies below its low end, {known:?}");
    }
    // Whatever the limit, what runs stays in memory, and a floor of every stream.
    let running: Vec<JobId> =
        state.jobs.iter().filter(|(_, record)| record.phase == Phase::Running).map(|(id, _)| id).collect();
    assert!(state.runs.keys().eq(&running), "what runs has an open delivery, and nothing else");
    let allowed = limits.memory_jobs_max + running.len() + STREAMS * limits.stream_floor_jobs;
    assert!(state.jobs.len() <= allowed, "C14: {} jobs in memory", state.jobs.len());
}
