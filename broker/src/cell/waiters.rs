//! Calls that wait for the end of a job.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::core::types::JobId;

/// Calls that may wait for ends at once.
pub(super) const WAITERS_MAX: usize = 10_000;

/// Who is to be woken when a job becomes final.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    by_job: HashMap<JobId, Vec<oneshot::Sender<()>>>,
    count: usize,
}

impl Waiters {
    pub(super) fn is_empty(&self) -> bool {
        self.by_job.is_empty()
    }

    /// Remembers a waiter, if there is room. (One that is dropped is woken, and looks by itself.)
    pub(super) fn add(&mut self, job: JobId, waiter: oneshot::Sender<()>) {
        if self.count >= WAITERS_MAX {
            self.forget_those_gone();
        }
        if self.count < WAITERS_MAX {
            self.by_job.entry(job).or_default().push(waiter);
            self.count += 1;
        }
    }

    /// The job is final.
    pub(super) fn wake(&mut self, job: JobId) {
        for waiter in self.by_job.remove(&job).unwrap_or_default() {
            self.count -= 1;
            // Whoever gave up needs no news.
            let _ = waiter.send(());
        }
    }

    fn forget_those_gone(&mut self) {
        self.by_job.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
        self.count = self.by_job.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_of_a_job_are_woken_and_those_gone_give_room() {
        let mut waiters = Waiters::default();
        let (gone, _) = oneshot::channel();
        waiters.add(JobId(1), gone);
        let (sender, mut receiver) = oneshot::channel();
        waiters.add(JobId(2), sender);
        waiters.forget_those_gone();
        assert_eq!(waiters.count, 1);
        waiters.wake(JobId(2));
        assert_eq!(receiver.try_recv(), Ok(()));
        assert!(waiters.is_empty());
    }
}
