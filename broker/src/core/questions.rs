//! Questions to the store, and who waits for their answers.
//!
//! An answer is a snapshot. What was decided after it, or is decided but not written, may make it void: then it is
//! asked again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use super::{
    batch::RequestRow,
    effect::{Fetch, Fetched, FinishedJob, Found, JobFound, LookUp, Question},
    event::Event,
    inbox::Look,
    job::Verdict,
    place::{Place, PlaceKey},
    types::{JobId, LockId, Timestamp},
};

/// How many look-ups are under way at a time, but for those of request ids alone. What is to be looked up meanwhile is
/// gathered for the next one.
const LOOK_UPS_MAX: usize = 2;

/// How many look-ups of request ids alone are under way at a time. They are what single calls cost the database beside
/// their commits, so one gathers as many as it can; and it waits for no verb's.
const REQUEST_LOOK_UPS_MAX: usize = 1;

/// How much one look-up's answer may bring to decide at once, in jobs and results, about: a batch's worth.
const LOOK_UP_WEIGHT_MAX: usize = 4_000;

/// What is asked and not answered.
#[derive(Debug, Default)]
pub(super) struct Questions {
    next_id: u64,
    /// The number of the last question of a strict job.
    last_strict: u64,
    /// What is to be looked up next, in the order in which it was asked, by its kind.
    open: BTreeMap<Kind, VecDeque<(Keys, Waiting)>>,
    ready: Vec<Question>,
    look_ups: BTreeMap<u64, Asked>,
    fetches: BTreeMap<u64, FetchAsked>,
    fetching: BTreeMap<Place, u64>,
    /// The look into the inbox that is under way, and the last committed row when it was asked for.
    look: Option<(u64, u64)>,
    /// Changes of places in rows that are not committed.
    uncommitted: HashMap<Place, Vec<(u64, PlaceKey)>>,
}

/// What a look-up asks for. Each kind is gathered by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Request ids alone: what plain defers need to know.
    Requests,
    /// Keys of any sort.
    Any,
}

impl Kind {
    fn of(keys: &Keys) -> Self {
        let Keys { requests, queueing_locks, jobs, deliveries, locks_before, finished } = keys;
        let has_others = !(queueing_locks.is_empty()
            && jobs.is_empty()
            && deliveries.is_empty()
            && locks_before.is_empty()
            && finished.is_empty());
        if requests.is_empty() || has_others { Self::Any } else { Self::Requests }
    }

    /// How many of this kind are under way at a time.
    fn look_ups_max(self) -> usize {
        match self {
            Self::Requests => REQUEST_LOOK_UPS_MAX,
            Self::Any => LOOK_UPS_MAX,
        }
    }
}

/// Who waits for a look-up.
#[derive(Clone, Debug)]
pub(super) enum Waiting {
    /// An event that cannot be decided without it.
    Event(Event),
    /// A strict job that may be the first of its lock; the question has a number of its own.
    Strict { lock: LockId, job: JobId, number: u64 },
    /// A tick of the schedule of this name.
    Tick(Arc<str>),
}

impl Waiting {
    /// How much there is to decide once it is answered.
    fn weight(&self) -> usize {
        match self {
            Self::Event(Event::Defer(defer)) => defer.items.len(),
            Self::Event(Event::Settle(settle)) => settle.results.len(),
            Self::Event(Event::Inbox(rows)) => rows.len(),
            Self::Event(_) | Self::Strict { .. } | Self::Tick(_) => 1,
        }
    }
}

/// The keys of a look-up, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) requests: BTreeSet<Arc<str>>,
    pub(super) queueing_locks: BTreeSet<Arc<str>>,
    pub(super) jobs: BTreeSet<JobId>,
    pub(super) deliveries: BTreeSet<(JobId, u32)>,
    pub(super) locks_before: BTreeSet<(LockId, JobId)>,
    pub(super) finished: BTreeSet<JobId>,
}

impl Keys {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.requests.extend(more.requests);
        self.queueing_locks.extend(more.queueing_locks);
        self.jobs.extend(more.jobs);
        self.deliveries.extend(more.deliveries);
        self.locks_before.extend(more.locks_before);
        self.finished.extend(more.finished);
    }

    fn into_look_up(self, id: u64) -> LookUp {
        LookUp {
            id,
            requests: self.requests.into_iter().collect(),
            queueing_locks: self.queueing_locks.into_iter().collect(),
            jobs: self.jobs.into_iter().collect(),
            deliveries: self.deliveries.into_iter().collect(),
            locks_before: self.locks_before.into_iter().collect(),
            finished: self.finished.into_iter().collect(),
        }
    }
}

/// As much of what is to be looked up as one answer should bring to decide; `None`: there is nothing.
fn next_look_up(gathered: &mut VecDeque<(Keys, Waiting)>) -> Option<(Keys, Vec<Waiting>)> {
    let (mut keys, mut waiting, mut weight) = (Keys::default(), Vec::new(), 0);
    while weight < LOOK_UP_WEIGHT_MAX
        && let Some((more, one)) = gathered.pop_front()
    {
        weight += one.weight();
        keys.extend(more);
        waiting.push(one);
    }
    (!waiting.is_empty()).then_some((keys, waiting))
}

#[derive(Debug)]
struct Asked {
    kind: Kind,
    keys: LookUp,
    waiting: Vec<Waiting>,
    /// The last committed row when it was asked: the snapshot has seen it.
    committed_row: u64,
    /// The last row that was decided on when it was asked.
    decided_row: u64,
}

#[derive(Debug)]
struct FetchAsked {
    fetch: Fetch,
    /// Changes of the place in rows that the snapshot may not have seen.
    touched: Vec<(u64, PlaceKey)>,
}

/// The answer to a look-up, by key.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) snapshot: u64,
    /// The last row that was decided on when it was asked. Only a snapshot that has seen it knows how every delivery
    /// ended that is not open.
    pub(super) decided_row: u64,
    pub(super) requests: HashMap<Arc<str>, Option<RequestRow>>,
    pub(super) queueing_locks: HashMap<Arc<str>, Option<JobId>>,
    pub(super) jobs: HashMap<JobId, JobFound>,
    pub(super) deliveries: HashMap<(JobId, u32), Option<Verdict>>,
    pub(super) locks_before: HashMap<(LockId, JobId), bool>,
    pub(super) finished: HashMap<JobId, Option<Box<FinishedJob>>>,
}

impl Known {
    /// Whether it has seen all that was decided when it was asked.
    pub(super) fn is_complete(&self) -> bool {
        self.snapshot >= self.decided_row
    }

    /// A final job, if it was asked for and is one.
    pub(super) fn finished(&self, job: JobId) -> Option<&FinishedJob> {
        self.finished.get(&job)?.as_deref()
    }
}

impl Questions {
    /// Someone waits for these keys.
    pub(super) fn look_up(&mut self, keys: Keys, waiting: Waiting) {
        self.open.entry(Kind::of(&keys)).or_default().push_back((keys, waiting));
    }

    /// A number for the question of a strict job.
    pub(super) fn number_strict(&mut self) -> u64 {
        self.last_strict += 1;
        self.last_strict
    }

    /// Asks for a range of a place, if that is not under way. The fetch's `id` is filled in here.
    pub(super) fn fetch(&mut self, place: Place, from: PlaceKey, until: Timestamp, limit: u32) {
        if self.fetching.contains_key(&place) {
            return;
        }
        self.next_id += 1;
        let fetch = Fetch { id: self.next_id, place, from, until, limit };
        self.fetching.insert(place, fetch.id);
        let touched = self
            .uncommitted
            .get(&place)
            .map(|touched| touched.iter().filter(|(_, key)| *key >= from).copied().collect());
        self.fetches.insert(fetch.id, FetchAsked { fetch, touched: touched.unwrap_or_default() });
        self.ready.push(Question::Fetch(fetch));
    }

    pub(super) fn is_fetching(&self, place: Place) -> bool {
        self.fetching.contains_key(&place)
    }

    /// How many jobs the fetches under way may bring.
    pub(super) fn fetching_jobs(&self) -> usize {
        self.fetches.values().map(|asked| asked.fetch.limit as usize).sum()
    }

    /// How many fetches of places behind locks are under way.
    pub(super) fn lock_fetches(&self) -> usize {
        self.fetching.range(Place::first_lock()..).count()
    }

    /// Asks for a look into the inbox.
    pub(super) fn look_into_inbox(&mut self, whole: bool, attended: bool, committed_row: u64) {
        self.next_id += 1;
        self.look = Some((self.next_id, committed_row));
        self.ready.push(Question::Look(Look { id: self.next_id, whole, attended }));
    }

    /// Whether a look into the inbox is under way.
    pub(super) fn is_looking(&self) -> bool {
        self.look.is_some()
    }

    /// A look was answered, or failed. `false`: nobody waits for it.
    pub(super) fn looked(&mut self, id: u64) -> bool {
        self.look.take_if(|(look, _)| *look == id).is_some()
    }

    /// What to ask now.
    pub(super) fn take(&mut self, committed_row: u64, decided_row: u64) -> Vec<Question> {
        for (kind, gathered) in &mut self.open {
            let under_way = self.look_ups.values().filter(|asked| asked.kind == *kind).count();
            for _ in under_way..kind.look_ups_max() {
                let Some((keys, waiting)) = next_look_up(gathered) else { break };
                self.next_id += 1;
                let keys = keys.into_look_up(self.next_id);
                let asked = Asked { kind: *kind, keys: keys.clone(), waiting, committed_row, decided_row };
                self.look_ups.insert(self.next_id, asked);
                self.ready.push(Question::LookUp(keys));
            }
        }
        std::mem::take(&mut self.ready)
    }

    /// A look-up was answered: who waited for it, and what is known now. An answer that nobody waits for is dropped.
    pub(super) fn answered(&mut self, found: Found) -> Option<(Vec<Waiting>, Arc<Known>)> {
        let Asked { keys, waiting, decided_row, .. } = self.look_ups.remove(&found.id)?;
        let known = Known {
            snapshot: found.snapshot,
            decided_row,
            requests: keys.requests.into_iter().zip(found.requests).collect(),
            queueing_locks: keys.queueing_locks.into_iter().zip(found.queueing_locks).collect(),
            jobs: keys.jobs.into_iter().zip(found.jobs).collect(),
            deliveries: keys.deliveries.into_iter().zip(found.deliveries).collect(),
            locks_before: keys.locks_before.into_iter().zip(found.locks_before).collect(),
            finished: keys.finished.into_iter().zip(found.finished).collect(),
        };
        Some((waiting, Arc::new(known)))
    }

    /// A fetch was answered: the question, if the answer holds.
    pub(super) fn fetched(&mut self, answer: &Fetched) -> Option<Fetch> {
        let FetchAsked { fetch, touched } = self.fetches.remove(&answer.id)?;
        self.fetching.remove(&fetch.place);
        // The answer speaks of the keys from the first one asked for up to the one that comes next. What came to lie
        // below was not asked for, whatever the snapshot has seen.
        let is_covered = |key: PlaceKey| answer.next.is_none_or(|next| key < next);
        let is_void =
            touched.iter().any(|(row, key)| *key < fetch.from || (*row > answer.snapshot && is_covered(*key)));
        (!is_void).then_some(fetch)
    }

    /// A question failed without effect: who waited for it.
    pub(super) fn failed(&mut self, id: u64) -> Vec<Waiting> {
        if let Some(asked) = self.fetches.remove(&id) {
            self.fetching.remove(&asked.fetch.place);
        }
        self.look_ups.remove(&id).map(|asked| asked.waiting).unwrap_or_default()
    }

    /// A place changed at this key, in this row.
    pub(super) fn touched(&mut self, place: Place, key: PlaceKey, row: u64) {
        if let Some(asked) = self.fetching.get(&place).and_then(|id| self.fetches.get_mut(id)) {
            asked.touched.push((row, key));
        }
        self.uncommitted.entry(place).or_default().push((row, key));
    }

    pub(super) fn committed(&mut self, row: u64) {
        self.uncommitted.retain(|_, touched| {
            touched.retain(|(at, _)| *at > row);
            !touched.is_empty()
        });
    }

    /// The oldest row that a snapshot to come may not have seen, less one.
    pub(super) fn oldest_row(&self) -> Option<u64> {
        let look = self.look.map(|(_, committed_row)| committed_row);
        self.look_ups.values().map(|asked| asked.committed_row).chain(look).min()
    }

    /// Everything is forgotten: answers to come are dropped. Gives who waited.
    pub(super) fn reset(&mut self) -> Vec<Waiting> {
        let mut waiting: Vec<Waiting> =
            std::mem::take(&mut self.look_ups).into_values().flat_map(|asked| asked.waiting).collect();
        waiting.extend(std::mem::take(&mut self.open).into_values().flatten().map(|(_, waiting)| waiting));
        *self = Self { next_id: self.next_id, last_strict: self.last_strict, ..Self::default() };
        waiting
    }
}
