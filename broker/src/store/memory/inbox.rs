//! The inbox as maps: what applications would write by SQL functions, in transactions that commit when they like.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::tables::Tables;
use crate::{
    core::{
        inbox::{InboxRow, Intake, Look, TakenRow, Wish},
        types::JobId,
    },
    store::{CommitError, INBOX_ROWS_MAX},
};

/// Rows that were committed and are not taken in.
#[derive(Clone, Debug, Default)]
pub(super) struct InboxTable {
    rows: BTreeMap<u64, Arrived>,
    /// In the order in which they were committed.
    by_arrival: BTreeMap<u64, u64>,
    by_job: HashMap<JobId, u64>,
    last_number: u64,
    last_arrival: u64,
}

#[derive(Clone, Debug)]
struct Arrived {
    arrival: u64,
    row: Arc<InboxRow>,
}

/// How far a reader of the inbox has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct InboxPosition(u64);

impl InboxTable {
    pub(super) fn job(&self, job: JobId) -> Option<&Arc<InboxRow>> {
        self.by_job.get(&job).map(|number| &self.rows[number].row)
    }

    pub(super) fn row(&self, number: u64) -> Option<&Arc<InboxRow>> {
        self.rows.get(&number).map(|arrived| &arrived.row)
    }

    /// The jobs that wait there, youngest first.
    pub(super) fn jobs(&self) -> impl Iterator<Item = &Arc<InboxRow>> {
        let mut numbers: Vec<_> = self.by_job.iter().collect();
        numbers.sort_unstable_by_key(|(job, _)| std::cmp::Reverse(**job));
        numbers.into_iter().map(|(_, number)| &self.rows[number].row)
    }

    fn arrive(&mut self, row: InboxRow) {
        self.last_arrival += 1;
        self.by_arrival.insert(self.last_arrival, row.number);
        if let Some(job) = row.job() {
            self.by_job.insert(job.id, row.number);
        }
        self.rows.insert(row.number, Arrived { arrival: self.last_arrival, row: Arc::new(row) });
    }

    /// Takes a row out that is there: checked before.
    pub(super) fn remove(&mut self, number: u64) -> Option<Arc<InboxRow>> {
        let Arrived { arrival, row } = self.rows.remove(&number)?;
        self.by_arrival.remove(&arrival);
        if let Some(job) = row.job() {
            self.by_job.remove(&job.id);
        }
        Some(row)
    }

    /// Every row that a batch takes in is there, once.
    pub(super) fn check(&self, taken: &[TakenRow]) -> Result<(), CommitError> {
        let mut numbers = std::collections::BTreeSet::new();
        match taken.iter().find(|taken| !numbers.insert(taken.number) || !self.rows.contains_key(&taken.number)) {
            Some(taken) => Err(CommitError::TermOver(format!("row {} is not in the inbox", taken.number))),
            None => Ok(()),
        }
    }
}

impl Tables {
    /// Draws the number of a row that a transaction writes. The row is seen once that commits: [`Self::arrive`].
    pub fn draw_number(&mut self) -> u64 {
        self.inbox.last_number += 1;
        self.inbox.last_number
    }

    /// Draws the id of a job that a transaction defers.
    pub fn draw_id(&mut self) -> JobId {
        JobId(self.draw(1).start)
    }

    /// A transaction commits, with these rows.
    pub fn arrive(&mut self, rows: impl IntoIterator<Item = InboxRow>) {
        for row in rows {
            self.inbox.arrive(row);
        }
    }

    /// The rows of the inbox, in the order of their numbers.
    pub fn inbox(&self) -> impl Iterator<Item = &Arc<InboxRow>> {
        self.inbox.rows.values().map(|arrived| &arrived.row)
    }

    /// What has come since this position, which moves on.
    pub fn look(&self, position: &mut InboxPosition, look: &Look) -> Intake {
        if look.whole {
            *position = InboxPosition::default();
        }
        let mut new = self.inbox.by_arrival.range(position.0 + 1..);
        let mut rows = Vec::new();
        for (arrival, number) in new.by_ref().take(INBOX_ROWS_MAX as usize) {
            position.0 = *arrival;
            rows.push(self.inbox.rows[number].row.clone());
        }
        Intake { id: look.id, snapshot: self.position().number, rows, more: new.next().is_some() }
    }

    /// Whether a transaction that asks for this job's verbs would see it.
    pub fn knows_job(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job) || self.inbox.job(job).is_some()
    }
}

/// What PostgreSQL would refuse of a row is refused when it is taken in.
pub(super) fn texts(row: &InboxRow) -> Vec<&[u8]> {
    match &row.wish {
        Wish::Defer(job) => vec![&job.spec.args],
        Wish::Ask { .. } | Wish::Nothing => Vec::new(),
    }
}
