//! Deferring in batches, a few calls at a time.

use std::{ops::Range, sync::Arc};

use cabbage_worker::{Batch, Client, NewJob};
use tokio::task::JoinSet;

use super::progress::Progress;

/// How jobs are cut into calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batches {
    /// Jobs of one call.
    pub(super) jobs: u32,
    /// Calls at a time.
    pub(super) calls: usize,
}

/// As most measurements fill their queues.
pub(super) const FILLING: Batches = Batches { jobs: 1_000, calls: 4 };

impl Batches {
    /// Defers the jobs of these numbers; answers their ids, in the order in which the calls ended.
    pub(super) async fn defer(
        self,
        client: &Client,
        numbers: Range<u32>,
        job: impl Fn(u32) -> NewJob,
    ) -> anyhow::Result<Vec<i64>> {
        let progress = Arc::new(Progress::of("deferring", numbers.len() as u64));
        let mut calls: JoinSet<anyhow::Result<Vec<i64>>> = JoinSet::new();
        let mut ids = Vec::with_capacity(numbers.len());
        let mut firsts = numbers.clone().step_by(self.jobs as usize);
        loop {
            while calls.len() < self.calls
                && let Some(first) = firsts.next()
            {
                let last = first.saturating_add(self.jobs).min(numbers.end);
                let batch: Batch = (first..last).map(&job).collect();
                let (client, progress) = (client.clone(), Arc::clone(&progress));
                calls.spawn(async move {
                    let ids = client.defer_all(batch).await?;
                    progress.more(ids.len() as u64);
                    Ok(ids)
                });
            }
            match calls.join_next().await {
                Some(answer) => ids.extend(answer??),
                None => return Ok(ids),
            }
        }
    }
}
