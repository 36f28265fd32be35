//! What comes from SQL, until it is taken in: rows of the inbox, and when it is looked into.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    ask::{By, Verb},
    job::JobSpec,
    types::{JobId, QueueNo, TaskNo, Timestamp},
};

/// How many rows are decided as one event.
pub(super) const CHUNK_ROWS: usize = 1_000;

/// How long after the last row the inbox is looked into often.
pub(super) const ATTENTION: Duration = Duration::from_secs(1);

/// How often it is looked into then.
pub(super) const ATTENTIVE_LOOK: Duration = Duration::from_millis(5);

/// How often it is looked into otherwise: the poll interval of C13, after which a lost wake-up is made good.
pub(super) const POLL: Duration = Duration::from_secs(1);

/// A row of the inbox: a job or a verb of a transaction that has committed.
#[derive(Clone, Debug, PartialEq)]
pub struct InboxRow {
    /// Its number: the order in which rows are decided.
    pub number: u64,
    /// When it was written, by the database's clock.
    pub written: Timestamp,
    /// What it asks for.
    pub wish: Wish,
}

/// What a row of the inbox asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// A new job.
    Defer(InboxJob),
    /// Something to be done.
    Ask {
        /// What to do.
        verb: Verb,
        /// Who asks, and why.
        by: By,
        /// What it changes cannot be recorded, and why: it is refused.
        unrecordable: Option<Arc<str>>,
    },
    /// It makes no sense: the row is dropped. The functions write no such row.
    Nothing,
}

/// A job that is not taken in yet.
#[derive(Clone, Debug, PartialEq)]
pub struct InboxJob {
    /// Its id, which the caller knows already.
    pub id: JobId,
    /// What was asked for, but for arguments, labels and trace context: they stay where they are.
    pub spec: Arc<JobSpec>,
    /// The length of its arguments.
    pub args_bytes: u32,
    /// It cannot be recorded as it is, and why: the job fails, reason `UNRECORDABLE`.
    pub unrecordable: Option<Arc<str>>,
}

impl InboxRow {
    /// The job that it asks for.
    pub fn job(&self) -> Option<&InboxJob> {
        match &self.wish {
            Wish::Defer(job) => Some(job),
            Wish::Ask { .. } | Wish::Nothing => None,
        }
    }
}

/// A look into the inbox: what has come since the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Comes back with the answer.
    pub id: u64,
    /// All of it, not only what is new.
    pub whole: bool,
    /// The next look comes so soon that nobody need ring.
    pub attended: bool,
}

/// What was found in the inbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Intake {
    /// The id of the look.
    pub id: u64,
    /// The number of the newest log row that the snapshot saw.
    pub snapshot: u64,
    /// The rows.
    pub rows: Vec<Arc<InboxRow>>,
    /// There are more: look again.
    pub more: bool,
}

/// A row that leaves the inbox.
#[derive(Clone, Debug, PartialEq)]
pub struct TakenRow {
    /// The row's number; it must be there.
    pub number: u64,
    /// The job that it becomes, of which the store copies the rest.
    pub job: Option<TakenJob>,
}

/// What the row of a job says that the inbox does not.
#[derive(Clone, Debug, PartialEq)]
pub struct TakenJob {
    /// Its id.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueNo,
    /// Its task.
    pub task: TaskNo,
    /// When it is due.
    pub due: Timestamp,
    /// What was asked for, as [`InboxJob::spec`] has it.
    pub spec: Arc<JobSpec>,
}

/// What the core knows of the inbox.
#[derive(Debug)]
pub(super) struct Inbox {
    /// The next look is at all of it: after a start, or when an answer was lost.
    pub(super) whole: bool,
    /// When to look next.
    pub(super) next_look: Duration,
    /// When rows came last.
    came: Option<Duration>,
    /// The last look said that the next one comes soon.
    attended: bool,
    /// Found, and not given to be decided.
    pub(super) backlog: VecDeque<Arc<InboxRow>>,
    /// The numbers of all rows that were found and are not decided.
    pub(super) undecided: HashSet<u64>,
    /// Rows were left there since there were too many lines of jobs behind locks.
    pub(super) is_late: bool,
    /// The highest id of a job that was taken in.
    pub(super) highest: JobId,
    /// Rows that the database refuses whatever becomes of them. They stay there for this term.
    pub(super) refused: HashSet<u64>,
}

impl Inbox {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            whole: true,
            next_look: now,
            came: None,
            attended: false,
            backlog: VecDeque::new(),
            undecided: HashSet::new(),
            is_late: false,
            highest: JobId(0),
            refused: HashSet::new(),
        }
    }

    /// A look begins. Gives whether rows came so lately that more are to be expected: then the next look comes soon, and
    /// nobody need ring.
    pub(super) fn attend(&mut self, now: Duration) -> bool {
        self.attended = self.is_attentive(now);
        self.attended
    }

    fn is_attentive(&self, now: Duration) -> bool {
        self.came.is_some_and(|came| now.saturating_sub(came) < ATTENTION)
    }

    /// A look was answered.
    pub(super) fn found(&mut self, now: Duration, rows: Vec<Arc<InboxRow>>, more: bool) {
        if !rows.is_empty() {
            self.came = Some(now);
        }
        self.undecided.extend(rows.iter().map(|row| row.number));
        self.backlog.extend(rows);
        // Whoever was told that nobody need ring is waited for; the next look says that somebody must.
        let soon = self.attended || self.is_attentive(now);
        self.next_look = if more { now } else { now + if soon { ATTENTIVE_LOOK } else { POLL } };
    }

    /// The next rows to decide together, if all before them are decided.
    pub(super) fn next_chunk(&mut self) -> Option<Vec<Arc<InboxRow>>> {
        if self.backlog.is_empty() || self.undecided.len() > self.backlog.len() {
            return None;
        }
        let rows = self.backlog.len().min(CHUNK_ROWS);
        Some(self.backlog.drain(..rows).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_lets_nobody_ring_is_followed_by_another_soon() {
        let mut inbox = Inbox::new(Duration::ZERO);
        let row = InboxRow { number: 1, written: Timestamp(0), wish: Wish::Nothing };
        assert!(!inbox.attend(Duration::ZERO));
        inbox.found(Duration::ZERO, vec![Arc::new(row)], false);
        // The attention ends while a look is under way.
        let (before, after) = (ATTENTION / 2, ATTENTION + Duration::from_millis(1));
        assert!(inbox.attend(before));
        inbox.found(after, Vec::new(), false);
        assert_eq!(inbox.next_look, after + ATTENTIVE_LOOK);
        assert!(!inbox.attend(inbox.next_look));
        inbox.found(inbox.next_look, Vec::new(), false);
        assert_eq!(inbox.next_look, after + ATTENTIVE_LOOK + POLL);
    }
}
