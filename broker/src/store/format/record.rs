//! What is remembered of one job: as a parked row holds it, and within facts and checkpoints; and the rare wishes of
//! a job's row.

use std::sync::Arc;

use super::{
    HIGHEST, corrupt, open, seal,
    words::{DurationMessage, StreamMessage, uuid},
};
use crate::{
    core::{
        job::{JobSpec, Phase, Rare, Record, RetryPolicy, Run},
        types::{Format, LockId, SessionNo, Timestamp},
    },
    store::StoreError,
};

/// A record.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RecordMessage {
    #[prost(message, optional, tag = "1")]
    stream: Option<StreamMessage>,
    #[prost(bool, tag = "2")]
    waiting: bool,
    #[prost(message, optional, tag = "3")]
    run: Option<RunMessage>,
    #[prost(sint64, tag = "4")]
    due: i64,
    #[prost(uint32, tag = "5")]
    attempts: u32,
    #[prost(uint32, tag = "6")]
    deliveries: u32,
    #[prost(uint32, tag = "7")]
    crashes: u32,
    #[prost(uint32, tag = "8")]
    args_bytes: u32,
    #[prost(message, optional, tag = "9")]
    rare: Option<RareMessage>,
}

/// An open delivery, in checkpoints only: what is parked, or named by a fact, does not run.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct RunMessage {
    #[prost(uint32, tag = "1")]
    session: u32,
    #[prost(fixed64, tag = "2")]
    nonce: u64,
    #[prost(sint64, tag = "3")]
    started: i64,
    #[prost(bool, tag = "4")]
    cancel_requested: bool,
}

/// What few jobs have.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RareMessage {
    #[prost(bytes = "vec", optional, tag = "1")]
    lock: Option<Vec<u8>>,
    #[prost(bool, tag = "2")]
    strict: bool,
    #[prost(string, optional, tag = "3")]
    queueing_lock: Option<String>,
    #[prost(sint64, optional, tag = "4")]
    deadline: Option<i64>,
    #[prost(message, optional, tag = "5")]
    attempt_timeout: Option<DurationMessage>,
    #[prost(message, optional, tag = "6")]
    retry: Option<RetryMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RetryMessage {
    #[prost(uint32, tag = "1")]
    max_attempts: u32,
    #[prost(message, optional, tag = "2")]
    wait: Option<DurationMessage>,
    #[prost(message, optional, tag = "3")]
    linear_wait: Option<DurationMessage>,
    #[prost(message, optional, tag = "4")]
    exponential_wait: Option<DurationMessage>,
    #[prost(double, tag = "5")]
    exponential_factor: f64,
    #[prost(message, optional, tag = "6")]
    max_wait: Option<DurationMessage>,
    #[prost(double, tag = "7")]
    jitter: f64,
    #[prost(string, repeated, tag = "8")]
    only_kinds: Vec<String>,
    #[prost(string, repeated, tag = "9")]
    never_kinds: Vec<String>,
}

/// The bytes of a parked job's record, in this format.
pub fn encode_record(record: &Record, format: Format) -> Vec<u8> {
    seal(&RecordMessage::from(record), format)
}

/// Reads a record.
pub fn decode_record(bytes: &[u8]) -> Result<Record, StoreError> {
    open::<RecordMessage>(bytes, HIGHEST)?.1.try_into()
}

/// The records of jobs that share a row, which are most often the same.
#[derive(Clone, PartialEq, prost::Message)]
struct RecordsMessage {
    /// Whose they are: a bit for each place in the row, the first one lowest.
    #[prost(fixed64, tag = "1")]
    places: u64,
    /// One for all, or one for each place that is taken.
    #[prost(message, repeated, tag = "2")]
    records: Vec<RecordMessage>,
}

/// The records of parked jobs that share a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Records {
    places: u64,
    records: Vec<Record>,
}

impl Records {
    /// The record of the job at this place, below 64.
    pub fn get(&self, place: u32) -> Result<&Record, StoreError> {
        let before = self.places & ((1 << place) - 1);
        let at = if self.records.len() == 1 { 0 } else { before.count_ones() as usize };
        let record = self.records.get(at).filter(|_| self.places >> place & 1 == 1);
        record.ok_or_else(|| corrupt("a row of parked jobs lacks a record"))
    }
}

/// The bytes of records that share a row, in this format: of each its place, below 64, in ascending order.
pub fn encode_records<'r>(records: impl Iterator<Item = (u32, &'r Record)> + Clone, format: Format) -> Vec<u8> {
    let places = records.clone().fold(0, |places, (place, _)| places | 1 << place);
    let mut records = records.map(|(_, record)| record);
    let first = records.next();
    let others = if records.clone().all(|record| Some(record) == first) { None } else { Some(records) };
    let records = first.into_iter().chain(others.into_iter().flatten()).map(RecordMessage::from).collect();
    seal(&RecordsMessage { places, records }, format)
}

/// Reads records that share a row.
pub fn decode_records(bytes: &[u8]) -> Result<Records, StoreError> {
    let RecordsMessage { places, records } = open(bytes, HIGHEST)?.1;
    let records = records.into_iter().map(Record::try_from).collect::<Result<Vec<_>, _>>()?;
    let enough = records.len() == 1 || records.len() == places.count_ones() as usize;
    if enough { Ok(Records { places, records }) } else { Err(corrupt("a row of parked jobs of another length")) }
}

/// The bytes of what few jobs ask for, in this format; `None`: nothing. The locks are not among it: they are text in the
/// job's row.
pub fn encode_options(spec: &JobSpec, format: Format) -> Option<Vec<u8>> {
    options(spec).map(|rare| seal(&RareMessage::from(&rare), format))
}

/// What few jobs ask for, without the locks; `None`: nothing.
pub(super) fn options(spec: &JobSpec) -> Option<Rare> {
    let rare = Rare {
        lock: None,
        strict: spec.strict,
        queueing_lock: None,
        deadline: spec.deadline,
        attempt_timeout: spec.attempt_timeout,
        retry: spec.retry.clone(),
    };
    (rare != Rare::default()).then_some(rare)
}

/// Reads what few jobs ask for.
pub fn decode_options(bytes: &[u8]) -> Result<Rare, StoreError> {
    open::<RareMessage>(bytes, HIGHEST)?.1.try_into()
}

impl RecordMessage {
    /// A record of a job that may run.
    pub(super) fn with_run(record: &Record, run: Option<Run>) -> Self {
        Self { run: run.map(RunMessage::from), ..Self::from(record) }
    }

    /// The open delivery, if the job runs.
    pub(super) fn run(&self) -> Option<Run> {
        self.run.map(Run::from)
    }
}

impl From<&Record> for RecordMessage {
    fn from(record: &Record) -> Self {
        Self {
            stream: Some(record.stream.into()),
            waiting: record.phase == Phase::Waiting,
            run: None,
            due: record.due.0,
            attempts: record.attempts,
            deliveries: record.deliveries,
            crashes: u32::from(record.crashes),
            args_bytes: record.args_bytes,
            rare: record.rare.as_deref().map(RareMessage::from),
        }
    }
}

impl TryFrom<RecordMessage> for Record {
    type Error = StoreError;

    fn try_from(message: RecordMessage) -> Result<Self, StoreError> {
        Ok(Self {
            stream: message.stream.unwrap_or_default().try_into()?,
            phase: match (message.run, message.waiting) {
                (Some(_), _) => Phase::Running,
                (None, true) => Phase::Waiting,
                (None, false) => Phase::Scheduled,
            },
            due: Timestamp(message.due),
            attempts: message.attempts,
            deliveries: message.deliveries,
            crashes: u16::try_from(message.crashes).map_err(|_| corrupt("a count of crashes out of range"))?,
            args_bytes: message.args_bytes,
            rare: message.rare.map(Rare::try_from).transpose()?.map(Box::new),
        })
    }
}

impl From<Run> for RunMessage {
    fn from(run: Run) -> Self {
        Self {
            session: run.session.0,
            nonce: run.nonce,
            started: run.started.0,
            cancel_requested: run.cancel_requested,
        }
    }
}

impl From<RunMessage> for Run {
    fn from(message: RunMessage) -> Self {
        Self {
            session: SessionNo(message.session),
            nonce: message.nonce,
            started: Timestamp(message.started),
            cancel_requested: message.cancel_requested,
        }
    }
}

impl From<&Rare> for RareMessage {
    fn from(rare: &Rare) -> Self {
        Self {
            lock: rare.lock.map(|lock| lock.0.as_bytes().to_vec()),
            strict: rare.strict,
            queueing_lock: rare.queueing_lock.as_deref().map(str::to_owned),
            deadline: rare.deadline.map(|deadline| deadline.0),
            attempt_timeout: rare.attempt_timeout.map(Into::into),
            retry: rare.retry.as_deref().map(RetryMessage::from),
        }
    }
}

impl TryFrom<RareMessage> for Rare {
    type Error = StoreError;

    fn try_from(message: RareMessage) -> Result<Self, StoreError> {
        Ok(Self {
            lock: message.lock.map(|lock| uuid(&lock).map(LockId)).transpose()?,
            strict: message.strict,
            queueing_lock: message.queueing_lock.map(Arc::from),
            deadline: message.deadline.map(Timestamp),
            attempt_timeout: message.attempt_timeout.map(Into::into),
            retry: message.retry.map(|retry| Arc::new(retry.into())),
        })
    }
}

impl From<&RetryPolicy> for RetryMessage {
    fn from(retry: &RetryPolicy) -> Self {
        Self {
            max_attempts: retry.max_attempts,
            wait: Some(retry.wait.into()),
            linear_wait: Some(retry.linear_wait.into()),
            exponential_wait: Some(retry.exponential_wait.into()),
            exponential_factor: retry.exponential_factor,
            max_wait: Some(retry.max_wait.into()),
            jitter: retry.jitter,
            only_kinds: retry.only_kinds.clone(),
            never_kinds: retry.never_kinds.clone(),
        }
    }
}

impl From<RetryMessage> for RetryPolicy {
    fn from(message: RetryMessage) -> Self {
        Self {
            max_attempts: message.max_attempts,
            wait: message.wait.unwrap_or_default().into(),
            linear_wait: message.linear_wait.unwrap_or_default().into(),
            exponential_wait: message.exponential_wait.unwrap_or_default().into(),
            exponential_factor: message.exponential_factor,
            max_wait: message.max_wait.unwrap_or_default().into(),
            jitter: message.jitter,
            only_kinds: message.only_kinds,
            never_kinds: message.never_kinds,
        }
    }
}
