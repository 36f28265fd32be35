//! One stream as the session sees it.

use std::{sync::Arc, time::Duration};

use cabbage_proto::v1;

use super::event::{LinkId, TaskLimits};
use crate::wire;

/// How many names a broker may announce on one stream, so that a faulty one cannot fill the memory.
const MAX_DICTIONARY_ENTRIES: usize = 1 << 20;

/// A link that is not welcome yet.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) id: LinkId,
    /// Give up by then.
    pub(super) deadline: Duration,
    pub(super) connected: bool,
    /// The revision of the capacity that `Hello` carried, once it was sent.
    pub(super) hello: Option<u64>,
}

/// A link that is welcome.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) term: u64,
    pub(super) nonce: u64,
    pub(super) welcomed_at: Duration,
    pub(super) last_heard: Duration,
    pub(super) received_seq: u64,
    pub(super) dictionary: Dictionary,
    pub(super) capacity_sent: u64,
    pub(super) next_beat: Duration,
    pub(super) beats: u64,
    pub(super) drain_sent: bool,
    pub(super) drain_acked: bool,
    /// A `Hello` with our inventory went out on the next stream: what comes here now is not in it.
    pub(super) discards_jobs: bool,
    pub(super) caught_up: bool,
}

impl Link {
    pub(super) fn new(opening: &Opening, now: Duration, term: u64, nonce: u64, beat: Duration) -> Self {
        Self {
            id: opening.id,
            term,
            nonce,
            welcomed_at: now,
            last_heard: now,
            received_seq: 0,
            dictionary: Dictionary::default(),
            capacity_sent: opening.hello.unwrap_or_default(),
            next_beat: now + beat,
            beats: 0,
            drain_sent: false,
            drain_acked: false,
            discards_jobs: false,
            caught_up: false,
        }
    }
}

/// The names that a stream announced.
#[derive(Debug, Default)]
pub(super) struct Dictionary(Vec<Option<Name>>);

/// A name, and the number of the task of this name if there is a handler.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) text: Arc<str>,
    pub(super) task: Option<usize>,
}

impl Dictionary {
    pub(super) fn announce(&mut self, entry: v1::DictionaryEntry, tasks: &[TaskLimits]) {
        let index = entry.number as usize;
        if index >= MAX_DICTIONARY_ENTRIES {
            return;
        }
        if self.0.len() <= index {
            self.0.resize(index + 1, None);
        }
        let task = tasks.iter().position(|task| task.names().any(|name| *name == entry.name));
        self.0[index] = Some(Name { text: entry.name.into(), task });
    }

    pub(super) fn name(&self, number: u32) -> Option<&Name> {
        self.0.get(number as usize)?.as_ref()
    }
}

/// What the last `Welcome` said; until the first, the contract's defaults.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) beat: Duration,
    pub(super) watchdog: Duration,
    pub(super) grace: Duration,
    pub(super) session: Duration,
    pub(super) max_frame_bytes: usize,
    pub(super) max_result_bytes: usize,
    pub(super) max_unacknowledged: usize,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            beat: Duration::from_secs(3),
            watchdog: Duration::from_secs(8),
            grace: Duration::from_secs(20),
            session: Duration::from_mins(1),
            max_frame_bytes: super::outbox::MAX_FRAME_BYTES,
            max_result_bytes: 256 << 10,
            max_unacknowledged: usize::MAX,
        }
    }
}

impl Terms {
    /// What is absent or zero keeps its default.
    pub(super) fn of(welcome: &v1::Welcome) -> Self {
        let default = Self::default();
        let interval = |given: &Option<prost_types::Duration>, default: Duration| {
            given.and_then(wire::to_duration).filter(|given| !given.is_zero()).unwrap_or(default)
        };
        let limit = |given: u32, default: usize| if given == 0 { default } else { given as usize };
        Self {
            beat: interval(&welcome.beat, default.beat),
            watchdog: interval(&welcome.watchdog, default.watchdog),
            grace: interval(&welcome.grace, default.grace),
            session: interval(&welcome.session, default.session),
            // Half of what the broker takes: sizes are estimated, not counted.
            max_frame_bytes: limit(welcome.max_receive_bytes / 2, default.max_frame_bytes).min(default.max_frame_bytes),
            max_result_bytes: limit(welcome.max_result_bytes, default.max_result_bytes),
            max_unacknowledged: limit(welcome.max_unacknowledged_results, default.max_unacknowledged),
        }
    }
}
