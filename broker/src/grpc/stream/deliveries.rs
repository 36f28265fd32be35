//! Handouts become frames of jobs: arguments joined, names as numbers of the stream's dictionary, cut to size.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use cabbage_proto::v1;

use crate::{
    cell::{Handout, Names},
    core::{
        job::JobSpec,
        types::{JobId, Lease, LockId, QueueNo, Stream, TaskNo},
    },
    grpc::show::{duration, timestamp},
    store::{Store, StoreError},
};

/// Deliveries of one frame.
const FRAME_DELIVERIES_MAX: usize = 4_000;

/// What a delivery takes on the wire besides its texts and bytes, at most.
const DELIVERY_BYTES: usize = 128;

/// What a frame keeps free for itself.
const FRAME_BYTES: usize = 16 << 10;

/// Turns handouts into frames.
#[derive(Debug)]
pub(super) struct Deliveries {
    names: Arc<Names>,
    receive_bytes_max: usize,
    queues: HashMap<QueueNo, u32>,
    tasks: HashMap<TaskNo, u32>,
    /// The last entry of the dictionary.
    last_entry: u32,
    /// The last stream of jobs and its entries: most jobs come from the one that the job before came from.
    last: Option<(Stream, u32, u32)>,
    seq: u64,
    /// Deliveries of all frames so far.
    count: u64,
}

/// A frame, and how many deliveries of this stream were sent with it.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) jobs: v1::Jobs,
    pub(super) deliveries: u64,
    /// Bytes of the arguments of all its jobs.
    pub(super) arguments_bytes: usize,
}

impl Deliveries {
    pub(super) fn new(names: Arc<Names>, receive_bytes_max: usize) -> Self {
        Self {
            names,
            receive_bytes_max,
            queues: HashMap::new(),
            tasks: HashMap::new(),
            last_entry: 0,
            last: None,
            seq: 0,
            count: 0,
        }
    }

    /// The number of the last frame.
    pub(super) fn last_seq(&self) -> u64 {
        self.seq
    }

    /// The next frame: as many as fit of the first `ready`, which have their specs.
    pub(super) fn frame(&mut self, waiting: &mut VecDeque<Handout>, ready: usize) -> Frame {
        let mut bytes = FRAME_BYTES;
        let mut fits = 0;
        for handout in waiting.iter().take(ready.min(FRAME_DELIVERIES_MAX)) {
            bytes += handout.spec.as_deref().map_or(DELIVERY_BYTES, wire_bytes);
            if bytes > self.receive_bytes_max && fits > 0 {
                break;
            }
            fits += 1;
        }
        // One buffer holds all tokens of the frame.
        let mut tokens = BytesMut::with_capacity(fits * Lease::TOKEN_BYTES);
        for handout in waiting.iter().take(fits) {
            tokens.extend_from_slice(&handout.delivery.lease.token());
        }
        let tokens = tokens.freeze();
        let (mut dictionary, mut arguments_bytes) = (Vec::new(), 0);
        let mut deliveries = Vec::with_capacity(fits);
        for (number, handout) in waiting.drain(..fits).enumerate() {
            arguments_bytes += handout.spec.as_ref().map_or(0, |spec| spec.args.len());
            let at = number * Lease::TOKEN_BYTES;
            let token = tokens.slice(at..at + Lease::TOKEN_BYTES);
            deliveries.push(self.delivery(handout, token, &mut dictionary));
        }
        self.seq += 1;
        self.count += deliveries.len() as u64;
        let jobs = v1::Jobs { seq: self.seq, dictionary, deliveries };
        Frame { jobs, deliveries: self.count, arguments_bytes }
    }

    fn delivery(
        &mut self,
        handout: Handout,
        lease_token: Bytes,
        dictionary: &mut Vec<v1::DictionaryEntry>,
    ) -> v1::Delivery {
        let Handout { delivery, spec } = handout;
        let (lease, record) = (delivery.lease, delivery.record);
        let (task, queue) = self.entries(record.stream, dictionary);
        let mut wire = v1::Delivery {
            job_id: lease.job.0,
            lease_token,
            task,
            queue,
            attempts_before: record.attempts,
            delivery: if lease.delivery == 1 { 0 } else { lease.delivery },
            priority: record.stream.priority.into(),
            ..v1::Delivery::default()
        };
        if let Some(rare) = &record.rare {
            wire.attempt_timeout = rare.attempt_timeout.map(duration);
            wire.deadline = rare.deadline.map(timestamp);
            wire.max_attempts = match rare.retry.as_ref().map(|retry| retry.max_attempts) {
                None => 0,
                Some(0) => u32::MAX,
                Some(attempts) => attempts,
            };
        }
        if let Some(spec) = spec {
            if spec.args != b"{}"[..] {
                wire.args = spec.args.clone();
            }
            if let Some(lock) = spec.lock.as_deref().filter(|lock| record.lock() == Some(LockId::of(lock))) {
                lock.clone_into(&mut wire.lock);
            }
            if !spec.metadata.is_empty() {
                wire.metadata = spec.metadata.iter().cloned().collect();
            }
            spec.traceparent.as_deref().unwrap_or_default().clone_into(&mut wire.traceparent);
            spec.tracestate.as_deref().unwrap_or_default().clone_into(&mut wire.tracestate);
        }
        wire
    }

    /// The numbers of a task and a queue; a new one is announced.
    fn entries(&mut self, stream: Stream, dictionary: &mut Vec<v1::DictionaryEntry>) -> (u32, u32) {
        if let Some((last, task, queue)) = self.last
            && (last.task, last.queue) == (stream.task, stream.queue)
        {
            return (task, queue);
        }
        let (names, last_entry) = (&self.names, &mut self.last_entry);
        let mut announce = |name: Arc<str>| {
            *last_entry += 1;
            dictionary.push(v1::DictionaryEntry { number: *last_entry, name: name.to_string() });
            *last_entry
        };
        let task = *self.tasks.entry(stream.task).or_insert_with(|| announce(names.task(stream.task)));
        let queue = *self.queues.entry(stream.queue).or_insert_with(|| announce(names.queue(stream.queue)));
        self.last = Some((stream, task, queue));
        (task, queue)
    }
}

/// Jobs whose specs are read in one statement.
const SPECS_MAX: usize = 1_000;

/// Specs that were read, in the order of their jobs.
#[derive(Debug)]
pub(super) struct Specs(Vec<(JobId, Arc<JobSpec>)>);

impl Specs {
    pub(super) fn get(&self, job: JobId) -> Option<&Arc<JobSpec>> {
        let at = self.0.binary_search_by_key(&job, |(job, _)| *job).ok()?;
        Some(&self.0[at].1)
    }
}

/// Reads what the cache did not have. A job with a lock that a retry changed gets the new lock's name.
pub(super) async fn read_specs(
    store: Arc<dyn Store>,
    mut missing: Vec<(JobId, Option<LockId>)>,
) -> Result<Specs, StoreError> {
    missing.sort_unstable();
    let mut specs = Vec::with_capacity(missing.len());
    for part in missing.chunks(SPECS_MAX) {
        let ids: Vec<JobId> = part.iter().map(|(job, _)| *job).collect();
        specs.extend(store.specs(&ids).await?.into_iter().map(|stored| (stored.id, stored.spec)));
    }
    specs.sort_unstable_by_key(|(job, _)| *job);
    for (job, lock) in missing {
        let Ok(at) = specs.binary_search_by_key(&job, |(job, _)| *job) else { continue };
        let spec = &mut specs[at].1;
        if lock.is_some() && lock != spec.lock.as_deref().map(LockId::of) {
            let view = store.job(job).await?;
            let outcomes = view.map(|view| view.outcomes).unwrap_or_default();
            spec.lock = outcomes.iter().rev().find_map(|outcome| outcome.more.as_ref()?.changed.as_ref()?.lock.clone());
        }
    }
    Ok(Specs(specs.into_iter().map(|(job, spec)| (job, Arc::new(spec))).collect()))
}

fn wire_bytes(spec: &JobSpec) -> usize {
    let labels: usize = spec.metadata.iter().map(|(key, value)| key.len() + value.len() + 16).sum();
    let texts = [&spec.lock, &spec.traceparent, &spec.tracestate];
    let texts: usize = texts.into_iter().flatten().map(|text| text.len() + 4).sum();
    DELIVERY_BYTES + spec.args.len() + labels + texts
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::core::{
        effect::Delivery,
        job::{Phase, Record},
        types::Timestamp,
    };

    fn handout(id: i64, task: u32, args: usize) -> Handout {
        let stream = Stream { queue: QueueNo(0), task: TaskNo(task), priority: 0 };
        let record = Record {
            stream,
            phase: Phase::Waiting,
            due: Timestamp(1),
            attempts: 0,
            deliveries: 1,
            crashes: 0,
            args_bytes: args as u32,
            rare: None,
        };
        let spec = JobSpec {
            args: if args == 2 { Bytes::from_static(b"{}") } else { Bytes::from(vec![b'x'; args]) },
            ..JobSpec::plain("t", "q")
        };
        let lease = Lease { job: JobId(id), delivery: 1, nonce: 3 };
        Handout { delivery: Delivery { lease, record }, spec: Some(Arc::new(spec)) }
    }

    fn deliveries(receive_bytes_max: usize) -> Deliveries {
        Deliveries::new(Arc::new(Names::default()), receive_bytes_max)
    }

    #[test]
    fn a_name_is_announced_once_and_defaults_are_left_out() {
        let mut deliveries = deliveries(4 << 20);
        let mut waiting: VecDeque<_> = [handout(1, 0, 2), handout(2, 1, 2), handout(3, 0, 2)].into();
        let frame = deliveries.frame(&mut waiting, usize::MAX);
        assert_eq!((frame.jobs.seq, frame.deliveries, frame.jobs.dictionary.len()), (1, 3, 3));
        let tasks: Vec<u32> = frame.jobs.deliveries.iter().map(|delivery| delivery.task).collect();
        assert_eq!(tasks, [1, 3, 1]);
        assert!(frame.jobs.deliveries[0].args.is_empty());
        assert_eq!(Lease::parse(&frame.jobs.deliveries[1].lease_token).map(|lease| lease.job), Some(JobId(2)));
        waiting.push_back(handout(4, 1, 2));
        let frame = deliveries.frame(&mut waiting, usize::MAX);
        assert_eq!((frame.jobs.seq, frame.deliveries, frame.jobs.dictionary.len()), (2, 4, 0));
    }

    #[test]
    fn frames_are_cut_to_what_the_worker_can_receive() {
        let mut deliveries = deliveries(512 << 10);
        let mut waiting: VecDeque<_> = (1..=8).map(|id| handout(id, 0, 200 << 10)).collect();
        let mut sizes = Vec::new();
        while !waiting.is_empty() {
            let frame = deliveries.frame(&mut waiting, usize::MAX);
            assert!(frame.jobs.encoded_len() <= 512 << 10);
            sizes.push(frame.jobs.deliveries.len());
        }
        assert_eq!(sizes, [2, 2, 2, 2]);
    }

    #[test]
    fn frames_are_cut_to_a_number_of_deliveries() {
        let mut deliveries = deliveries(4 << 20);
        let mut waiting: VecDeque<_> = (1..=5_000).map(|id| handout(id, 0, 2)).collect();
        assert_eq!(deliveries.frame(&mut waiting, usize::MAX).jobs.deliveries.len(), FRAME_DELIVERIES_MAX);
        assert_eq!(deliveries.frame(&mut waiting, usize::MAX).jobs.deliveries.len(), 1_000);
    }
}
