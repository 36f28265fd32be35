//! Rows of the inbox are taken in: jobs and verbs that applications wrote in their own transactions (C1, C10, C11).
//!
//! They are decided in the order of their numbers. A row that cannot be decided without a look-up holds back those after
//! it, and what came before it is decided. What has no room stays where it is.

use std::sync::Arc;

use super::{
    batch::{NewJob, OutcomeMore},
    decide::Core,
    effect::{JobFound, Refusal},
    event::Event,
    inbox::{InboxJob, InboxRow, Intake, POLL, TakenJob, TakenRow, Wish},
    job::{Failure, JobSpec, NO_ARGS, Verdict},
    questions::{Keys, Known, Waiting},
    record::reason,
    types::{JobId, Now},
};

impl Core {
    /// Looks into the inbox, if it is time and all that was found is decided.
    pub(super) fn look_into_inbox(&mut self, now: Now) {
        let inbox = &mut self.inbox;
        if self.redo.is_active()
            || self.redo.has_later()
            || self.questions.is_looking()
            || !inbox.undecided.is_empty()
            || now.mono < inbox.next_look
        {
            return;
        }
        let has_room = self.index.locks.len() < self.limits.lock_lines_max;
        let late = std::mem::take(&mut inbox.is_late);
        inbox.is_late = late && !has_room;
        let whole = std::mem::take(&mut inbox.whole) || (late && has_room);
        let attended = inbox.attend(now.mono);
        self.questions.look_into_inbox(whole, attended, self.committed_row);
    }

    /// A look was answered.
    pub(super) fn inbox_found(&mut self, now: Now, intake: Intake) {
        if !self.questions.looked(intake.id) {
            return;
        }
        let Intake { mut rows, more, .. } = intake;
        // Decided already, by a batch that the look has not seen; or refused whatever becomes of it.
        rows.retain(|row| !self.recent.is_taken_in(row.number) && !self.inbox.refused.contains(&row.number));
        rows.sort_unstable_by_key(|row| row.number);
        self.inbox.found(now.mono, rows, more);
        self.feed_inbox(now);
    }

    /// Decides what was found, as far as the batch has room.
    pub(super) fn feed_inbox(&mut self, now: Now) {
        while !self.is_full() && !self.redo.is_active() && !self.redo.has_later() {
            let Some(rows) = self.inbox.next_chunk() else { return };
            self.decide(now, Event::Inbox(rows), None);
        }
    }

    /// One row alone was refused: what is to be decided instead. `None`: it stays where it is for this term.
    pub(super) fn single_out_row(&mut self, row: &InboxRow, message: &str) -> Option<Arc<InboxRow>> {
        let wish = match &row.wish {
            Wish::Defer(job) if job.unrecordable.is_none() => {
                Wish::Defer(InboxJob { unrecordable: Some(message.into()), ..job.clone() })
            }
            Wish::Ask { verb, by, unrecordable: None } => {
                Wish::Ask { verb: verb.clone(), by: by.clone(), unrecordable: Some(message.into()) }
            }
            Wish::Defer(_) | Wish::Ask { .. } | Wish::Nothing => {
                self.inbox.refused.insert(row.number);
                return None;
            }
        };
        Some(Arc::new(InboxRow { number: row.number, written: row.written, wish }))
    }

    /// Ids that were reserved long before a job from SQL drew its own are of no use: a job that comes now would go
    /// before that one (C15).
    pub(super) fn drop_old_ids(&mut self, now: Now) {
        let highest = self.inbox.highest.0;
        self.ids.retain(|ids| ids.first > highest || now.mono.saturating_sub(ids.reserved) < POLL);
    }

    /// What these events decided was not written.
    pub(super) fn undecide_inbox(&mut self, events: &[Event]) {
        for event in events {
            if let Event::Inbox(rows) = event {
                self.inbox.undecided.extend(rows.iter().map(|row| row.number));
            }
        }
        // The answer to a look on its way is dropped.
        self.inbox.whole = true;
    }

    /// Takes rows in, in their order. `false`: some wait for a look-up, and come again.
    pub(super) fn take_in_rows(&mut self, now: Now, rows: Vec<Arc<InboxRow>>, known: Option<&Known>) -> bool {
        let (mut decided, mut rest) = (Vec::new(), Vec::new());
        let mut keys = Keys::default();
        for row in rows {
            if !self.inbox.undecided.contains(&row.number) {
                // A verb had it taken in first.
                continue;
            }
            if keys.is_empty() {
                keys = self.take_in_row(now, &row, known);
            }
            if keys.is_empty() {
                self.inbox.undecided.remove(&row.number);
                decided.push(row);
            } else {
                rest.push(row);
            }
        }
        if !decided.is_empty() {
            // Should the batch be refused, this part is decided again with it, and the rest when its answer comes.
            self.draft.events.push(Event::Inbox(decided));
        }
        if rest.is_empty() {
            return true;
        }
        // Those behind it are looked up too, so that one snapshot answers for all.
        for row in &rest {
            keys.extend(self.row_keys(row, None));
        }
        self.questions.look_up(keys, Waiting::Event(Event::Inbox(rest)));
        false
    }

    /// Takes a row in, or leaves it where it is if there is no room; unless something must be looked up before.
    fn take_in_row(&mut self, now: Now, row: &InboxRow, known: Option<&Known>) -> Keys {
        let mut taken_first = false;
        if let Wish::Ask { verb, .. } = &row.wish
            && let Some(job) = verb.job()
        {
            match self.take_in_first(now, job, known) {
                Ok(taken) => taken_first = taken,
                // The verb waits with its job.
                Err(_) => return Keys::default(),
            }
        }
        let keys = self.row_keys(row, known);
        if keys.is_empty() {
            match &row.wish {
                Wish::Defer(job) => {
                    if self.take_in_job(now, row.number, job, known) == Ok(Taken::Lives) {
                        self.place_in(now, job.id);
                    }
                }
                Wish::Ask { verb, by, unrecordable } => {
                    self.took_in(row.number, None);
                    self.obey_unattended(now, (verb, by), unrecordable.as_ref(), known);
                    if taken_first && let Some(job) = verb.job() {
                        self.settle_in(now, job);
                    }
                }
                Wish::Nothing => self.took_in(row.number, None),
            }
        }
        keys
    }

    /// What must be looked up before the row can be decided.
    fn row_keys(&self, row: &InboxRow, known: Option<&Known>) -> Keys {
        match &row.wish {
            Wish::Defer(job) => self.keys_of_job(job, known),
            Wish::Ask { verb, .. } => self.verb_keys(verb, known),
            Wish::Nothing => Keys::default(),
        }
    }

    fn keys_of_job(&self, job: &InboxJob, known: Option<&Known>) -> Keys {
        let mut keys = Keys::default();
        let value = job.spec.queueing_lock.as_ref();
        keys.queueing_locks.extend(value.filter(|value| !self.knows_carrier(value, known)).cloned());
        keys
    }

    /// The row of a job that a look-up found in the inbox, if it is there still.
    fn found_in_inbox<'k>(&self, job: JobId, known: Option<&'k Known>) -> Option<&'k Arc<InboxRow>> {
        match known?.jobs.get(&job)? {
            JobFound::Inbox(row) => {
                let is_there = self.state.jobs.get(job).is_none() && !self.recent.is_taken_in(row.number);
                is_there.then_some(row)
            }
            JobFound::Unknown | JobFound::Parked(_) | JobFound::Final { .. } | JobFound::Active => None,
        }
    }

    /// A verb finds its job in the inbox: it is taken in first, into memory, in the same batch; it finds its place once
    /// the verb is obeyed. `false`: it is not there, or its queueing lock must be looked up before.
    pub(super) fn take_in_first(&mut self, now: Now, job: JobId, known: Option<&Known>) -> Result<bool, Refusal> {
        let Some(row) = self.found_in_inbox(job, known).cloned() else { return Ok(false) };
        let Some(job) = row.job().filter(|job| self.keys_of_job(job, known).is_empty()) else { return Ok(false) };
        self.take_in_job(now, row.number, job, known)?;
        self.inbox.undecided.remove(&row.number);
        self.inbox.backlog.retain(|other| other.number != row.number);
        self.draft.events.push(Event::Inbox(vec![row]));
        Ok(true)
    }

    /// What must be looked up before a verb's job can be taken in: where it is, and its queueing lock.
    pub(super) fn keys_to_take_in(&self, job: JobId, known: Option<&Known>) -> Keys {
        let Some(InboxRow { wish: Wish::Defer(found), .. }) = self.found_in_inbox(job, known).map(AsRef::as_ref) else {
            return Keys::default();
        };
        let mut keys = self.keys_of_job(found, known);
        keys.jobs.insert(job);
        keys
    }

    fn took_in(&mut self, number: u64, job: Option<TakenJob>) {
        self.recent.took_in(number, self.draft_row());
        self.draft.batch.inbox.push(TakenRow { number, job });
    }

    /// A job comes into being, under the id that its caller has. An error: it has no room, and stays where it is.
    fn take_in_job(&mut self, now: Now, number: u64, job: &InboxJob, known: Option<&Known>) -> Result<Taken, Refusal> {
        self.refuse(&job.spec).inspect_err(|_| self.inbox.is_late = true)?;
        let id = job.id;
        self.inbox.highest = self.inbox.highest.max(id);
        if let Some(why) = &job.unrecordable {
            let spec = Arc::new(bare(&job.spec));
            let (stream, due) = self.create_as(now, id, &spec, NO_ARGS.len() as u32);
            self.new_row(now, NewJob { id, queue: stream.queue, task: stream.task, due, spec });
            self.took_in(number, None);
            self.end_at_once(now, id, Verdict::Failed, "UNRECORDABLE", why);
            return Ok(Taken::Ended);
        }
        let first = job.spec.queueing_lock.as_ref().and_then(|value| self.carrier(value, known));
        let spec = match first {
            // The value stays with the one that has it.
            Some(_) => Arc::new(JobSpec { queueing_lock: None, ..JobSpec::clone(&job.spec) }),
            None => job.spec.clone(),
        };
        let (stream, due) = self.create_as(now, id, &spec, job.args_bytes);
        let taken = TakenJob { id, queue: stream.queue, task: stream.task, due, spec: job.spec.clone() };
        self.took_in(number, Some(taken));
        match first {
            None => Ok(Taken::Lives),
            Some(by) => {
                // A defer from SQL always commits; this is its answer (C10).
                let message = format!("the queueing lock is taken by job {by}");
                self.end_at_once(now, id, Verdict::Cancelled, "DUPLICATE", &message);
                Ok(Taken::Ended)
            }
        }
    }

    fn end_at_once(&mut self, now: Now, id: JobId, verdict: Verdict, word: &str, message: &str) {
        let failure = Failure { kind: word.into(), message: message.into(), trace: String::new() };
        self.finish(now, id, verdict, Some(OutcomeMore { failure: Some(failure), ..reason(word) }));
    }
}

/// What became of a job that was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// It is in memory.
    Lives,
    /// It is final.
    Ended,
}

/// The same job without anything that could be refused, its arguments among it.
fn bare(spec: &JobSpec) -> JobSpec {
    JobSpec { priority: spec.priority, ..JobSpec::plain(spec.task.clone(), spec.queue.clone()) }
}
