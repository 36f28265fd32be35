//! The argument cache: what was asked for, of jobs that wait in memory. Only a cache: the store has them all.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::core::{job::JobSpec, pages::Pages, types::JobId};

/// What a small plain job costs beyond its arguments, in bytes, about: its slot, its place in the order, and what the
/// allocator adds to the arguments.
const PLAIN_OVERHEAD_BYTES: usize = 72;

/// Arguments up to here are copied when they are asked for. Larger ones are shared.
const SMALL_BYTES_MAX: usize = 4_096;

/// What any other costs beyond its variable parts, in bytes, about.
const SPEC_OVERHEAD_BYTES: usize = 320;

/// An entry that waited for this long may make room for a new one. (Without this, jobs that wait for hours would hold
/// the cache for ever; with plain first-in-first-out, a backlog that is larger than the cache would never hit it.)
const STALE_AFTER_SECONDS: Second = 30;

/// Specs by job, bounded in bytes.
#[derive(Debug)]
pub(super) struct Arguments {
    specs: Pages<Kept>,
    /// In the order of insertion, with what was taken out meanwhile.
    order: VecDeque<(JobId, Second)>,
    /// Of the last small plain job. The next one has the same most of the time.
    names: Arc<Names>,
    bytes: usize,
    bytes_max: usize,
}

/// When something was inserted, by the clock of the callers: enough to tell what is stale.
type Second = u32;

/// A spec, as it is kept.
#[derive(Debug)]
enum Kept {
    /// What is left to say of a small plain job, as most are, in less than half the space.
    Plain {
        names: Arc<Names>,
        args: Box<[u8]>,
    },
    Whole(Arc<JobSpec>),
}

#[derive(Debug, PartialEq, Eq)]
struct Names {
    task: Arc<str>,
    queue: Arc<str>,
}

impl Kept {
    fn spec(&self) -> Arc<JobSpec> {
        match self {
            Self::Plain { names, args } => {
                let plain = JobSpec::plain(Arc::clone(&names.task), Arc::clone(&names.queue));
                Arc::new(JobSpec { args: Bytes::copy_from_slice(args), ..plain })
            }
            Self::Whole(spec) => Arc::clone(spec),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Plain { names: _, args } => PLAIN_OVERHEAD_BYTES + args.len(),
            Self::Whole(spec) => {
                let labels: usize = spec.metadata.iter().map(|(key, value)| key.len() + value.len() + 48).sum();
                SPEC_OVERHEAD_BYTES + spec.args.len() + labels
            }
        }
    }
}

impl Arguments {
    pub(super) fn new(bytes_max: usize) -> Self {
        let names = Arc::new(Names { task: "".into(), queue: "".into() });
        Self { specs: Pages::default(), order: VecDeque::new(), names, bytes: 0, bytes_max }
    }

    pub(super) fn get(&self, job: JobId) -> Option<Arc<JobSpec>> {
        self.specs.get(job).map(Kept::spec)
    }

    /// Keeps a spec if there is room, or if room can be made of what is stale. A quarter of the room is for jobs that can
    /// start, so that those that wait for a lock, a time or a worker, however many, do not keep them out.
    pub(super) fn insert(&mut self, job: JobId, spec: Arc<JobSpec>, can_start: bool, now: Duration) {
        let now = now.as_secs() as Second;
        let kept = self.kept(spec);
        let bytes = kept.bytes();
        let bytes_max = if can_start { self.bytes_max } else { self.bytes_max / 4 * 3 };
        while self.bytes + bytes > bytes_max {
            match self.order.front() {
                Some((oldest, at))
                    if self.specs.get(*oldest).is_none() || now.saturating_sub(*at) > STALE_AFTER_SECONDS =>
                {
                    let oldest = *oldest;
                    self.order.pop_front();
                    self.remove(oldest);
                }
                _ => return,
            }
        }
        if let Some(old) = self.specs.insert(job, kept) {
            self.bytes -= old.bytes();
        }
        self.bytes += bytes;
        self.order.push_back((job, now));
    }

    /// A spec, as it is to be kept.
    fn kept(&mut self, spec: Arc<JobSpec>) -> Kept {
        if !spec.is_plain() || spec.args.len() > SMALL_BYTES_MAX {
            return Kept::Whole(spec);
        }
        // Nobody else has it any more, most often.
        let JobSpec { task, queue, args, .. } = Arc::unwrap_or_clone(spec);
        let names = Names { task, queue };
        if *self.names != names {
            self.names = Arc::new(names);
        }
        Kept::Plain { names: Arc::clone(&self.names), args: Vec::from(args).into_boxed_slice() }
    }

    /// Forgets a job that is final, or that left memory.
    pub(super) fn remove(&mut self, job: JobId) {
        if let Some(kept) = self.specs.remove(job) {
            self.bytes -= kept.bytes();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::job::DueAt;

    fn spec(bytes: usize) -> Arc<JobSpec> {
        Arc::new(JobSpec { args: Bytes::from(vec![b' '; bytes]), ..JobSpec::plain("t", "q") })
    }

    #[test]
    fn a_full_cache_keeps_what_is_needed_first_until_it_is_stale() {
        let mut cache = Arguments::new(2 * (PLAIN_OVERHEAD_BYTES + 100));
        for id in 1..=3 {
            cache.insert(JobId(id), spec(100), true, Duration::ZERO);
        }
        assert!(cache.get(JobId(1)).is_some() && cache.get(JobId(2)).is_some());
        assert!(cache.get(JobId(3)).is_none());
        cache.insert(JobId(4), spec(100), true, Duration::from_secs(31));
        assert!(cache.get(JobId(1)).is_none() && cache.get(JobId(4)).is_some());
    }

    #[test]
    fn what_is_removed_gives_its_room_back() {
        let mut cache = Arguments::new(PLAIN_OVERHEAD_BYTES + 100);
        for id in 1..=10_000 {
            cache.insert(JobId(id), spec(100), true, Duration::ZERO);
            assert!(cache.get(JobId(id)).is_some());
            cache.remove(JobId(id));
        }
        assert_eq!((cache.bytes, cache.specs.len()), (0, 0));
        assert!(cache.order.len() <= 4_097);
    }

    #[test]
    fn what_cannot_start_leaves_a_quarter_of_the_cache() {
        let mut cache = Arguments::new(8 * (PLAIN_OVERHEAD_BYTES + 100));
        for id in 1..=7 {
            cache.insert(JobId(id), spec(100), false, Duration::ZERO);
        }
        for id in 8..=10 {
            cache.insert(JobId(id), spec(100), true, Duration::ZERO);
        }
        let kept: Vec<_> = (1..=10).filter(|id| cache.get(JobId(*id)).is_some()).collect();
        assert_eq!(kept, [1, 2, 3, 4, 5, 6, 8, 9]);
    }

    /// By which the overhead is reckoned.
    #[test]
    fn a_slot_is_four_words_and_a_place_in_the_order_two() {
        assert_eq!((size_of::<Option<Kept>>(), size_of::<(JobId, Second)>()), (32, 16));
    }

    #[test]
    fn every_spec_comes_back_as_it_was() {
        let mut cache = Arguments::new(10_000);
        let whole = JobSpec {
            lock: Some("l".into()),
            priority: 3,
            metadata: vec![("k".to_owned(), "v".to_owned())],
            ..JobSpec::plain("t", "q")
        };
        let others = [
            JobSpec { due: DueAt::In(Duration::from_secs(1)), ..JobSpec::plain("t", "q") },
            JobSpec { metadata: whole.metadata.clone(), ..JobSpec::plain("t", "q") },
            JobSpec { traceparent: Some("p".into()), ..JobSpec::plain("t", "q") },
            JobSpec { args: Bytes::from(vec![b'1'; SMALL_BYTES_MAX + 1]), ..JobSpec::plain("t", "q") },
            JobSpec::plain("t", "other"),
            JobSpec::plain("other", "q"),
        ];
        let specs: Vec<_> = others.into_iter().chain([whole, (*spec(7)).clone()]).collect();
        for (id, spec) in (1..).zip(&specs) {
            cache.insert(JobId(id), Arc::new(spec.clone()), true, Duration::ZERO);
        }
        for (id, spec) in (1..).zip(specs) {
            assert_eq!(cache.get(JobId(id)), Some(Arc::new(spec)));
        }
    }
}
