//! New jobs (C1, C2, C10).

use std::{collections::HashMap, sync::Arc};

use super::{
    batch::{Answer, NewJob, RequestRow},
    decide::Core,
    effect::{Created, Effect, Refusal, Reply},
    event::{Defer, DeferItem, Event, OnConflict, Request},
    fact::Fact,
    index::StreamJobs,
    job::{DueAt, JobSpec, Phase, Rare},
    place::Place,
    questions::{Keys, Known, Waiting},
    types::{JobId, LockId, Now, QueueNo, Stream, TaskNo, Timestamp},
    verbs::Whereabouts,
};

/// When a job is due that is asked for now.
pub(super) fn due_of(now: Now, spec: &JobSpec) -> Timestamp {
    match spec.due {
        DueAt::Once => now.db,
        DueAt::At(at) => at,
        DueAt::In(wait) if wait.is_zero() => now.db,
        DueAt::In(wait) => now.db_latest.plus(wait),
    }
}

/// What is known of a request id.
pub(super) enum Before {
    /// It is new.
    Never,
    /// The same call was made before.
    Same(Answer),
    /// Another call was made under it.
    Other,
}

impl Core {
    /// Decides a defer. `false`: it waits for a look-up, or for ids, and comes again.
    pub(super) fn defer(&mut self, now: Now, defer: Defer, known: Option<&Known>) -> bool {
        let keys = self.defer_keys(&defer, known);
        if !keys.is_empty() {
            self.questions.look_up(keys, Waiting::Event(Event::Defer(defer)));
            return false;
        }
        if let Some(request) = &defer.request {
            match self.before(request, known) {
                Before::Never => {}
                Before::Same(answer) => {
                    self.effect(Effect::Reply(defer.call, Reply::Done { answer, repeated: true }));
                    return true;
                }
                Before::Other => {
                    let refusal = Refusal::RequestIdReused { item: None };
                    self.effect(Effect::Reply(defer.call, Reply::Refused(refusal)));
                    return true;
                }
            }
        }
        self.drop_old_ids(now);
        if self.ids_left() < defer.items.len() as i64 {
            self.starved.push_back(Event::Defer(defer));
            return false;
        }
        if defer.independent {
            self.defer_each(now, &defer, known);
        } else {
            self.defer_all(now, &defer, known);
        }
        true
    }

    /// What must be looked up before the defer can be decided.
    fn defer_keys(&self, defer: &Defer, known: Option<&Known>) -> Keys {
        let mut keys = Keys::default();
        let requests = defer.request.iter().chain(defer.items.iter().filter_map(|item| item.request.as_ref()));
        for request in requests {
            if !self.knows_request(request, known) {
                keys.requests.insert(request.id.clone());
            }
        }
        for item in &defer.items {
            let Some(value) = &item.spec.queueing_lock else { continue };
            if !self.knows_carrier(value, known) {
                keys.queueing_locks.insert(value.clone());
            } else if item.on_conflict != OnConflict::Reject
                && let Some(by) = self.carrier(value, known)
                && self.whereabouts(by, known).is_none()
            {
                keys.jobs.insert(by);
            }
        }
        // All are asked again together, so that one snapshot answers for the whole call.
        if !keys.is_empty() && known.is_some() {
            let carriers = keys.jobs;
            keys = self.defer_keys(defer, None);
            keys.jobs.extend(carriers);
        }
        keys
    }

    /// Whether it is known who carries a queueing lock.
    pub(super) fn knows_carrier(&self, value: &Arc<str>, known: Option<&Known>) -> bool {
        self.index.queueing_locks.contains_key(value)
            || self.recent.parked_with(value).is_some()
            || self.state.parked_with_queueing_lock == 0
            || known.is_some_and(|known| match known.queueing_locks.get(value) {
                Some(None) => true,
                // Only while that job lies where the snapshot saw it.
                Some(Some(job)) => !self.recent.moved_after(*job, known.snapshot),
                None => false,
            })
    }

    /// Whether it is known if the call was made before.
    pub(super) fn knows_request(&self, request: &Request, known: Option<&Known>) -> bool {
        known.is_some_and(|known| known.requests.contains_key(&request.id))
            || self.recent.request(&request.id).is_some()
    }

    pub(super) fn before(&self, request: &Request, known: Option<&Known>) -> Before {
        let found = known.and_then(|known| known.requests.get(&request.id)).and_then(Option::as_ref);
        match self.recent.request(&request.id).or(found) {
            None => Before::Never,
            Some(call) if call.digest == request.digest => Before::Same(call.answer.clone()),
            Some(_) => Before::Other,
        }
    }

    /// Who carries a queueing lock now.
    pub(super) fn carrier(&self, value: &str, known: Option<&Known>) -> Option<JobId> {
        self.index.queueing_locks.get(value).copied().or_else(|| self.recent.parked_with(value)).or_else(|| {
            if self.state.parked_with_queueing_lock == 0 {
                return None;
            }
            let known = known?;
            let by = known.queueing_locks.get(value).copied().flatten();
            // One that has moved since then and still carries it was found above.
            by.filter(|by| !self.recent.moved_after(*by, known.snapshot))
        })
    }

    /// All jobs or none.
    fn defer_all(&mut self, now: Now, defer: &Defer, known: Option<&Known>) {
        let mut taken: HashMap<&str, u32> = HashMap::new();
        let first_id = self.ids.front().map_or(0, |ids| ids.first);
        for (item, number) in defer.items.iter().zip(0..) {
            let value = item.spec.queueing_lock.as_ref();
            let carrier = value.and_then(|value| self.carrier(value, known));
            // The first one with this value: it is the one that comes into being.
            let other = value.map(|value| *taken.entry(value).or_insert(number)).filter(|first| *first != number);
            let refusal = match (item.on_conflict, carrier, other) {
                (OnConflict::Reject, Some(by), _) => Some(Refusal::QueueingLockTaken { by, item: None }),
                // The other job of this very batch will not exist either.
                (OnConflict::Reject, None, Some(first)) => Some(Refusal::QueueingLockTwice { first, item: number }),
                (OnConflict::Replace, Some(by), _) if !self.is_of_task(by, &item.spec.task, known) => {
                    Some(Refusal::QueueingLockTaken { by, item: None })
                }
                (OnConflict::Replace, None, Some(first)) if defer.items[first as usize].spec.task != item.spec.task => {
                    Some(Refusal::QueueingLockTwice { first, item: number })
                }
                (_, None, None) => self.refuse(&item.spec).err(),
                // No job comes into being.
                (OnConflict::Reschedule | OnConflict::Replace, ..) => None,
            };
            if let Some(refusal) = refusal {
                let refusal = if defer.items.len() > 1 { refusal.of_item(number) } else { refusal };
                self.effect(Effect::Reply(defer.call, Reply::Refused(refusal)));
                return;
            }
        }
        let ids =
            defer.items.iter().map(|item| self.create_or_debounce(now, item, known)).collect::<Result<Vec<_>, _>>();
        let ids = ids.expect("every conflict was looked up and decided above");
        let is_run = ids.iter().zip(first_id..).all(|(id, expected)| id.0 == expected);
        let answer = if is_run {
            Answer::Deferred { first: JobId(first_id), count: ids.len() as u32 }
        } else {
            Answer::DeferredIds(ids)
        };
        if let Some(request) = &defer.request {
            self.remember(request, answer.clone());
        }
        self.effect(Effect::Reply(defer.call, Reply::Done { answer, repeated: false }));
    }

    /// Each item by itself.
    fn defer_each(&mut self, now: Now, defer: &Defer, known: Option<&Known>) {
        let mut answers = Vec::with_capacity(defer.items.len());
        for (item, number) in defer.items.iter().zip(0..) {
            let before = item.request.as_ref().map_or(Before::Never, |request| self.before(request, known));
            answers.push(match before {
                Before::Same(Answer::Deferred { first, .. }) => {
                    Ok(Created { job: first, repeated: true, existing: false })
                }
                Before::Same(Answer::DeferredIds(ids)) if ids.len() == 1 => {
                    Ok(Created { job: ids[0], repeated: true, existing: true })
                }
                Before::Same(_) | Before::Other => Err(Refusal::RequestIdReused { item: Some(number) }),
                Before::Never => {
                    let value = item.spec.queueing_lock.as_ref();
                    let is_new = value.is_none_or(|value| self.carrier(value, known).is_none());
                    let checked = if is_new { self.refuse(&item.spec) } else { Ok(()) };
                    let created = checked.and_then(|()| self.create_or_debounce(now, item, known));
                    if let (Ok(job), Some(request)) = (&created, &item.request) {
                        let new = Answer::Deferred { first: *job, count: 1 };
                        self.remember(request, if is_new { new } else { Answer::DeferredIds(vec![*job]) });
                    }
                    let created = created.map(|job| Created { job, repeated: false, existing: !is_new });
                    created.map_err(|refusal| refusal.of_item(number))
                }
            });
        }
        self.effect(Effect::Reply(defer.call, Reply::Items(answers)));
    }

    /// Creates the job, or moves the one that carries its queueing lock.
    fn create_or_debounce(&mut self, now: Now, item: &DeferItem, known: Option<&Known>) -> Result<JobId, Refusal> {
        match item.spec.queueing_lock.as_ref().and_then(|value| self.carrier(value, known)) {
            Some(by) => self.debounce(now, item, by, known),
            None => Ok(self.create(now, &item.spec)),
        }
    }

    /// Whether a job that was looked up is one of this task.
    pub(super) fn is_of_task(&self, job: JobId, task: &str, known: Option<&Known>) -> bool {
        let its = match self.whereabouts(job, known) {
            Some(Whereabouts::Memory) => self.state.jobs.get(job).map(|record| record.stream.task),
            Some(Whereabouts::Parked(parked)) => Some(parked.record.stream.task),
            Some(Whereabouts::Final { .. } | Whereabouts::Nowhere) | None => None,
        };
        its.is_some() && its == self.state.task_no(task)
    }

    pub(super) fn remember(&mut self, request: &Request, answer: Answer) {
        let call = RequestRow { id: request.id.clone(), digest: request.digest, answer };
        self.recent.remember(call.clone(), self.draft_row());
        self.draft.batch.requests.push(call);
    }

    /// A named limit that the job would break.
    pub(super) fn refuse(&self, spec: &JobSpec) -> Result<(), Refusal> {
        let limit = |limit, value: usize| Err(Refusal::LimitReached { limit, value: value as u64 });
        let names = self.limits.names_max;
        if self.state.queue_no(&spec.queue).is_none() && self.state.queues.len() >= names {
            return limit("queue names of the cell", names);
        }
        if self.state.task_no(&spec.task).is_none() && self.state.tasks.len() >= names {
            return limit("task names of the cell", names);
        }
        if spec.lock.is_some() { self.refuse_line() } else { Ok(()) }
    }

    /// The limit of lines behind locks, if one more would break it.
    pub(super) fn refuse_line(&self) -> Result<(), Refusal> {
        let value = self.limits.lock_lines_max;
        if self.index.locks.len() >= value {
            return Err(Refusal::LimitReached { limit: "lines of jobs behind locks", value: value as u64 });
        }
        Ok(())
    }

    /// A job comes into being, and takes its place.
    pub(super) fn create(&mut self, now: Now, spec: &Arc<JobSpec>) -> JobId {
        let id = self.take_id();
        let (stream, due) = self.create_as(now, id, spec, spec.args.len() as u32);
        self.new_row(now, NewJob { id, queue: stream.queue, task: stream.task, due, spec: spec.clone() });
        self.place_in(now, id);
        id
    }

    /// The row of a job that comes into being.
    pub(super) fn new_row(&mut self, now: Now, job: NewJob) {
        self.draft.bytes += job.spec.args.len();
        self.draft.batch.taken_in.get_or_insert(now.db);
        let jobs = &mut self.draft.batch.jobs;
        let at = if jobs.last().is_none_or(|last| last.id < job.id) {
            jobs.len()
        } else {
            jobs.partition_point(|other| other.id < job.id)
        };
        jobs.insert(at, job);
    }

    /// A job comes into being in memory, under this id. Gives its stream, and when it is due.
    pub(super) fn create_as(
        &mut self,
        now: Now,
        id: JobId,
        spec: &Arc<JobSpec>,
        args_bytes: u32,
    ) -> (Stream, Timestamp) {
        let stream =
            Stream { queue: self.name_queue(&spec.queue), task: self.name_task(&spec.task), priority: spec.priority };
        let due = due_of(now, spec);
        let waiting = due <= now.db;
        let rare = Rare {
            lock: spec.lock.as_deref().map(LockId::of),
            strict: spec.strict,
            queueing_lock: spec.queueing_lock.clone(),
            deadline: spec.deadline,
            attempt_timeout: spec.attempt_timeout,
            retry: spec.retry.clone(),
        };
        self.ensure_lane(stream);
        self.record(Fact::Created { id, stream, waiting, due, args_bytes, rare: rare.boxed() });
        self.draft.bytes += 64;
        (stream, due)
    }

    /// A job that came into memory, or got another due time, stays there if there is room.
    pub(super) fn place_in(&mut self, now: Now, id: JobId) {
        let record = self.state.jobs.get(id).expect("the job is in memory");
        let stream = record.stream;
        let can_start = record.lock().is_none()
            && matches!(record.phase, super::job::Phase::Waiting)
            && self.index.is_startable(super::index::lane_of(stream));
        if self.memory_is_short(stream, can_start) {
            let place = self.place_of(id);
            // Memory holds the beginning of a stream: nothing in it comes after what is parked.
            let is_last =
                |jobs: &StreamJobs| [&jobs.ready, &jobs.tainted].into_iter().all(|ids| ids.last() <= Some(id));
            if !matches!(place, Place::Stream(_)) || self.index.streams.get(&stream).is_none_or(is_last) {
                self.park(id, place);
                return;
            }
        }
        self.settle_in(now, id);
    }

    /// Where a job of memory belongs when it is parked.
    pub(super) fn place_of(&self, id: JobId) -> Place {
        let record = self.state.jobs.get(id).expect("the job is in memory");
        let stream = record.stream;
        match (record.phase, record.lock()) {
            (Phase::Scheduled, _) => Place::Due(stream),
            (_, None) => Place::Stream(stream),
            (_, Some(lock)) if record.is_strict() => Place::Strict(lock, stream.queue, stream.task),
            (_, Some(lock)) => Place::Lock(lock, stream.queue, stream.task),
        }
    }

    fn take_id(&mut self) -> JobId {
        let ids = self.ids.front_mut().expect("ids were counted before");
        let id = ids.first;
        ids.first += 1;
        if ids.first == ids.end {
            self.ids.pop_front();
        }
        JobId(id)
    }

    pub(super) fn name_queue(&mut self, name: &Arc<str>) -> QueueNo {
        self.state.queue_no(name).unwrap_or_else(|| {
            let no = QueueNo(self.state.queues.len() as u32);
            self.record(Fact::QueueNamed { no, name: name.clone() });
            self.draft.batch.queues.push((no, name.clone()));
            no
        })
    }

    pub(super) fn name_task(&mut self, name: &Arc<str>) -> TaskNo {
        self.state.task_no(name).unwrap_or_else(|| {
            let no = TaskNo(self.state.tasks.len() as u32);
            self.record(Fact::TaskNamed { no, name: name.clone() });
            self.draft.batch.tasks.push((no, name.clone()));
            no
        })
    }

    /// A job that is in memory and new there, or has come to wait, finds its place: memory or a row.
    pub(super) fn settle_in(&mut self, now: Now, id: JobId) {
        let Some(record) = self.state.jobs.get(id) else { return };
        let horizon: Timestamp = now.db.plus(self.limits.due_horizon);
        let place = match record.phase {
            Phase::Scheduled if record.due > horizon => Place::Due(record.stream),
            // Memory holds the beginning of a stream: what comes after a parked job is parked as well.
            Phase::Waiting if record.lock().is_none() => {
                let place = Place::Stream(record.stream);
                match self.state.place(place) {
                    Some(state) if state.low.id < id => place,
                    _ => return,
                }
            }
            _ => return,
        };
        self.park(id, place);
    }
}
