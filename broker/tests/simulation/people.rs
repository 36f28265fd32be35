//! Who talks to the broker: what clients ask for, and what workers do.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use cabbage_broker::core::{
    batch::Changed,
    effect::LinkId,
    event::{Capacity, End, Failed, Hello, OnConflict, Resume, RetryDecision},
    job::{DueAt, Failure, JobSpec, RetryPolicy, Verdict},
    types::{JobId, Lease, Timestamp},
};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use uuid::Uuid;

/// A random job. About one in thirty holds what PostgreSQL refuses.
pub(crate) fn spec(rng: &mut StdRng, now: Timestamp) -> Arc<JobSpec> {
    let lock = rng.random_bool(0.4).then(|| Arc::from(*["a", "b", "c"].choose(rng).unwrap_or(&"a")));
    let retry = rng.random_bool(0.5).then(|| {
        Arc::new(RetryPolicy {
            max_attempts: rng.random_range(0..4),
            wait: Duration::from_millis(rng.random_range(0..3) * 1_000),
            linear_wait: Duration::ZERO,
            exponential_wait: Duration::from_secs(rng.random_range(0..2)),
            exponential_factor: 2.0,
            max_wait: Duration::from_secs(20),
            jitter: 0.1,
            only_kinds: Vec::new(),
            never_kinds: vec!["Never".into()],
        })
    });
    Arc::new(JobSpec {
        task: Arc::from(*["t0", "t1", "t2"].choose(rng).unwrap_or(&"t0")),
        queue: Arc::from(*["q0", "q1"].choose(rng).unwrap_or(&"q0")),
        args: Bytes::from_static(match rng.random_range(0..30) {
            0 => b"\0",
            1..10 => b"{\"n\":1}",
            _ => b"{}",
        }),
        priority: rng.random_range(-1..=1),
        strict: lock.is_some() && rng.random_bool(0.3),
        lock,
        queueing_lock: rng.random_bool(0.2).then(|| Arc::from(*["x", "y", "z"].choose(rng).unwrap_or(&"x"))),
        due: match rng.random_range(0..10) {
            0 | 1 => DueAt::In(Duration::from_millis(rng.random_range(0..30_000))),
            2 => DueAt::At(now.plus(Duration::from_millis(rng.random_range(0..5_000)))),
            _ => DueAt::Once,
        },
        deadline: rng.random_bool(0.05).then(|| now.plus(Duration::from_secs(rng.random_range(1..30)))),
        attempt_timeout: rng.random_bool(0.1).then(|| Duration::from_secs(rng.random_range(1..10))),
        retry,
        metadata: Vec::new(),
        traceparent: None,
        tracestate: None,
    })
}

/// What a defer does that meets a taken queueing lock.
pub(crate) fn on_conflict(rng: &mut StdRng) -> OnConflict {
    *[OnConflict::Reject, OnConflict::Reschedule, OnConflict::Replace].choose(rng).unwrap_or(&OnConflict::Reject)
}

/// A random end of a delivery.
pub(crate) fn end(rng: &mut StdRng, cancelled: bool) -> End {
    match rng.random_range(0..20) {
        _ if cancelled && rng.random_bool(0.5) => End::Cancelled("told to".into()),
        0..=3 => {
            let kind = if rng.random_bool(0.2) { "Never" } else { "Flaky" };
            let message = if rng.random_bool(0.1) { "not \0 text" } else { "it broke" };
            End::Failed(Box::new(Failed {
                failure: Failure { kind: kind.into(), message: message.into(), trace: String::new() },
                never_retry: rng.random_bool(0.1),
                retry: rng.random_bool(0.2).then(|| RetryDecision {
                    delay: Duration::from_secs(rng.random_range(0..3)),
                    changed: Changed {
                        queue: rng.random_bool(0.5).then(|| Arc::from("q1")),
                        priority: rng.random_bool(0.5).then_some(1),
                        lock: rng.random_bool(0.5).then(|| Arc::from(*["", "a"].choose(rng).unwrap_or(&""))),
                    },
                }),
            }))
        }
        4 => End::Released { reason: String::new(), delay: Duration::from_secs(rng.random_range(0..2)) },
        5 => End::Snoozed(Duration::from_secs(rng.random_range(0..40))),
        6 => End::Succeeded(Some(Bytes::from_static(b"{\"n\":1}"))),
        _ => End::Succeeded(None),
    }
}

/// The verdicts that an end may be recorded as.
pub(crate) fn verdicts(end: &End) -> &'static [Verdict] {
    match end {
        End::Succeeded(_) => &[Verdict::Succeeded],
        End::Failed(_) => &[Verdict::Failed, Verdict::Retried],
        End::Cancelled(_) => &[Verdict::Cancelled],
        End::Released { .. } => &[Verdict::Released, Verdict::Cancelled],
        End::Snoozed(_) => &[Verdict::Snoozed, Verdict::Cancelled],
        End::Unrecordable(_) => &[Verdict::Failed],
    }
}

/// A worker process.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    /// Its stream, as it sees it.
    pub(crate) link: Option<LinkId>,
    pub(crate) welcomed: bool,
    pub(crate) session: Option<(Uuid, Uuid)>,
    /// On the wire, not received.
    pub(crate) wire: VecDeque<Lease>,
    pub(crate) received: u64,
    pub(crate) held: Vec<Lease>,
    pub(crate) cancelled: Vec<JobId>,
    /// Sent, not acknowledged.
    pub(crate) outbox: Vec<(u64, Lease, End)>,
    pub(crate) frame: u64,
    pub(crate) revision: u64,
    pub(crate) drained: bool,
}

impl Worker {
    /// It introduces itself on a new stream; with all it holds, if it has a session.
    pub(crate) fn hello(&mut self, rng: &mut StdRng, link: LinkId, whole: bool) -> Hello {
        self.link = Some(link);
        self.welcomed = false;
        self.wire.clear();
        self.received = 0;
        self.frame = 0;
        self.revision = 0;
        self.drained = false;
        let all = ["t0", "t1", "t2"];
        let tasks = if whole { 3 } else { rng.random_range(1..=3) };
        let start = rng.random_range(0..3);
        Hello {
            link,
            new_session: Uuid::from_u128(rng.random()),
            new_secret: Uuid::from_u128(rng.random()),
            queues: if whole || rng.random_bool(0.6) { Vec::new() } else { vec![Arc::from("q0")] },
            tasks: (0..tasks).map(|n| (Arc::from(all[(start + n) % 3]), rng.random_range(0..4))).collect(),
            capacity: Capacity { revision: 0, max_jobs: rng.random_range(1..8), max_bytes: 0, paused: false },
            wants_caught_up: rng.random_bool(0.3),
            resume: self.session.map(|(session, secret)| Resume { session, secret, leases: self.leases() }),
        }
    }

    /// Everything that it holds.
    pub(crate) fn leases(&self) -> Vec<Lease> {
        self.held.iter().copied().chain(self.outbox.iter().map(|(_, lease, _)| *lease)).collect()
    }

    /// The process dies, and another takes its place.
    pub(crate) fn die(&mut self) {
        *self = Self::default();
    }
}
