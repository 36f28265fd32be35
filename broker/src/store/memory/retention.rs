//! Retention without partitions: finished jobs go one by one, by state and age.

use super::tables::Tables;
use crate::{
    core::{
        job::Verdict,
        retention::Milestone,
        types::{JobId, QueueNo, Timestamp},
    },
    store::{Keep, RetainAsk, Retained},
};

/// How many jobs one step looks at.
const JOBS_PER_STEP: usize = 1_000;

impl Tables {
    /// Erases jobs that ended longer ago than they are kept, looking at the next ones after an id.
    pub fn retain(&mut self, now: Timestamp, keep: &Keep, ask: &RetainAsk) -> Retained {
        if let Some((queue, verdict, jobs, _)) = self.erased().find(|(_, _, erased, known)| erased > known) {
            return Retained::Record(Milestone::Forgotten { queue, verdict, jobs }, 0);
        }
        let Some(after) = ask.erase_after else { return Retained::Nothing };
        let looked_at: Vec<JobId> =
            self.jobs.range(JobId(after.0 + 1)..).take(JOBS_PER_STEP).map(|(id, _)| *id).collect();
        let Some(last) = looked_at.last().copied() else {
            if let Some(keep) = keep.audit {
                self.audit.retain(|_, row| now <= row.at.plus(keep));
            }
            return Retained::Nothing;
        };
        let mut jobs = 0;
        for id in looked_at {
            let Some(newest) = self.newest_outcome(id) else { continue };
            if keep.of(newest.verdict).is_some_and(|keep| newest.finished.plus(keep) < now) {
                if let Some((queue, verdict)) = self.ended_in(id) {
                    *self.erased.entry((queue, verdict)).or_default() += 1;
                }
                self.jobs.remove(&id);
                let outcomes: Vec<_> = self.outcomes.range((id, 0)..=(id, u32::MAX)).map(|(key, _)| *key).collect();
                for key in outcomes {
                    self.outcomes.remove(&key);
                }
                jobs += 1;
            }
        }
        Retained::Erased { jobs, after: last }
    }

    /// The queue that a final job ended in, which a retry may have changed, and how.
    fn ended_in(&self, job: JobId) -> Option<(QueueNo, Verdict)> {
        let finished = self.finished(job)?;
        let changed = finished.changed.queue.and_then(|name| self.queue_no(&name));
        Some((changed.unwrap_or(finished.stream.queue), finished.verdict))
    }
}
