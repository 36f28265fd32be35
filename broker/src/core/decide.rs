//! The core itself: events in, batches and questions out.

use std::time::Duration;

use super::{
    batch::Batch,
    effect::Question,
    event::Event,
    job::Record,
    limits::Limits,
    state::State,
    types::{JobId, Now, Term, Timestamp},
};

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
    state: State,
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
        let _ = (last_row, term, limits, now);
        Self { state }
    }

    /// Takes an event in.
    pub fn handle(&mut self, now: Now, event: Event) {
        let _ = (now, event);
    }

    /// What to commit next; `None`: nothing.
    pub fn take_batch(&mut self, now: Now) -> Option<Batch> {
        let _ = now;
        None
    }

    /// The batch is committed.
    pub fn committed(&mut self, number: u64, at: Timestamp) {
        let _ = (number, at);
    }

    /// The batch in flight was refused, with nothing written: decide everything since `state`, which is that of the
    /// last committed row, again, in halves.
    pub fn refused(&mut self, now: Now, state: State, message: &str) {
        let _ = (now, state, message);
    }

    /// What to ask the store now.
    pub fn questions(&mut self) -> Vec<Question> {
        Vec::new()
    }

    /// When a tick is due at the latest.
    pub fn wake_at(&self) -> Wake {
        Wake::default()
    }

    /// An unfinished job in memory.
    pub fn live(&self, job: JobId) -> Option<LiveJob> {
        let _ = job;
        None
    }

    /// The fold of all that was decided, committed or not.
    pub fn state(&self) -> &State {
        &self.state
    }
}
