//! What goes in comes out: random facts, records and states, and bytes that are none.

use std::{sync::Arc, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use super::{
    HIGHEST, LOWEST, decode_answer, decode_facts, decode_place, decode_record, decode_state, encode_answer,
    encode_facts, encode_place, encode_record, encode_state,
};
use crate::{
    core::{
        ask::By,
        batch::Answer,
        fact::Fact,
        job::{Phase, Rare, Record, RetryPolicy, Run, Verdict},
        place::{Place, PlaceKey, PlaceState},
        state::{Pause, SessionRecord, State},
        types::{Format, JobId, LockId, QueueNo, SessionNo, Stream, TaskNo, Timestamp},
    },
    store::StoreError,
};

const VERDICTS: [Verdict; 8] = [
    Verdict::Succeeded,
    Verdict::Failed,
    Verdict::Cancelled,
    Verdict::Retried,
    Verdict::Snoozed,
    Verdict::Released,
    Verdict::Crashed,
    Verdict::Reopened,
];

/// Random values; half of them small or equal, as real ones are.
struct Dice(StdRng);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    fn chance(&mut self) -> bool {
        self.0.random()
    }

    fn number(&mut self) -> u32 {
        if self.chance() { self.0.random_range(0..3) } else { self.0.random() }
    }

    fn long(&mut self) -> i64 {
        if self.chance() { self.0.random_range(0..9) } else { self.0.random() }
    }

    fn id(&mut self) -> JobId {
        JobId(self.long())
    }

    fn time(&mut self) -> Timestamp {
        Timestamp(self.long())
    }

    fn uuid(&mut self) -> Uuid {
        Uuid::from_u128(self.0.random())
    }

    fn text(&mut self) -> Arc<str> {
        ["", "mail", "ünïcode \u{1F96C}", "a\nb"][self.0.random_range(0..4)].into()
    }

    fn verdict(&mut self) -> Verdict {
        VERDICTS[self.0.random_range(0..VERDICTS.len())]
    }

    fn stream(&mut self) -> Stream {
        Stream { queue: QueueNo(self.number()), task: TaskNo(self.number()), priority: self.0.random() }
    }

    fn place(&mut self) -> Place {
        let (lock, queue, task) = (LockId(self.uuid()), QueueNo(self.number()), TaskNo(self.number()));
        match self.0.random_range(0..4) {
            0 => Place::Stream(self.stream()),
            1 => Place::Due(self.stream()),
            2 => Place::Lock(lock, queue, task),
            _ => Place::Strict(lock, queue, task),
        }
    }

    fn key(&mut self) -> PlaceKey {
        PlaceKey { sort: self.long(), id: self.id() }
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.chance().then(|| make(self))
    }

    fn duration(&mut self) -> Duration {
        Duration::new(self.0.random(), self.0.random_range(0..1_000_000_000))
    }

    fn retry(&mut self) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.number(),
            wait: self.duration(),
            linear_wait: self.duration(),
            exponential_wait: self.duration(),
            exponential_factor: self.0.random(),
            max_wait: self.duration(),
            jitter: self.0.random(),
            only_kinds: (0..self.0.random_range(0..3)).map(|_| self.text().to_string()).collect(),
            never_kinds: (0..self.0.random_range(0..3)).map(|_| self.text().to_string()).collect(),
        }
    }

    fn rare(&mut self) -> Option<Box<Rare>> {
        self.maybe(|dice| {
            Box::new(Rare {
                lock: dice.maybe(|dice| LockId(dice.uuid())),
                strict: dice.chance(),
                queueing_lock: dice.maybe(Self::text),
                deadline: dice.maybe(Self::time),
                attempt_timeout: dice.maybe(Self::duration),
                retry: dice.maybe(|dice| Arc::new(dice.retry())),
            })
        })
    }

    fn run(&mut self) -> Run {
        Run {
            session: SessionNo(self.number()),
            nonce: self.0.random(),
            started: self.time(),
            cancel_requested: self.chance(),
        }
    }

    fn record(&mut self) -> Record {
        Record {
            stream: self.stream(),
            phase: if self.chance() { Phase::Scheduled } else { Phase::Waiting },
            due: self.time(),
            attempts: self.number(),
            deliveries: self.number(),
            crashes: self.0.random(),
            args_bytes: self.number(),
            rare: self.rare(),
        }
    }

    fn pause(&mut self) -> Pause {
        Pause { since: self.time(), by: By { who: self.text(), why: self.text() } }
    }

    fn fact(&mut self) -> Fact {
        match self.0.random_range(0..22) {
            0 => Fact::QueueNamed { no: QueueNo(self.number()), name: self.text() },
            1 => Fact::TaskNamed { no: TaskNo(self.number()), name: self.text() },
            2 => Fact::Created {
                id: self.id(),
                stream: self.stream(),
                waiting: self.chance(),
                due: self.time(),
                args_bytes: self.number(),
                rare: self.rare(),
            },
            3 => Fact::Due { id: self.id() },
            4 => Fact::Started {
                id: self.id(),
                session: SessionNo(self.number()),
                at: self.time(),
                nonce: self.0.random(),
            },
            5 => Fact::CancelRequested { id: self.id() },
            6 => Fact::Finished { id: self.id(), verdict: self.verdict() },
            7 => Fact::Returned {
                id: self.id(),
                verdict: self.verdict(),
                due: self.time(),
                waiting: self.chance(),
                stream: self.stream(),
                lock: self.maybe(|dice| LockId(dice.uuid())),
            },
            8 => Fact::Parked { id: self.id(), place: self.place(), key: self.key() },
            9 => Fact::Unparked { id: self.id(), place: self.place(), key: self.key(), record: self.record() },
            10 => Fact::PlaceMoved { place: self.place(), low: self.key() },
            11 => Fact::SessionOpened { no: SessionNo(self.number()), id: self.uuid(), secret: self.uuid() },
            12 => Fact::SessionClosed { no: SessionNo(self.number()) },
            13 => Fact::QueuePaused { no: QueueNo(self.number()), pause: self.maybe(Self::pause) },
            14 => Fact::Reopened { id: self.id(), verdict: self.verdict(), record: self.record() },
            15 => Fact::Rescheduled { id: self.id(), due: self.time(), waiting: self.chance() },
            16 => Fact::Replaced { id: self.id(), args_bytes: self.number() },
            17 => Fact::Deleted { id: self.id(), queue: QueueNo(self.number()), verdict: self.verdict() },
            18 => Fact::KeptBelow { id: self.id() },
            19 => Fact::MovedBelow { id: self.id() },
            20 => Fact::FormatRaised { format: Format(self.0.random()) },
            _ => Fact::Forgotten { queue: QueueNo(self.number()), verdict: self.verdict(), jobs: self.0.random() },
        }
    }
}

#[test]
fn any_facts_come_back_in_their_order() {
    for seed in 0..500 {
        let mut dice = Dice::new(seed);
        let len = dice.0.random_range(0..60);
        let mut facts: Vec<Fact> = Vec::new();
        for _ in 0..len {
            // Now and then the same again, so that there are runs.
            let again = facts.last().cloned().filter(|_| dice.chance());
            facts.push(again.unwrap_or_else(|| dice.fact()));
        }
        let bytes = encode_facts(&facts, HIGHEST);
        assert_eq!(decode_facts(&bytes, HIGHEST).expect("just written"), (HIGHEST, facts), "seed {seed}");
    }
}

#[test]
fn damaged_facts_are_an_error_and_no_panic() {
    let mut dice = Dice::new(1);
    for _ in 0..2_000 {
        let facts: Vec<_> = (0..8).map(|_| dice.fact()).collect();
        let mut bytes = encode_facts(&facts, HIGHEST);
        for _ in 0..3 {
            let at = dice.0.random_range(1..bytes.len());
            bytes[at] = dice.0.random();
        }
        bytes.truncate(dice.0.random_range(1..=bytes.len()));
        // Whatever it makes of them, it comes to an end.
        let _read = decode_facts(&bytes, HIGHEST);
    }
}

#[test]
fn a_plain_row_of_4000_facts_is_small() {
    let stream = Stream { queue: QueueNo(3), task: TaskNo(5), priority: 0 };
    let facts: Vec<_> = (0..2_000)
        .flat_map(|at| {
            let id = JobId(7_000_000 + at);
            let now = Timestamp(1_700_000_000_000_000);
            [
                Fact::Created { id, stream, waiting: true, due: now, args_bytes: 90, rare: None },
                Fact::Started { id, session: SessionNo(1), at: now, nonce: 99 },
            ]
        })
        .collect();
    let bytes = encode_facts(&facts, HIGHEST);
    assert_eq!(decode_facts(&bytes, HIGHEST).expect("just written"), (HIGHEST, facts));
    assert!(bytes.len() < 4_200, "{} bytes", bytes.len());
}

#[test]
fn any_record_and_place_come_back() {
    let mut dice = Dice::new(2);
    for _ in 0..1_000 {
        let record = dice.record();
        assert_eq!(decode_record(&encode_record(&record, LOWEST)).expect("just written"), record);
        let place = dice.place();
        assert_eq!(decode_place(&encode_place(place)).expect("just written"), place);
    }
}

#[test]
fn answers_come_back() {
    let answers = [
        Answer::Deferred { first: JobId(7), count: 1_000 },
        Answer::DeferredIds(vec![JobId(3), JobId(-1), JobId(i64::MAX)]),
        Answer::DeferredIds(Vec::new()),
        Answer::Cancelled { state: 6 },
        Answer::Moved { state: 2 },
        Answer::Deleted,
        Answer::Paused(Dice::new(4).pause()),
        Answer::Resumed,
        Answer::ScheduleChanged,
        Answer::Recorded,
    ];
    for answer in answers {
        assert_eq!(decode_answer(&encode_answer(&answer, HIGHEST)).expect("just written"), answer);
    }
}

#[test]
fn any_state_comes_back() {
    for seed in 0..50 {
        let mut dice = Dice::new(seed);
        let mut state = State::default();
        state.queues.extend((0..5).map(|no| Arc::from(format!("queue {no}"))));
        state.tasks.extend((0..9).map(|no| Arc::from(format!("task {no}"))));
        state.parked_with_queueing_lock = dice.0.random();
        state.next_session = dice.number();
        for _ in 0..dice.0.random_range(0..40) {
            // Ids of jobs are never below zero.
            let id = JobId(dice.long() & i64::MAX);
            let mut record = dice.record();
            // The same id may be drawn twice.
            state.runs.remove(&id);
            if dice.chance() {
                record.phase = Phase::Running;
                state.runs.insert(id, dice.run());
            }
            state.jobs.insert(id, record);
            state.places.insert(dice.place(), PlaceState { count: dice.0.random(), low: dice.key() });
            state.parked_with_lock.insert(LockId(dice.uuid()), dice.0.random());
            let session = SessionRecord { id: dice.uuid(), secret: dice.uuid() };
            state.sessions.insert(SessionNo(dice.number()), session);
            state.paused.insert(QueueNo(dice.number()), dice.pause());
            state.finished.insert((QueueNo(dice.number()), dice.verdict()), dice.0.random());
            state.forgotten.insert((QueueNo(dice.number()), dice.verdict()), dice.0.random());
        }
        state.number_names();
        state.format = if dice.chance() { LOWEST } else { HIGHEST };
        let read = decode_state(&encode_state(&state), state.format).expect("just written");
        assert_eq!(read.difference(&state), None, "seed {seed}");
        assert_eq!(read.queue_no("queue 3"), Some(QueueNo(3)));
        assert_eq!(read.task_no("task 8"), Some(TaskNo(8)));
    }
}

#[test]
fn a_higher_format_is_named_and_never_misread() {
    let facts = [Fact::Due { id: JobId(7) }];
    let row = encode_facts(&facts, HIGHEST);
    assert!(matches!(decode_facts(&row, LOWEST), Err(StoreError::FormatTooNew { found: HIGHEST, known: LOWEST })));
    assert_eq!(decode_facts(&encode_facts(&facts, LOWEST), HIGHEST).expect("it is lower"), (LOWEST, facts.to_vec()));
    let mut state = State::default();
    assert_eq!(encode_state(&state)[0], LOWEST.0, "a new cell begins with the lowest format");
    state.apply(&Fact::FormatRaised { format: HIGHEST });
    let checkpoint = encode_state(&state);
    assert_eq!(decode_state(&checkpoint, HIGHEST).expect("just written").format, HIGHEST);
    let refused = decode_state(&checkpoint, LOWEST).expect_err("it is too high");
    for part in ["format 3", "formats up to 2", "--highest-format", "newer version"] {
        assert!(refused.to_string().contains(part), "{refused}");
    }
    assert!(matches!(decode_facts(&[], HIGHEST), Err(StoreError::Corrupt(_))));
}

#[test]
fn a_row_of_the_first_format_is_still_read() {
    // Two facts of kind `Due` (3): a run of two, with four bits for the kind.
    let mut bytes = encode_facts(&[Fact::Due { id: JobId(7) }, Fact::Due { id: JobId(8) }], LOWEST);
    assert_eq!(&bytes[..4], [2, 10, 1, (1 << 5) | 3]);
    (bytes[0], bytes[3]) = (1, (1 << 4) | 3);
    let (format, facts) = decode_facts(&bytes, HIGHEST).expect("the first format is known");
    assert_eq!(format, Format(1));
    assert_eq!(facts, [Fact::Due { id: JobId(7) }, Fact::Due { id: JobId(8) }]);
}
