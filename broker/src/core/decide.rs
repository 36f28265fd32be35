//! The core itself: events in, batches and questions out.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    batch::Batch,
    effect::Question,
    event::Event,
    fact::Fact,
    inbox::{Inbox, POLL},
    index::{Index, Timer, lane_of},
    job::{Phase, Record, Run, Verdict},
    limits::Limits,
    questions::{Known, Questions, Waiting},
    recent::Recent,
    record::reason,
    redo::Redo,
    sessions::{Session, Sessions},
    state::State,
    types::{Format, JobId, Now, SessionNo, Stream, Term, Timestamp},
};

/// How often jobs are looked at again that are waiting but not due, since the database's clock was set back.
const EARLY_AGAIN: Duration = Duration::from_secs(1);

/// How many ids are reserved for defers that wait for some, at most; but always enough for the first.
const RESERVE_IDS_MAX: usize = 16_384;

/// The owner's core of one cell.
///
/// - [`Self::handle`] takes events in. It may be called at any time.
/// - [`Self::take_batch`] decides who starts, and gives what is to be committed next. The shell commits one batch at a
///   time; [`Self::committed`] or [`Self::refused`] says how that ended. Effects are carried out after the commit of
///   their batch and of all before it; a batch that [`Batch::writes`] nothing only waits for those before it.
/// - [`Self::questions`] gives look-ups and fetches to ask the store, at once, beside the commit. The answers are events.
/// - [`Self::wake_at`] says when an [`Event::Tick`] is due at the latest.
#[derive(Debug)]
pub struct Core {
    pub(super) state: State,
    pub(super) index: Index,
    pub(super) sessions: Sessions,
    pub(super) limits: Limits,
    pub(super) term: Term,
    /// The last row that is committed.
    pub(super) committed_row: u64,
    /// The last row that was given to the shell.
    pub(super) taken_row: u64,
    /// What the next batch holds so far.
    pub(super) draft: Draft,
    /// Ids that are reserved, as ranges without their end.
    pub(super) ids: VecDeque<IdRange>,
    /// How many ids the last batches used.
    pub(super) ids_used: u32,
    /// Events that wait for ids.
    pub(super) starved: VecDeque<Event>,
    /// A tick waits for an id.
    pub(super) tick_starved: bool,
    pub(super) questions: Questions,
    pub(super) recent: Recent,
    pub(super) redo: Redo,
    pub(super) inbox: Inbox,
    /// The last time that the core was told.
    pub(super) last_now: Now,
    /// When parked jobs must be fetched to be in time.
    pub(super) next_due_fetch: Option<Timestamp>,
    /// Waiting jobs may have a due time up to this one. After a step back of the database's clock that is to come.
    pub(super) latest_due: Timestamp,
    /// How many jobs in memory could give way to one that can start.
    pub(super) displaceable: usize,
    /// Jobs are being parked for want of room, until there is some.
    pub(super) parks: bool,
    /// When the streams' counters of what they gave out were last turned.
    pub(super) given_turned: Duration,
}

/// Reserved ids.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdRange {
    pub(super) first: i64,
    /// One after the last.
    pub(super) end: i64,
    /// When they were reserved, by the monotonic clock.
    pub(super) reserved: Duration,
}

/// What was decided since the last batch.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) batch: Batch,
    pub(super) facts: Vec<Fact>,
    pub(super) bytes: usize,
    /// The events that it was decided from.
    pub(super) events: Vec<Event>,
    /// The sessions that it ends.
    pub(super) ended: Vec<(SessionNo, Session)>,
}

impl Draft {
    /// Whether there is anything to write so far.
    fn writes(&self) -> bool {
        !self.facts.is_empty()
            || !self.batch.requests.is_empty()
            || !self.batch.rare_rows.is_empty()
            || !self.batch.inbox.is_empty()
    }

    /// Whether there is nothing to write, and nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        !self.writes() && self.batch.effects.is_empty()
    }
}

/// When the core wants to be woken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake {
    /// At this time of the database.
    pub db: Option<Timestamp>,
    /// At this monotonic time.
    pub mono: Option<Duration>,
}

/// What the core knows of an unfinished job in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveJob {
    /// What is remembered of it.
    pub record: Record,
    /// If it runs: its open delivery.
    pub run: Option<Run>,
    /// If it waits: what for.
    pub waiting_for: Option<WaitingFor>,
}

/// What a waiting job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitingFor {
    /// Nothing.
    Ready,
    /// Its lock.
    Blocked,
    /// Its queue is paused.
    Paused,
    /// No live session has its task.
    Unserved,
    /// No session that serves it has credit.
    Limited,
}

impl Core {
    /// The core of a new owner: the state as of row `last_row` of the log. Every session gets its grace anew.
    pub fn new(state: State, last_row: u64, term: Term, limits: Limits, now: Now) -> Self {
        let mut core = Self {
            state: State::default(),
            index: Index::default(),
            sessions: Sessions::default(),
            limits,
            term,
            committed_row: last_row,
            taken_row: last_row,
            draft: Draft::default(),
            ids: VecDeque::new(),
            ids_used: 0,
            starved: VecDeque::new(),
            tick_starved: false,
            questions: Questions::default(),
            recent: Recent::default(),
            redo: Redo::default(),
            inbox: Inbox::new(now.mono),
            last_now: now,
            next_due_fetch: None,
            latest_due: now.db,
            displaceable: 0,
            parks: false,
            given_turned: now.mono,
        };
        core.rebuild(state, now);
        core
    }

    /// Takes an event in.
    pub fn handle(&mut self, now: Now, event: Event) {
        match event {
            Event::IdsReserved { first, end } => {
                if first < end {
                    self.ids.push_back(IdRange { first: first.0, end: end.0, reserved: now.mono });
                }
                self.feed_starved(now);
            }
            Event::Found(found) => {
                let Some((waiting, known)) = self.questions.answered(found) else { return };
                for waiting in waiting {
                    match waiting {
                        Waiting::Event(event) => self.decide_answered(now, vec![event], Some(&known)),
                        Waiting::Strict { lock, job, number } => {
                            let stale = !known.is_complete() || self.recent.lock_parked_after(lock, known.snapshot);
                            let before = known.locks_before.get(&(lock, job)).copied();
                            self.strict_answer(lock, (job, number), before.filter(|_| !stale));
                        }
                        Waiting::Tick(name) => self.tick_answered(now, &name, Some(&known)),
                    }
                }
            }
            Event::Fetched(fetched) => self.fetched(&fetched),
            Event::Intake(intake) => self.inbox_found(now, intake),
            Event::Rung => self.inbox.next_look = now.mono,
            Event::QuestionFailed { id } if self.questions.looked(id) => self.inbox.next_look = now.mono + POLL,
            Event::QuestionFailed { id } => {
                for waiting in self.questions.failed(id) {
                    match waiting {
                        Waiting::Event(event) => self.decide_answered(now, vec![event], None),
                        Waiting::Strict { lock, job, number } => self.strict_answer(lock, (job, number), None),
                        Waiting::Tick(name) => self.tick_answered(now, &name, None),
                    }
                }
            }
            // What time has brought is looked at with the next batch.
            Event::Tick => {}
            event => self.take_in(now, event),
        }
    }

    /// What to commit next; `None`: nothing.
    ///
    /// # Panics
    /// If the batch before is neither committed nor refused.
    pub fn take_batch(&mut self, now: Now) -> Option<Batch> {
        assert_eq!(self.taken_row, self.committed_row, "one commit at a time");
        self.last_now = now;
        self.feed_starved(now);
        self.feed_inbox(now);
        let (again, was_refused) = (self.redo.is_active(), self.redo.was_refused());
        if was_refused {
            // Nobody's event is to blame for what time has brought, and for who starts: that is a batch of its own, or
            // whoever sends more of what is refused could put it off for ever.
            self.hear_waiting(now);
            self.fire_timers(now);
            self.start_jobs(now);
        }
        if again {
            self.decide_again(now);
        }
        if !(again || was_refused) || (!self.redo.is_active() && self.draft.is_empty()) {
            for event in self.redo.take_later() {
                self.decide(now, event, None);
            }
            self.feed_inbox(now);
            self.fire_timers(now);
            self.fire_ticks(now);
            self.start_jobs(now);
            self.fetch_parked(now);
            self.look_into_inbox(now);
            self.tell_caught_up();
        }
        let row = self.taken_row + 1;
        let have = u32::try_from(self.ids_left()).unwrap_or(u32::MAX);
        let draft = &mut self.draft;
        let idle = !draft.writes();
        let is_starved = !self.starved.is_empty() || self.tick_starved;
        if !idle || is_starved {
            let wanted = (self.ids_used.saturating_mul(2)).max(self.limits.reserve_ids_min);
            let starved = self.starved.iter().map(starved_ids);
            // The first of them gets its ids in any case, the others as far as a reserve may go.
            let starved = starved.clone().next().unwrap_or(0).max(starved.sum::<usize>().min(RESERVE_IDS_MAX));
            let wanted = wanted.max(u32::try_from(starved).unwrap_or(u32::MAX));
            if have < wanted.div_ceil(2) || is_starved {
                draft.batch.reserve_ids = wanted;
            }
            self.ids_used = draft.batch.jobs.len() as u32;
        }
        if idle && draft.batch.effects.is_empty() && draft.batch.reserve_ids == 0 {
            return None;
        }
        let Draft { mut batch, facts, events, ended, .. } = std::mem::take(&mut self.draft);
        batch.facts = Arc::new(facts);
        batch.number = row;
        batch.kept_below = self.state.kept_below;
        batch.format = self.state.format;
        if batch.writes() {
            self.taken_row = row;
            if row.is_multiple_of(self.limits.hash_every_rows) {
                batch.state_hash = Some(self.state.hash_at(row));
            }
            self.redo.taken(events, ended, &batch.effects);
        } else {
            batch.number = self.taken_row;
            // Its effects depend on rows that are given out, and the shell takes no batch while one is not committed.
        }
        Some(batch)
    }

    /// The batch is committed.
    pub fn committed(&mut self, number: u64, _at: Timestamp) {
        assert!(number > self.committed_row && number <= self.taken_row, "row {number} was given out");
        self.committed_row = number;
        self.redo.committed();
        self.questions.committed(number);
        let floor = self.questions.oldest_row().unwrap_or(number).min(number);
        self.recent.forget(floor);
    }

    /// What to ask the store now.
    pub fn questions(&mut self) -> Vec<Question> {
        let decided = if self.draft.facts.is_empty() { self.taken_row } else { self.draft_row() };
        self.questions.take(self.committed_row, decided)
    }

    /// When a tick is due at the latest.
    pub fn wake_at(&self) -> Wake {
        let job = self.index.timers.first().map(|(at, ..)| *at);
        let tick = self.index.ticks.first().map(|(at, _)| *at);
        let db = [job, self.next_due_fetch, tick].into_iter().flatten().min();
        // Jobs that wait for a clock that was set back are looked at again.
        let early = (self.latest_due > self.last_now.db).then(|| self.last_now.db.plus(EARLY_AGAIN));
        let db = early.map_or(db, |early| Some(db.map_or(early, |db| db.min(early))));
        let look = (!self.questions.is_looking() && self.inbox.undecided.is_empty()).then_some(self.inbox.next_look);
        Wake { db, mono: self.sessions.timers.first().map(|(at, _)| *at).into_iter().chain(look).min() }
    }

    /// Whether the next batch is as large as a batch should be: commit before more events are taken in.
    pub fn is_full(&self) -> bool {
        self.draft.facts.len() >= self.limits.batch_facts_max || self.draft.bytes >= self.limits.batch_bytes_max
    }

    /// An unfinished job in memory.
    pub fn live(&self, job: JobId) -> Option<LiveJob> {
        let record = self.state.jobs.get(job)?.clone();
        let waiting_for = matches!(record.phase, Phase::Waiting).then(|| self.waiting_for(job, &record));
        Some(LiveJob { record, run: self.state.run(job), waiting_for })
    }

    /// What a waiting job of this stream waits for, lying in memory or not, as far as locks do not matter.
    pub fn stream_waits_for(&self, stream: Stream) -> WaitingFor {
        let Some(lane) = self.index.lanes.get(&lane_of(stream)) else { return WaitingFor::Unserved };
        if self.state.is_paused(stream.queue) {
            WaitingFor::Paused
        } else if lane.servers.is_empty() {
            WaitingFor::Unserved
        } else if lane.servers.iter().all(|no| self.sessions.by_no[no].credit(stream.task) == 0) {
            WaitingFor::Limited
        } else {
            WaitingFor::Ready
        }
    }

    fn waiting_for(&self, job: JobId, record: &Record) -> WaitingFor {
        let whole = self.stream_waits_for(record.stream);
        let is_candidate = |lock| self.index.locks.get(&lock).is_some_and(|lock| lock.candidate == Some(job));
        match (whole, record.lock()) {
            (WaitingFor::Ready | WaitingFor::Limited, Some(lock)) if !is_candidate(lock) => WaitingFor::Blocked,
            (whole, _) => whole,
        }
    }

    /// The fold of all that was decided, committed or not.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether this job of memory waits for nothing but a worker with room, or runs.
    pub fn can_start(&self, id: JobId) -> bool {
        self.state.jobs.get(id).is_some_and(|record| {
            let is_blocked = || self.index.streams.get(&record.stream).is_some_and(|jobs| jobs.blocked.contains(id));
            record.phase != Phase::Scheduled
                && self.index.is_startable(lane_of(record.stream))
                && !(record.lock().is_some() && is_blocked())
        })
    }

    /// How many sessions are alive, those in their grace too.
    pub fn sessions(&self) -> usize {
        self.sessions.by_no.len()
    }

    /// Decides what waited for ids, as far as there are some and the batch has room.
    fn feed_starved(&mut self, now: Now) {
        self.drop_old_ids(now);
        for _ in 0..self.starved.len() {
            let have = self.ids_left();
            let Some(event) = self.starved.pop_front_if(|event| starved_ids(event) as i64 <= have) else { return };
            if self.is_full() {
                self.starved.push_front(event);
                return;
            }
            self.decide_answered(now, vec![event], None);
        }
    }

    /// How many ids are reserved.
    pub(super) fn ids_left(&self) -> i64 {
        self.ids.iter().map(|ids| ids.end - ids.first).sum()
    }

    /// An event is decided now, or after what must be decided again first.
    fn take_in(&mut self, now: Now, event: Event) {
        match event {
            event if !self.redo.is_active() && !self.redo.has_later() => _ = self.decide(now, event, None),
            // Time goes on meanwhile, so who is heard is heard at once.
            Event::Heard { link, received } => _ = self.heard(now, link, received),
            event => self.redo.postpone(event),
        }
    }

    /// Decides an event. `false`: it waits for a look-up, and comes again.
    pub(super) fn decide(&mut self, now: Now, event: Event, known: Option<&Known>) -> bool {
        // Rows of the inbox are kept as they are decided.
        let kept = (!matches!(event, Event::Inbox(_))).then(|| event.clone());
        let decided = match event {
            Event::Defer(defer) => self.defer(now, defer, known),
            Event::Ask(ask) => self.ask(now, ask, known),
            Event::Settle(settle) => self.settle(now, settle, known),
            Event::Inbox(rows) => self.take_in_rows(now, rows, known),
            Event::Hello(hello) => self.hello(now, &hello),
            Event::Heard { link, received } => self.heard(now, link, received),
            Event::Capacity { link, capacity } => self.capacity(link, capacity),
            Event::Drain { link } => self.drain(link),
            Event::LinkLost { link, reported } => self.link_lost(now, link, reported),
            Event::Extend { call, session, secret } => self.extend(now, call, session, secret),
            Event::Retain(milestone) => {
                self.reach(milestone);
                true
            }
            Event::RaiseFormat(format) => {
                self.raise_format(format);
                true
            }
            // Handled before it comes to this.
            Event::IdsReserved { .. }
            | Event::Found(_)
            | Event::Fetched(_)
            | Event::Intake(_)
            | Event::Rung
            | Event::QuestionFailed { .. }
            | Event::Tick => true,
        };
        if decided {
            self.draft.events.extend(kept);
        }
        decided
    }

    /// Raises the format, unless it is as high already. The row that says so has the new one, so whoever cannot read on
    /// stops before it.
    fn raise_format(&mut self, format: Format) {
        if format > self.state.format {
            self.record(Fact::FormatRaised { format });
        }
    }

    /// Who starts.
    fn start_jobs(&mut self, now: Now) {
        self.find_candidates();
        self.make_room();
        self.find_candidates();
        self.dispatch(now);
    }

    fn fire_timers(&mut self, now: Now) {
        if now.mono.saturating_sub(self.given_turned) >= Duration::from_secs(1) {
            self.given_turned = now.mono;
            for jobs in self.index.streams.values_mut() {
                jobs.given = [0, jobs.given[0]];
            }
            self.index.streams.retain(|_, jobs| jobs.len() > 0 || jobs.given != [0, 0]);
        }
        while let Some(&(at, id, timer)) = self.index.timers.first() {
            if at > now.db || self.is_full() {
                break;
            }
            match timer {
                Timer::Due => {
                    self.record(Fact::Due { id });
                    self.settle_in(now, id);
                }
                Timer::Deadline => self.finish(now, id, Verdict::Failed, Some(reason("DEADLINE"))),
                Timer::AttemptTimeout => self.attempt_timed_out(now, id),
            }
        }
        self.end_silent_sessions(now);
    }
}

/// How many ids an event needs.
fn starved_ids(event: &Event) -> usize {
    match event {
        Event::Defer(defer) => defer.items.len(),
        // A run of a schedule, or a tick that is decided before a change of its schedule.
        Event::Ask(_) => 1,
        _ => 0,
    }
}
