//! Applications that write to the inbox in transactions of their own, which commit late, out of order, or never.

use std::{collections::BTreeSet, sync::Arc};

use cabbage_broker::core::{
    ask::{AuditRow, By, Verb},
    batch::{Batch, RareRow},
    event::Event,
    inbox::{InboxJob, InboxRow, Wish},
    job::{DueAt, JobSpec, Verdict},
    types::JobId,
};
use rand::Rng;

use crate::{people, world::World};

/// Transactions that may be open at the same time.
const OPEN_MAX: usize = 4;

/// Who asks for the verbs of applications.
const APPLICATION: &str = "application";

fn is_verb(row: &InboxRow) -> bool {
    matches!(row.wish, Wish::Ask { .. })
}

/// What applications wrote, and what they were promised.
#[derive(Debug, Default)]
pub(crate) struct Sql {
    /// The rows of open transactions.
    open: Vec<Vec<InboxRow>>,
    /// Jobs of transactions that have committed: each becomes one job.
    committed: BTreeSet<JobId>,
    /// Jobs of transactions that were rolled back: none becomes one.
    rolled_back: BTreeSet<JobId>,
    /// How many verbs the transactions that have committed ask for: each is recorded once, obeyed or not.
    verbs: usize,
    /// Rows that an owner has seen.
    pub(crate) seen: BTreeSet<u64>,
}

impl World {
    pub(crate) fn application_acts(&mut self) {
        match self.rng.random_range(0..20) {
            0..=10 => self.application_writes(),
            11..=17 => {
                let Some(rows) = self.some_open() else { return };
                if rows.first().map(|row| row.number) < self.tables.inbox().last().map(|row| row.number) {
                    self.reached.note("late commit");
                }
                self.arrive(rows);
            }
            _ => {
                let Some(rows) = self.some_open() else { return };
                self.sql.rolled_back.extend(rows.iter().filter_map(|row| row.job()).map(|job| job.id));
            }
        }
    }

    fn some_open(&mut self) -> Option<Vec<InboxRow>> {
        if self.sql.open.is_empty() {
            return None;
        }
        let index = self.rng.random_range(0..self.sql.open.len());
        Some(self.sql.open.swap_remove(index))
    }

    fn arrive(&mut self, rows: Vec<InboxRow>) {
        self.sql.committed.extend(rows.iter().filter_map(|row| row.job()).map(|job| job.id));
        self.sql.verbs += rows.iter().filter(|row| is_verb(row)).count();
        self.tables.arrive(rows);
        // A wake-up is only a hint.
        if self.rng.random_bool(0.5) {
            self.tell(Event::Rung);
        }
    }

    fn application_writes(&mut self) {
        if self.sql.open.is_empty() || (self.sql.open.len() < OPEN_MAX && self.rng.random_bool(0.5)) {
            self.sql.open.push(Vec::new());
        }
        let index = self.rng.random_range(0..self.sql.open.len());
        for _ in 0..self.rng.random_range(1..5) {
            let number = self.tables.draw_number();
            let own = self.sql.open[index].iter().filter_map(|row| row.job()).map(|job| job.id).next_back();
            let about = own.or_else(|| self.some_job()).filter(|_| self.rng.random_bool(0.2));
            let wish = if let Some(job) = about {
                let verb = match self.some_verb(job) {
                    // No function asks for it.
                    Verb::Delete(job) => Verb::Cancel(job),
                    _ if self.rng.random_bool(0.5) => Verb::Cancel(job),
                    verb => verb,
                };
                let by = By { who: APPLICATION.into(), ..By::default() };
                Wish::Ask { verb, by, unrecordable: None }
            } else {
                let spec = people::spec(&mut self.rng, self.now.db);
                let due = match spec.due {
                    DueAt::In(wait) => DueAt::At(self.now.db_latest.plus(wait)),
                    due => due,
                };
                let spec = Arc::new(JobSpec { due, ..JobSpec::clone(&spec) });
                let args_bytes = spec.args.len() as u32;
                Wish::Defer(InboxJob { id: self.tables.draw_id(), spec, args_bytes, unrecordable: None })
            };
            self.sql.open[index].push(InboxRow { number, written: self.now.db, wish });
        }
    }

    /// A job of late, of any kind of defer, taken in or not; now and then one that does not exist.
    pub(crate) fn some_job(&mut self) -> Option<JobId> {
        let waiting = self.tables.inbox().filter_map(|row| row.job()).map(|job| job.id).max();
        let last = self.tables.jobs().keys().next_back().copied().max(waiting)?.0;
        Some(JobId(self.rng.random_range(last.saturating_sub(20)..=last + 1).max(1)))
    }

    /// Nobody keeps a transaction open any more.
    pub(crate) fn applications_finish(&mut self) {
        while let Some(rows) = self.some_open() {
            self.arrive(rows);
        }
    }

    pub(crate) fn note_taken_in(&mut self, batch: &Batch) {
        for taken in &batch.inbox {
            let Some(job) = &taken.job else { continue };
            self.reached.note("taken in");
            let ended = batch.outcomes.iter().find(|outcome| outcome.job == job.id);
            let reason = ended.and_then(|outcome| outcome.more.as_ref()?.reason.as_deref());
            match ended.map(|outcome| outcome.verdict) {
                Some(Verdict::Cancelled) if reason == Some("DUPLICATE") => self.reached.note("duplicate from SQL"),
                Some(Verdict::Cancelled) => self.reached.note("cancelled as it was taken in"),
                _ => {}
            }
        }
        let is_refused = |row: &RareRow| matches!(row, RareRow::Audit(AuditRow { refused: Some(_), .. }));
        if batch.rare_rows.iter().any(is_refused) {
            self.reached.note("refused verb from SQL");
        }
        // Rows are decided in their order, so one that was seen before and is still there had no room.
        let last = batch.inbox.iter().map(|taken| taken.number).max();
        let is_left = |row: &InboxRow| Some(row.number) < last && self.sql.seen.contains(&row.number);
        if self.tables.inbox().any(|row| is_left(row)) {
            self.reached.note("left in the inbox");
        }
        let unrecordable = batch.inbox.iter().any(|taken| taken.job.is_none()) && !batch.jobs.is_empty();
        if unrecordable {
            self.reached.note("unrecordable from SQL");
        }
    }

    /// Each committed job is one job or still waits to be, and none of those that were rolled back is.
    pub(crate) fn check_applications(&self) {
        let waiting: BTreeSet<JobId> = self.tables.inbox().filter_map(|row| row.job()).map(|job| job.id).collect();
        for id in &self.sql.committed {
            let is_job = self.tables.jobs().contains_key(id) || self.ledger.deleted.contains(id);
            assert!(is_job != waiting.contains(id), "job {id} is in one place: job {is_job}");
        }
        let waiting = self.tables.inbox().filter(|row| is_verb(row)).count();
        let recorded = self.tables.audit().values().filter(|entry| &*entry.by.who == APPLICATION).count();
        assert_eq!(recorded + waiting, self.sql.verbs, "C17: each verb of an application is recorded");
        for id in &self.sql.rolled_back {
            assert!(!self.tables.jobs().contains_key(id), "job {id} was rolled back");
        }
    }
}
