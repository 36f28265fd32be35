//! The two bounds of retention (storage.md, rule 11): facts of the log, since every reader and writer goes by them.

use super::{batch::RareRow, decide::Core, fact::Fact, state::State, types::JobId};

/// How far retention has come. A bound only ever rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// From the next batch on, rows of lower ids go to the tables of what outlives its partition.
    KeptBelow(JobId),
    /// Of lower ids, only what lies in those tables counts. Never above the other bound.
    MovedBelow(JobId),
}

impl State {
    /// Whether the job's partition is being looked through for what outlives it: what is final there stays as it is.
    pub fn is_moving(&self, job: JobId) -> bool {
        self.moved_below <= job && job < self.kept_below
    }
}

impl Core {
    /// Records a bound, unless it is reached already: another owner, or this one a moment ago, asked the same.
    pub(super) fn bound(&mut self, bound: Bound) {
        match bound {
            Bound::KeptBelow(id) if id > self.state.kept_below => {
                self.record(Fact::KeptBelow { id });
                // What was drawn long ago and not used would only fill those tables.
                self.ids.iter_mut().for_each(|ids| ids.first = ids.first.max(id.0));
                self.ids.retain(|ids| ids.first < ids.end);
            }
            Bound::MovedBelow(id) if id > self.state.moved_below && id <= self.state.kept_below => {
                self.record(Fact::MovedBelow { id });
            }
            Bound::KeptBelow(_) | Bound::MovedBelow(_) => return,
        }
        self.draft.batch.rare_rows.push(RareRow::Bound(bound));
    }
}
