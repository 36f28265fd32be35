//! Schedules, and what is remembered of their ticks: in facts, in checkpoints, and in their rows.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    HIGHEST, corrupt, open,
    record::{RareMessage, options},
    seal,
};
use crate::{
    core::{
        cron::Cron,
        job::{DueAt, JobSpec, Rare},
        schedule::{MissedTicks, Schedule, ScheduleRecord, TickOutcome},
        types::{Format, JobId, Timestamp},
    },
    store::StoreError,
};

/// A schedule. In a fact it says nothing of ticks.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ScheduleMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    cron: String,
    #[prost(string, tag = "3")]
    zone: String,
    #[prost(uint32, tag = "4")]
    missed: u32,
    #[prost(message, optional, tag = "5")]
    job: Option<JobMessage>,
    #[prost(bool, tag = "6")]
    paused: bool,
    #[prost(sint64, tag = "7")]
    decided: i64,
    #[prost(message, optional, tag = "8")]
    last: Option<TickMessage>,
    #[prost(message, optional, tag = "9")]
    deferred: Option<TickMessage>,
}

/// What to defer.
#[derive(Clone, PartialEq, prost::Message)]
struct JobMessage {
    #[prost(string, tag = "1")]
    task: String,
    #[prost(string, tag = "2")]
    queue: String,
    #[prost(bytes = "bytes", tag = "3")]
    args: bytes::Bytes,
    #[prost(sint32, tag = "4")]
    priority: i32,
    #[prost(string, optional, tag = "5")]
    lock: Option<String>,
    #[prost(string, optional, tag = "6")]
    queueing_lock: Option<String>,
    #[prost(message, optional, tag = "7")]
    options: Option<RareMessage>,
    #[prost(btree_map = "string, string", tag = "8")]
    metadata: BTreeMap<String, String>,
    #[prost(string, optional, tag = "9")]
    traceparent: Option<String>,
    #[prost(string, optional, tag = "10")]
    tracestate: Option<String>,
}

/// A tick, and what came of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TickMessage {
    /// The schedule's name; left out where that is known.
    #[prost(string, tag = "1")]
    name: String,
    #[prost(sint64, tag = "2")]
    tick: i64,
    #[prost(uint32, tag = "3")]
    outcome: u32,
    /// The job that was deferred, or that carries the queueing lock.
    #[prost(sint64, tag = "4")]
    job: i64,
}

const DEFERRED: u32 = 1;
const MISSED: u32 = 2;
const QUEUEING_LOCK_TAKEN: u32 = 3;
const LIMIT_REACHED: u32 = 4;

/// The bytes of a schedule's row, in this format.
pub fn encode_schedule(record: &ScheduleRecord, format: Format) -> Vec<u8> {
    seal(&ScheduleMessage::of_record(record), format)
}

/// Reads a schedule's row.
pub fn decode_schedule(bytes: &[u8]) -> Result<ScheduleRecord, StoreError> {
    open::<ScheduleMessage>(bytes, HIGHEST)?.1.record()
}

impl ScheduleMessage {
    /// A schedule without anything of its ticks.
    pub(super) fn of(schedule: &Schedule, paused: bool, decided: Timestamp) -> Self {
        let job = &schedule.job;
        Self {
            name: schedule.name.as_ref().to_owned(),
            cron: schedule.cron.text().as_ref().to_owned(),
            zone: schedule.cron.zone().name().to_owned(),
            missed: schedule.missed as u32,
            job: Some(JobMessage {
                task: job.task.as_ref().to_owned(),
                queue: job.queue.as_ref().to_owned(),
                args: job.args.clone(),
                priority: i32::from(job.priority),
                lock: job.lock.as_deref().map(str::to_owned),
                queueing_lock: job.queueing_lock.as_deref().map(str::to_owned),
                options: options(job).map(|rare| RareMessage::from(&rare)),
                metadata: job.metadata.iter().cloned().collect(),
                traceparent: job.traceparent.as_deref().map(str::to_owned),
                tracestate: job.tracestate.as_deref().map(str::to_owned),
            }),
            paused,
            decided: decided.0,
            last: None,
            deferred: None,
        }
    }

    /// All that is remembered of a schedule.
    pub(super) fn of_record(record: &ScheduleRecord) -> Self {
        Self {
            last: record.last.map(|(tick, outcome)| TickMessage::of("", tick, outcome)),
            deferred: record.deferred.map(|(tick, job)| TickMessage::of("", tick, TickOutcome::Deferred(job))),
            ..Self::of(&record.schedule, record.paused, record.decided)
        }
    }

    /// What is remembered of the schedule.
    pub(super) fn record(self) -> Result<ScheduleRecord, StoreError> {
        let zone = Cron::zone_of(&self.zone).map_err(|_| corrupt("a schedule in an unknown time zone"))?;
        let cron = Cron::parse(&self.cron, zone).map_err(|_| corrupt("a schedule with a malformed expression"))?;
        let missed = MissedTicks::from_number(self.missed).ok_or_else(|| corrupt("an unknown rule of missed ticks"))?;
        let job = self.job.ok_or_else(|| corrupt("a schedule without a job"))?.spec()?;
        let deferred = match self.deferred.map(TickMessage::parts).transpose()? {
            Some((_, tick, TickOutcome::Deferred(job))) => Some((tick, job)),
            Some(_) => return Err(corrupt("a tick that was deferred and was not")),
            None => None,
        };
        Ok(ScheduleRecord {
            schedule: Arc::new(Schedule { name: self.name.into(), cron, missed, job: Arc::new(job) }),
            paused: self.paused,
            decided: Timestamp(self.decided),
            last: self.last.map(TickMessage::parts).transpose()?.map(|(_, tick, outcome)| (tick, outcome)),
            deferred,
        })
    }
}

impl JobMessage {
    fn spec(self) -> Result<JobSpec, StoreError> {
        let rare = self.options.map(Rare::try_from).transpose()?.unwrap_or_default();
        Ok(JobSpec {
            task: self.task.into(),
            queue: self.queue.into(),
            args: self.args,
            priority: i8::try_from(self.priority).map_err(|_| corrupt("a priority out of range"))?,
            lock: self.lock.map(Arc::from),
            strict: rare.strict,
            queueing_lock: self.queueing_lock.map(Arc::from),
            due: DueAt::Once,
            deadline: rare.deadline,
            attempt_timeout: rare.attempt_timeout,
            retry: rare.retry,
            metadata: self.metadata.into_iter().collect(),
            traceparent: self.traceparent.map(Arc::from),
            tracestate: self.tracestate.map(Arc::from),
        })
    }
}

impl TickMessage {
    pub(super) fn of(name: &str, tick: Timestamp, outcome: TickOutcome) -> Self {
        let (outcome, job) = match outcome {
            TickOutcome::Deferred(job) => (DEFERRED, job.0),
            TickOutcome::Missed => (MISSED, 0),
            TickOutcome::QueueingLockTaken(by) => (QUEUEING_LOCK_TAKEN, by.0),
            TickOutcome::LimitReached => (LIMIT_REACHED, 0),
        };
        Self { name: name.to_owned(), tick: tick.0, outcome, job }
    }

    /// The schedule's name, the tick, and what came of it.
    pub(super) fn parts(self) -> Result<(Arc<str>, Timestamp, TickOutcome), StoreError> {
        let outcome = match self.outcome {
            DEFERRED => TickOutcome::Deferred(JobId(self.job)),
            MISSED => TickOutcome::Missed,
            QUEUEING_LOCK_TAKEN => TickOutcome::QueueingLockTaken(JobId(self.job)),
            LIMIT_REACHED => TickOutcome::LimitReached,
            _ => return Err(corrupt("an unknown outcome of a tick")),
        };
        Ok((self.name.into(), Timestamp(self.tick), outcome))
    }
}
