//! The task that reads a worker's stream. It waits for the owner, and for nobody else.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use cabbage_proto::v1::{self, work_request::Frame};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::{
    cell::{Cell, LINK_MESSAGES_MAX, LinkMessage, Owned},
    core::{
        effect::LinkId,
        event::{Event, Settle, SettleFrom},
    },
    grpc::{
        check,
        hello::{self, Introduced},
        results::Results,
        status::{Reason, to_message, unreadable},
    },
};

use super::{
    Ledger, StreamSettings,
    deliveries::Deliveries,
    writer::{Ended, FRAMES_MAX, Out, RESULTS_MAX, StreamWriter},
};

/// How long a worker may take to introduce itself.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Results of one event; a frame with more becomes several.
const EVENT_RESULTS_MAX: usize = 1_000;

/// The owner is told at least this often that something was heard; with a short beat, twice in each.
const HEARD: Duration = Duration::from_secs(1);

/// Beats and the end, from the reader to the writer. A beat that finds no room is not answered.
const LOCAL_MESSAGES_MAX: usize = 64;

/// What a worker's call answers.
pub(in crate::grpc) type Responses = ReceiverStream<Result<v1::WorkResponse, Status>>;

/// Serves the stream of a worker. The answer is there at once, before anything was read.
pub(in crate::grpc) fn open(
    cell: &Cell,
    owned: Owned,
    settings: StreamSettings,
    incoming: Streaming<v1::WorkRequest>,
) -> Responses {
    let (out, responses) = mpsc::channel(FRAMES_MAX);
    let cell = cell.clone();
    tokio::spawn(async move {
        let metrics = settings.metrics.clone();
        metrics.stream_opened();
        let reason = serve(cell, owned, settings, incoming, out).await;
        metrics.stream_ended(reason);
    });
    ReceiverStream::new(responses)
}

/// Serves to the end; gives the reason of it, as a word.
async fn serve(
    cell: Cell,
    owned: Owned,
    settings: StreamSettings,
    mut incoming: Streaming<v1::WorkRequest>,
    out: Out,
) -> &'static str {
    let link = cell.new_link();
    let first = tokio::select! {
        first = timeout(HELLO_TIMEOUT, incoming.message()) => first,
        () = owned.over.cancelled() => return refuse(&owned, &out, Reason::NotOwner.status("the term ended")).await,
        () = out.closed() => return "gone",
    };
    let introduced = match first {
        Err(_) => Err(Reason::HelloTimeout.status("no `Hello` came within 10 s; send it first")),
        Ok(Err(status)) => Err(unreadable(&status)),
        Ok(Ok(None)) => return "gone",
        Ok(Ok(Some(v1::WorkRequest { frame: Some(Frame::Hello(hello)), .. }))) => hello::introduced(link, hello),
        Ok(Ok(Some(_))) => Err(Reason::HelloExpected.status("the first frame of a stream must be `Hello`")),
    };
    let Introduced { hello, receive_bytes_max, worker_name, sdk } = match introduced {
        Ok(introduced) => introduced,
        Err(status) => return refuse(&owned, &out, status).await,
    };
    tracing::info!(link = link.0, worker_name, sdk, resumes = hello.resume.is_some(), "a worker connects");
    let ledger = Arc::new(Ledger::default());
    let (to_writer, outbox) = mpsc::channel(LINK_MESSAGES_MAX);
    let (local_sender, local) = mpsc::channel(LOCAL_MESSAGES_MAX);
    let gone = CancellationToken::new();
    let writer = StreamWriter {
        out,
        outbox,
        local,
        gone: gone.clone(),
        owned: owned.clone(),
        store: Arc::clone(cell.store()),
        ledger: Arc::clone(&ledger),
        deliveries: Deliveries::new(Arc::clone(&owned.names), receive_bytes_max),
        settings: settings.clone(),
        control: VecDeque::new(),
        waiting: VecDeque::new(),
        ready: 0,
        held_bytes: 0,
        after_jobs: VecDeque::new(),
        welcomed: false,
    };
    let mut writer = tokio::spawn(writer.run());
    // Refused only if the term has ended, which the writer learns too.
    let _ = owned.open(Box::new(hello), to_writer).await;
    let reader =
        Reader { link, owned: owned.clone(), ledger, local: local_sender, settings, results_seq: 0, heard: None };
    let ended = tokio::select! {
        ended = &mut writer => ended,
        end = reader.run(incoming) => {
            match end {
                ReaderEnd::Gone => gone.cancel(),
                ReaderEnd::Told(local, status) => {
                    // The writer may have ended by itself.
                    let _ = local.send(LinkMessage::End(Box::new(status))).await;
                }
            }
            writer.await
        }
    };
    let ended = ended.unwrap_or_else(|error| {
        tracing::error!(%error, "the writer of a stream ended by a panic: this is a bug");
        Ended::Gone
    });
    // Refused only if the term has ended.
    let _ = owned.ended(link, !matches!(ended, Ended::NotReading)).await;
    let reason = match &ended {
        Ended::Gone => "gone",
        Ended::NotReading => "not_reading",
        Ended::Told(None) => "planned",
        Ended::Told(Some(status)) if status.code() == Code::Ok => "planned",
        Ended::Told(Some(_)) => "refused",
    };
    tracing::info!(link = link.0, worker_name, reason, "a worker's stream ended");
    reason
}

/// Ends a stream that has no writer yet.
async fn refuse(owned: &Owned, out: &Out, status: Status) -> &'static str {
    let goodbye = v1::work_response::Frame::Goodbye(v1::Goodbye { status: Some(to_message(&status)) });
    let frame = v1::WorkResponse { term: owned.term.number, nonce: owned.term.nonce, frame: Some(goodbye) };
    // The worker may be gone.
    if out.send(Ok(frame)).await.is_ok() {
        let _ = out.send(Err(status)).await;
    }
    "refused"
}

/// Why the reader ended.
enum ReaderEnd {
    /// The transport is gone.
    Gone,
    /// The worker is to be told; through this way.
    Told(mpsc::Sender<LinkMessage>, Status),
}

struct Reader {
    link: LinkId,
    owned: Owned,
    ledger: Arc<Ledger>,
    local: mpsc::Sender<LinkMessage>,
    settings: StreamSettings,
    /// The number of the last frame of results.
    results_seq: u64,
    /// What the owner was last told of: when, and how many deliveries were received.
    heard: Option<(Instant, u64)>,
}

impl Reader {
    async fn run(mut self, mut incoming: Streaming<v1::WorkRequest>) -> ReaderEnd {
        loop {
            self.ledger.room(RESULTS_MAX as usize).await;
            let request = match incoming.message().await {
                Ok(Some(request)) => request,
                // The worker is done, and says so.
                Ok(None) => return ReaderEnd::Told(self.local, Status::ok("the worker closed its side")),
                Err(status) => match status.code() {
                    Code::OutOfRange | Code::ResourceExhausted | Code::Internal | Code::InvalidArgument => {
                        return ReaderEnd::Told(self.local, unreadable(&status));
                    }
                    _ => return ReaderEnd::Gone,
                },
            };
            match self.read(request).await {
                Ok(()) => {}
                Err(status) => return ReaderEnd::Told(self.local, status),
            }
        }
    }

    async fn read(&mut self, request: v1::WorkRequest) -> Result<(), Status> {
        let v1::WorkRequest { received_seq, frame } = request;
        let link = self.link;
        let mut events = Vec::with_capacity(2);
        let received = self.ledger.received(received_seq);
        let often = HEARD.min(self.settings.beat / 2);
        if self.heard.is_none_or(|(at, before)| before != received || at.elapsed() >= often) {
            self.heard = Some((Instant::now(), received));
            events.push(Event::Heard { link, received });
        }
        match frame {
            Some(Frame::Results(frame)) => {
                if frame.results_seq != self.results_seq + 1 {
                    let text =
                        format!("results frame {} follows {}; count from 1", frame.results_seq, self.results_seq);
                    return Err(Reason::FrameOutOfOrder.status(text));
                }
                check::count("results", frame.succeeded.len() + frame.results.len(), RESULTS_MAX as usize)?;
                self.results_seq = frame.results_seq;
                return self.settle(events, frame).await;
            }
            Some(Frame::Capacity(capacity)) => {
                events.push(Event::Capacity { link, capacity: hello::capacity(capacity)? });
            }
            Some(Frame::Beat(beat)) => {
                // No room: the worker does not read, and the writer will find out.
                let _ = self.local.try_send(LinkMessage::Beat(beat.number));
            }
            Some(Frame::Drain(_)) => events.push(Event::Drain { link }),
            Some(Frame::Hello(_)) => {
                return Err(Reason::HelloTwice.status("`Hello` came twice; it is the first frame only"));
            }
            // `Welcome` names no capability for progress, so that nobody relies on it; like what is not known at all.
            Some(Frame::Progress(_)) | None => self.settings.metrics.unknown_frame(),
        }
        if events.is_empty() {
            return Ok(());
        }
        Ok(self.owned.frame(events).await?)
    }

    async fn settle(&mut self, mut events: Vec<Event>, frame: v1::JobResults) -> Result<(), Status> {
        let (link, seq) = (self.link, frame.results_seq);
        let Results { mut ends, invalid_tokens } = Results::of_frame(frame);
        self.ledger.results(seq, ends.len(), invalid_tokens);
        while ends.len() > EVENT_RESULTS_MAX {
            let rest = ends.split_off(EVENT_RESULTS_MAX);
            let part = std::mem::replace(&mut ends, rest);
            events.push(Event::Settle(Settle { from: SettleFrom::Link(link, None), results: part }));
            self.owned.frame(std::mem::take(&mut events)).await?;
        }
        events.push(Event::Settle(Settle { from: SettleFrom::Link(link, Some(seq)), results: ends }));
        Ok(self.owned.frame(events).await?)
    }
}
