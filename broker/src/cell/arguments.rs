//! The argument cache: what was asked for, of jobs that wait in memory. Only a cache: the store has them all.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crate::core::{job::JobSpec, pages::Pages, types::JobId};

/// What a spec costs beyond its variable parts, in bytes, about.
const SPEC_OVERHEAD_BYTES: usize = 320;

/// An entry that waited for this long may make room for a new one. (Without this, jobs that wait for hours would hold
/// the cache for ever; with plain first-in-first-out, a backlog that is larger than the cache would never hit it.)
const STALE_AFTER: Duration = Duration::from_secs(30);

/// Specs by job, bounded in bytes.
#[derive(Debug)]
pub(super) struct Arguments {
    specs: Pages<Arc<JobSpec>>,
    /// In the order of insertion, with what was taken out meanwhile.
    order: VecDeque<(JobId, Duration)>,
    bytes: usize,
    bytes_max: usize,
}

impl Arguments {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { specs: Pages::default(), order: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(super) fn get(&self, job: JobId) -> Option<&Arc<JobSpec>> {
        self.specs.get(job)
    }

    /// Keeps a spec if there is room, or if room can be made of what is stale.
    pub(super) fn insert(&mut self, job: JobId, spec: Arc<JobSpec>, now: Duration) {
        let bytes = bytes_of(&spec);
        while self.bytes + bytes > self.bytes_max {
            match self.order.front() {
                Some((oldest, at)) if self.specs.get(*oldest).is_none() || now.saturating_sub(*at) > STALE_AFTER => {
                    let oldest = *oldest;
                    self.order.pop_front();
                    self.remove(oldest);
                }
                _ => return,
            }
        }
        if let Some(old) = self.specs.insert(job, spec) {
            self.bytes -= bytes_of(&old);
        }
        self.bytes += bytes;
        self.order.push_back((job, now));
    }

    /// Forgets a job that is final, or that left memory.
    pub(super) fn remove(&mut self, job: JobId) {
        if let Some(spec) = self.specs.remove(job) {
            self.bytes -= bytes_of(&spec);
        }
        while self.order.front().is_some_and(|(oldest, _)| self.specs.get(*oldest).is_none()) {
            self.order.pop_front();
        }
        // One old entry in front must not let the dead ones behind it pile up.
        if self.order.len() > 2 * self.specs.len() + 4_096 {
            let specs = &self.specs;
            self.order.retain(|(job, _)| specs.get(*job).is_some());
        }
    }
}

fn bytes_of(spec: &JobSpec) -> usize {
    let labels: usize = spec.metadata.iter().map(|(key, value)| key.len() + value.len() + 48).sum();
    SPEC_OVERHEAD_BYTES + spec.args.len() + labels
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn spec(bytes: usize) -> Arc<JobSpec> {
        Arc::new(JobSpec { args: Bytes::from(vec![b' '; bytes]), ..JobSpec::plain("t", "q") })
    }

    #[test]
    fn a_full_cache_keeps_what_is_needed_first_until_it_is_stale() {
        let mut cache = Arguments::new(2 * (SPEC_OVERHEAD_BYTES + 100));
        for id in 1..=3 {
            cache.insert(JobId(id), spec(100), Duration::ZERO);
        }
        assert!(cache.get(JobId(1)).is_some() && cache.get(JobId(2)).is_some());
        assert!(cache.get(JobId(3)).is_none());
        cache.insert(JobId(4), spec(100), STALE_AFTER * 2);
        assert!(cache.get(JobId(1)).is_none() && cache.get(JobId(4)).is_some());
    }

    #[test]
    fn what_is_removed_gives_its_room_back() {
        let mut cache = Arguments::new(SPEC_OVERHEAD_BYTES + 100);
        for id in 1..=10_000 {
            cache.insert(JobId(id), spec(100), Duration::ZERO);
            assert!(cache.get(JobId(id)).is_some());
            cache.remove(JobId(id));
        }
        assert_eq!((cache.bytes, cache.specs.len()), (0, 0));
        assert!(cache.order.len() <= 4_097);
    }
}
