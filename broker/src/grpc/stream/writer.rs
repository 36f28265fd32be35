//! The task that writes to a worker's stream: the only one that does.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use cabbage_proto::v1::{self, work_response::Frame};
use futures::future::{Either, pending};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::{
    cell::{Handout, LinkMessage, Owned},
    core::{
        effect::{CancelReason, SettleCode},
        types::Lease,
    },
    grpc::{
        MESSAGE_BYTES_MAX,
        check::RESULT_BYTES_MAX,
        hello::PROTOCOL,
        show::duration,
        status::{Reason, refusal, to_message},
    },
    store::{Store, StoreError},
};

use super::{
    Ledger, Out, StreamSettings,
    deliveries::{Deliveries, Specs, read_specs},
};

/// Results that may be unacknowledged before the broker stops reading: more than two commits at full speed hold.
pub(super) const RESULTS_MAX: u32 = 20_000;

/// Bytes of arguments that a stream keeps while its worker does not read. What is beyond is read from the store when its
/// turn comes.
const ARGUMENTS_BYTES_MAX: usize = 16 << 20;

/// Bytes of arguments that are read at once, about; one job's at least.
const READ_BYTES_MAX: usize = 4 << 20;

/// How long the last frames of a stream may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads of arguments are tried again after this long.
const READ_AGAIN: Duration = Duration::from_millis(500);

/// Streams of a broker that stops are told to reconnect within this time of each other.
const DRAIN_SPREAD: Duration = Duration::from_millis(500);

/// How a stream ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The transport is gone.
    Gone,
    /// The worker does not read.
    NotReading,
    /// The worker was told why. `None`: it went by itself, as planned.
    Told(Option<Box<Status>>),
    /// The term is over, and the worker knows nothing of it yet.
    TermOver {
        /// Whether it had been welcomed.
        welcomed: bool,
    },
}

impl Ended {
    /// The end as a word, for the log and the metrics.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::NotReading => "not_reading",
            Self::Told(None) => "planned",
            Self::Told(Some(status)) if status.code() == Code::Ok => "planned",
            Self::Told(Some(_)) => "refused",
            Self::TermOver { .. } => "term_over",
        }
    }
}

/// What tells a worker that its broker goes away.
pub(crate) fn broker_drain(settings: &StreamSettings) -> v1::BrokerDrain {
    v1::BrokerDrain {
        reason: v1::DrainReason::Shutdown.into(),
        start_after: Some(duration(DRAIN_SPREAD.mul_f64(rand::random()))),
        deadline: Some(duration(settings.drain)),
    }
}

/// Writes to one stream.
pub(super) struct StreamWriter {
    pub(super) out: Out,
    /// From the owner. Ends when the owner cuts the stream.
    pub(super) outbox: mpsc::Receiver<LinkMessage>,
    /// From the reader.
    pub(super) local: mpsc::Receiver<LinkMessage>,
    /// Cancelled when the reader finds the transport gone.
    pub(super) gone: CancellationToken,
    pub(super) owned: Owned,
    pub(super) store: Arc<dyn Store>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) settings: StreamSettings,
    pub(super) deliveries: Deliveries,
    /// Frames that go ahead of jobs.
    pub(super) control: VecDeque<Frame>,
    /// Jobs that were not sent yet, in order.
    pub(super) waiting: VecDeque<Handout>,
    /// How many of the first of them have their specs.
    pub(super) ready: usize,
    /// Bytes of the arguments of all that have their specs.
    pub(super) held_bytes: usize,
    /// The end of the jobs, once they are all sent.
    pub(super) after_jobs: VecDeque<AfterJobs>,
    /// `Welcome` goes before everything else.
    pub(super) welcomed: bool,
}

/// What must not pass the jobs before it.
#[derive(Clone, Copy, Debug)]
pub(super) enum AfterJobs {
    DrainAck,
    CaughtUp,
}

impl StreamWriter {
    /// Runs until the stream ends.
    pub(super) async fn run(mut self) -> Ended {
        let ended = self.serve().await;
        match &ended {
            Ended::Gone => {}
            Ended::NotReading => {
                let status = Reason::NotReading.status("the worker does not read its stream");
                self.farewell(Some(&status)).await;
            }
            Ended::Told(status) => self.farewell(status.as_deref()).await,
            Ended::TermOver { .. } => self.farewell(None).await,
        }
        ended
    }

    async fn serve(&mut self) -> Ended {
        let mut last_sent = Instant::now();
        let mut blocked_since: Option<Instant> = None;
        let mut told_drain = false;
        let mut reading: Option<JoinHandle<Result<Specs, StoreError>>> = None;
        let (draining, gone, over) = (self.settings.draining.clone(), self.gone.clone(), self.owned.over.clone());
        let out = self.out.clone();
        loop {
            if reading.is_none() {
                reading = self.read_missing();
            }
            let sends = self.welcomed && (!self.control.is_empty() || self.ready > 0 || self.ends_jobs());
            let since = *blocked_since.get_or_insert_with(Instant::now);
            let wake = if sends { since + self.settings.send_timeout } else { last_sent + self.settings.beat };
            if !sends {
                blocked_since = None;
            }
            let read = match &mut reading {
                Some(reading) => Either::Left(reading),
                None => Either::Right(pending()),
            };
            tokio::select! {
                biased;
                () = gone.cancelled() => return Ended::Gone,
                () = out.closed() => return Ended::Gone,
                Some(message) = self.local.recv() => if let Some(ended) = self.take(message) {
                    return ended;
                },
                message = self.outbox.recv() => match message {
                    Some(message) => if let Some(ended) = self.take(message) {
                        return ended;
                    },
                    None if self.owned.over.is_cancelled() => return Ended::TermOver { welcomed: self.welcomed },
                    None => return Ended::NotReading,
                },
                () = over.cancelled() => return Ended::TermOver { welcomed: self.welcomed },
                () = draining.cancelled(), if !told_drain => {
                    told_drain = true;
                    self.control.push_back(Frame::BrokerDrain(broker_drain(&self.settings)));
                }
                specs = read => {
                    reading = None;
                    if let Err(ended) = self.join(specs) {
                        return ended;
                    }
                }
                permit = out.reserve(), if sends => {
                    let Ok(permit) = permit else { return Ended::Gone };
                    let (term, frame) = (self.owned.term, next_frame(
                        &mut self.control,
                        &mut self.waiting,
                        (&mut self.ready, &mut self.held_bytes),
                        &mut self.after_jobs,
                        &mut self.deliveries,
                        &self.ledger,
                    ));
                    permit.send(Box::new(Ok(v1::WorkResponse { term: term.number, nonce: term.nonce, frame })));
                    last_sent = Instant::now();
                    blocked_since = None;
                }
                () = sleep_until(wake) => {
                    if sends {
                        return Ended::NotReading;
                    }
                    if self.welcomed {
                        self.control.push_back(Frame::BeatAck(v1::BeatAck { number: 0 }));
                    }
                    last_sent = Instant::now();
                }
            }
        }
    }

    /// Takes a message in; gives the end of the stream if that is what it says.
    fn take(&mut self, message: LinkMessage) -> Option<Ended> {
        match message {
            LinkMessage::Jobs(mut handouts) => {
                for handout in &mut handouts {
                    let bytes = held_bytes(handout);
                    if self.held_bytes + bytes > ARGUMENTS_BYTES_MAX {
                        handout.spec = None;
                    } else {
                        self.held_bytes += bytes;
                    }
                }
                if self.ready == self.waiting.len() {
                    self.ready += handouts.iter().take_while(|handout| handout.spec.is_some()).count();
                }
                self.waiting.extend(handouts);
            }
            LinkMessage::SettleAck { through, exceptions, retried } => {
                let mut results: Vec<_> = exceptions.into_iter().map(settle_result).collect();
                if let Some(through) = through {
                    results.extend(self.ledger.recorded(through).into_iter().map(invalid_token));
                }
                self.control.push_back(Frame::SettleAck(v1::SettleAck {
                    recorded_through: through.unwrap_or(0),
                    exceptions: results,
                    retried: retried.iter().map(|lease| Bytes::copy_from_slice(&lease.token())).collect(),
                }));
            }
            LinkMessage::Cancel { lease, reason } => self.control.push_back(Frame::CancelJob(v1::CancelJob {
                lease_token: Bytes::copy_from_slice(&lease.token()),
                reason: cancel_reason(reason).into(),
            })),
            // One answer to all beats that wait for theirs, so that a worker that does not read them fills nothing.
            LinkMessage::Beat(number) => match self.control.back_mut() {
                Some(Frame::BeatAck(ack)) => ack.number = number,
                _ => self.control.push_back(Frame::BeatAck(v1::BeatAck { number })),
            },
            LinkMessage::DrainAck => self.after_jobs.push_back(AfterJobs::DrainAck),
            LinkMessage::CaughtUp => self.after_jobs.push_back(AfterJobs::CaughtUp),
            LinkMessage::Welcome { session, secret, resumed, lost } => {
                let welcome = self.welcome(session, secret, resumed, &lost);
                self.control.push_front(Frame::Welcome(welcome));
                self.welcomed = true;
            }
            LinkMessage::Refused(refused) => return Some(Ended::Told(Some(Box::new(refusal(&refused))))),
            LinkMessage::End(status) if status.code() == Code::Ok => return Some(Ended::Told(None)),
            LinkMessage::End(status) => return Some(Ended::Told(Some(status))),
        }
        None
    }

    fn welcome(&self, session: Uuid, secret: Uuid, resumed: bool, lost: &[Lease]) -> v1::Welcome {
        let limits = &self.settings.limits;
        v1::Welcome {
            protocol: PROTOCOL,
            capabilities: vec!["caught-up".into()],
            session_id: session.to_string(),
            resume_token: Bytes::copy_from_slice(secret.as_bytes()),
            resumed,
            lost_lease_tokens: lost.iter().map(|lease| Bytes::copy_from_slice(&lease.token())).collect(),
            broker_version: env!("CARGO_PKG_VERSION").into(),
            beat: Some(duration(self.settings.beat)),
            watchdog: Some(duration(limits.watchdog)),
            grace: Some(duration(limits.grace)),
            session: Some(duration(limits.session)),
            max_receive_bytes: MESSAGE_BYTES_MAX as u32,
            max_result_bytes: RESULT_BYTES_MAX as u32,
            max_unacknowledged_results: RESULTS_MAX,
        }
    }

    /// Whether all jobs are sent, and something is to follow them.
    fn ends_jobs(&self) -> bool {
        self.waiting.is_empty() && !self.after_jobs.is_empty()
    }

    /// Starts to read the specs that the cache did not have, if the first job that waits is one of those.
    fn read_missing(&self) -> Option<JoinHandle<Result<Specs, StoreError>>> {
        if self.ready > 0 || self.waiting.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let missing: Vec<_> = self
            .waiting
            .iter()
            .filter(|handout| handout.spec.is_none())
            .take_while(|handout| {
                let goes_on = bytes < READ_BYTES_MAX;
                bytes += handout.delivery.record.args_bytes as usize;
                goes_on
            })
            .map(|handout| (handout.delivery.lease.job, handout.delivery.record.lock()))
            .collect();
        self.settings.metrics.arguments_read(missing.len());
        let store = Arc::clone(&self.store);
        Some(tokio::spawn(async move {
            loop {
                match read_specs(Arc::clone(&store), missing.clone()).await {
                    Err(error @ StoreError::Unavailable(_)) => {
                        tracing::warn!(%error, "arguments cannot be read; it is tried again");
                        tokio::time::sleep(READ_AGAIN).await;
                    }
                    read => return read,
                }
            }
        }))
    }

    fn join(&mut self, specs: Result<Result<Specs, StoreError>, tokio::task::JoinError>) -> Result<(), Ended> {
        let specs = match specs {
            Ok(Ok(specs)) => specs,
            Ok(Err(error)) => return Err(Ended::Told(Some(Box::new(error.into())))),
            Err(error) => {
                let status = Reason::Internal.status(format!("a bug in the broker: {error}"));
                return Err(Ended::Told(Some(Box::new(status))));
            }
        };
        for handout in &mut self.waiting {
            if handout.spec.is_none() {
                handout.spec = specs.get(handout.delivery.lease.job).cloned();
                self.held_bytes += held_bytes(handout);
            }
        }
        self.ready = self.waiting.iter().take_while(|handout| handout.spec.is_some()).count();
        if self.ready == 0 {
            let job = self.waiting.front().map(|handout| handout.delivery.lease.job.0);
            tracing::error!(job, "a job that was started has no row");
            let status = Reason::StorageCorrupt.status("a job that was started has no row");
            return Err(Ended::Told(Some(Box::new(status))));
        }
        Ok(())
    }

    /// What is still to be said: acknowledgements, and why the stream ends.
    async fn farewell(&mut self, status: Option<&Status>) {
        while let Ok(message) = self.outbox.try_recv() {
            // An end is on its way already.
            let _ = self.take(message);
        }
        let mut frames = if self.welcomed { std::mem::take(&mut self.control) } else { VecDeque::new() };
        if let Some(status) = status {
            frames.push_back(Frame::Goodbye(v1::Goodbye { status: Some(to_message(status)) }));
        }
        let term = self.owned.term;
        let sent = timeout(FAREWELL_TIMEOUT, async {
            for frame in frames {
                let frame = v1::WorkResponse { term: term.number, nonce: term.nonce, frame: Some(frame) };
                self.out.send(Box::new(Ok(frame))).await?;
            }
            if let Some(status) = status.filter(|status| status.code() != Code::Ok) {
                self.out.send(Box::new(Err(status.clone()))).await?;
            }
            Ok::<_, mpsc::error::SendError<_>>(())
        });
        // Whoever does not listen hears no farewell.
        let _ = sent.await;
    }
}

/// Control first, then jobs, then what follows the last of them.
fn next_frame(
    control: &mut VecDeque<Frame>,
    waiting: &mut VecDeque<Handout>,
    (ready, held): (&mut usize, &mut usize),
    after_jobs: &mut VecDeque<AfterJobs>,
    deliveries: &mut Deliveries,
    ledger: &Ledger,
) -> Option<Frame> {
    if let Some(frame) = control.pop_front() {
        return Some(frame);
    }
    if *ready > 0 {
        let before = waiting.len();
        let frame = deliveries.frame(waiting, *ready);
        *ready -= before - waiting.len();
        *held -= frame.arguments_bytes;
        ledger.sent(frame.jobs.seq, frame.deliveries);
        return Some(Frame::Jobs(frame.jobs));
    }
    let last_seq = deliveries.last_seq();
    Some(match after_jobs.pop_front()? {
        AfterJobs::DrainAck => Frame::DrainAck(v1::DrainAck { last_seq }),
        AfterJobs::CaughtUp => Frame::CaughtUp(v1::CaughtUp { last_seq }),
    })
}

/// What a handout that has its spec keeps in memory.
fn held_bytes(handout: &Handout) -> usize {
    handout.spec.as_ref().map_or(0, |spec| spec.args.len())
}

fn settle_result((lease, code): (Lease, SettleCode)) -> v1::SettleResult {
    v1::SettleResult {
        lease_token: Bytes::copy_from_slice(&lease.token()),
        code: settle_code(code).into(),
        detail: None,
    }
}

/// The answer to a token that is none.
pub(in crate::grpc) fn invalid_token(lease_token: Bytes) -> v1::SettleResult {
    v1::SettleResult { lease_token, code: v1::SettleCode::InvalidToken.into(), detail: None }
}

/// What became of a result, on the wire.
pub(in crate::grpc) fn settle_code(code: SettleCode) -> v1::SettleCode {
    match code {
        SettleCode::Recorded => v1::SettleCode::Recorded,
        SettleCode::AlreadyRecorded => v1::SettleCode::AlreadyRecorded,
        SettleCode::VerdictConflict => v1::SettleCode::VerdictConflict,
        SettleCode::LeaseLost => v1::SettleCode::LeaseLost,
        SettleCode::NotFound => v1::SettleCode::NotFound,
        SettleCode::Unrecordable => v1::SettleCode::Unrecordable,
    }
}

fn cancel_reason(reason: CancelReason) -> v1::CancelReason {
    match reason {
        CancelReason::Requested => v1::CancelReason::Requested,
        CancelReason::Timeout => v1::CancelReason::Timeout,
        CancelReason::LeaseLost => v1::CancelReason::LeaseLost,
    }
}
