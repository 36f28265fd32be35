//! What the log knows of retention (storage.md, rule 11): two bounds, since every reader and writer goes by them, and how
//! many finished jobs went, since counts are state (rule 15).

use super::{
    batch::RareRow,
    decide::Core,
    fact::Fact,
    job::Verdict,
    state::State,
    types::{JobId, QueueNo},
};

/// How far retention has come. Each only ever rises, so it does no harm to record one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// From the next batch on, rows of lower ids go to the tables of what outlives its partition.
    KeptBelow(JobId),
    /// Of lower ids, only what lies in those tables counts. Never above the other bound.
    MovedBelow(JobId),
    /// So many jobs that ended in this queue with this verdict have been erased, ever.
    Forgotten {
        /// The queue that they ended in.
        queue: QueueNo,
        /// How they ended.
        verdict: Verdict,
        /// How many, from the beginning of the cell on.
        jobs: u64,
    },
}

impl State {
    /// Whether the job's partition is being looked through for what outlives it: what is final there stays as it is.
    pub fn is_moving(&self, job: JobId) -> bool {
        self.moved_below <= job && job < self.kept_below
    }

    /// How many jobs that ended in this queue with this verdict retention has erased.
    pub fn forgotten(&self, queue: QueueNo, verdict: Verdict) -> u64 {
        self.forgotten.get(&(queue, verdict)).copied().unwrap_or_default()
    }
}

impl Core {
    /// Records a milestone, unless it is reached already: another owner, or this one a moment ago, asked the same.
    pub(super) fn reach(&mut self, milestone: Milestone) {
        match milestone {
            Milestone::KeptBelow(id) if id > self.state.kept_below => {
                self.record(Fact::KeptBelow { id });
                // What was drawn long ago and not used would only fill those tables.
                self.ids.iter_mut().for_each(|ids| ids.first = ids.first.max(id.0));
                self.ids.retain(|ids| ids.first < ids.end);
            }
            Milestone::MovedBelow(id) if id > self.state.moved_below && id <= self.state.kept_below => {
                self.record(Fact::MovedBelow { id });
            }
            Milestone::Forgotten { queue, verdict, jobs } if jobs > self.state.forgotten(queue, verdict) => {
                self.record(Fact::Forgotten { queue, verdict, jobs });
            }
            Milestone::KeptBelow(_) | Milestone::MovedBelow(_) | Milestone::Forgotten { .. } => return,
        }
        self.draft.batch.rare_rows.push(RareRow::Milestone(milestone));
    }
}
