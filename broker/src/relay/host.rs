//! `RelayService`: the owner's end of links.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request as HttpRequest};
use bytes::Bytes;
use cabbage_proto::{
    relay::v1::{self, link_request, link_response, owner_part, relay_part, relay_service_server::RelayService},
    v1::WorkRequest,
};
use prost::Message as _;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};
use tower::ServiceExt as _;

use crate::{
    cell::{Cell, Owned},
    core::types::{Format, Timestamp},
    grpc::{Incoming, Responses, StreamSettings, open_relayed, status::Reason},
    store::format::{HIGHEST, LOWEST},
};

use super::{
    calls::{Relayed, answer},
    guests::{Guest, Guests, Seat},
    parts::{CALLS_MAX, PARTS_MAX, PROTOCOL, SILENCE, from_wire, next_parts},
    window::{Taken, Window},
    worker::ended,
};

/// How long a relay may take to introduce itself.
const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Frames that wait for the transport. Few, so that what waits longer makes a fuller frame.
const FRAMES_MAX: usize = 2;

/// How long after the end of a term calls that it took in are still answered.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// The calls of `RelayService`.
#[derive(Clone)]
pub struct RelayCalls {
    cell: Cell,
    /// Answers calls as the owner does.
    answers: Router,
    streams: StreamSettings,
    guests: Guests,
}

impl RelayCalls {
    /// Serves the brokers that follow this cell: calls by `answers`, streams of workers with these settings.
    pub fn new(cell: Cell, answers: Router, streams: StreamSettings, guests: Guests) -> Self {
        Self { cell, answers, streams, guests }
    }

    /// Checks who asks: a broker of this cell, and of this term.
    async fn check(&self, introduction: &v1::Introduction) -> Result<(Owned, Timestamp), Status> {
        if !(introduction.min_protocol..=introduction.max_protocol).contains(&PROTOCOL) {
            let text = format!(
                "this broker speaks protocol {PROTOCOL} to other brokers; {} speaks {} to {}",
                introduction.address, introduction.min_protocol, introduction.max_protocol
            );
            return Err(Reason::ProtocolUnsupported.status(text));
        }
        let owned = self.cell.owned()?;
        let owner = self.cell.store().owner().await?.filter(|owner| owner.term == owned.term);
        let Some(owner) = owner else { return Err(Reason::NotOwner.status("this broker's term has ended")) };
        if *introduction.key != *owner.key.0.as_bytes() {
            return Err(Reason::RelayRefused
                .status("the relay key is not that of this term; only brokers of this cell have links to its owner"));
        }
        Ok((owned, self.cell.store().ping().await?))
    }
}

#[tonic::async_trait]
impl RelayService for RelayCalls {
    type LinkStream = ReceiverStream<Result<v1::LinkResponse, Status>>;

    async fn link(&self, request: Request<Streaming<v1::LinkRequest>>) -> Result<Response<Self::LinkStream>, Status> {
        let mut incoming = request.into_inner();
        let first = timeout(INTRODUCTION_TIMEOUT, incoming.message()).await;
        let first = first.map_err(|_| Reason::HelloTimeout.status("no `Introduction` came; send it first"))??;
        let Some(v1::LinkRequest { frame: Some(link_request::Frame::Introduction(introduction)) }) = first else {
            return Err(Reason::HelloExpected.status("the first frame of a link must be `Introduction`"));
        };
        let (owned, since) = self.check(&introduction).await?;
        let guest = Guest {
            address: introduction.address.into(),
            version: introduction.version.into(),
            // One that says nothing knows nothing of formats that are raised.
            highest_format: u8::try_from(introduction.highest_format).map_or(HIGHEST, Format).max(LOWEST),
            since,
            log_number: 0,
            streams: 0,
            leaving: false,
        };
        tracing::info!(address = %guest.address, version = %guest.version, "a broker follows");
        let (frames, responses) = mpsc::channel(FRAMES_MAX);
        let acceptance = v1::Acceptance { protocol: PROTOCOL, term: owned.term.number, nonce: owned.term.nonce };
        // There is room for the first frame.
        let _ = frames.try_send(Ok(response(link_response::Frame::Acceptance(acceptance))));
        let (parts, waiting) = mpsc::channel(PARTS_MAX);
        tokio::spawn(write(frames.clone(), waiting));
        let (seat, prepare) = self.guests.arrive(guest);
        let host = Host {
            calls: self.clone(),
            owned,
            seat,
            frames,
            parts,
            running: HashMap::new(),
            tasks: JoinSet::new(),
            streams: HashMap::new(),
            pumps: JoinSet::new(),
        };
        tokio::spawn(host.serve(incoming, prepare));
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

fn response(frame: link_response::Frame) -> v1::LinkResponse {
    v1::LinkResponse { frame: Some(frame) }
}

/// Writes what waits, until nobody has anything more to say.
async fn write(frames: mpsc::Sender<Result<v1::LinkResponse, Status>>, mut parts: mpsc::Receiver<v1::OwnerPart>) {
    loop {
        let parts = next_parts(&mut parts).await;
        let frame = link_response::Frame::Parts(v1::OwnerParts { parts });
        if matches!(&frame, link_response::Frame::Parts(parts) if parts.parts.is_empty())
            || frames.send(Ok(response(frame))).await.is_err()
        {
            return;
        }
    }
}

/// The owner's end of one link.
struct Host {
    calls: RelayCalls,
    owned: Owned,
    seat: Seat,
    frames: mpsc::Sender<Result<v1::LinkResponse, Status>>,
    parts: mpsc::Sender<v1::OwnerPart>,
    running: HashMap<u64, AbortHandle>,
    /// Calls; each gives its number.
    tasks: JoinSet<u64>,
    streams: HashMap<u64, Guided>,
    /// What brings the frames of streams to the link.
    pumps: JoinSet<()>,
}

/// A worker's stream, as its link sees it.
struct Guided {
    /// Bounded by the window that the relay has.
    frames: mpsc::UnboundedSender<Arrival>,
    window: Arc<Window>,
    /// Ends the task that brings frames to the link.
    _pump: DropGuard,
}

/// What comes over a link for a stream.
#[derive(Debug)]
enum Arrival {
    Frame(Bytes),
    Closed,
    /// The link is dead, and nobody said that the worker is gone.
    Silent,
}

impl Host {
    async fn serve(mut self, mut incoming: Streaming<v1::LinkRequest>, mut prepare: mpsc::Receiver<()>) {
        let over = self.owned.over.clone();
        let mut ends_at: Option<Instant> = None;
        // Once a relay has closed its side, no call comes that is not known yet.
        let mut closed = false;
        let why = loop {
            // Streams of an ended term end by themselves, with their last acknowledgements.
            let streams_end = ends_at.is_some() && !self.pumps.is_empty();
            if closed && self.running.is_empty() && !streams_end {
                break if ends_at.is_some() { "the term ended" } else { "the relay left" };
            }
            tokio::select! {
                request = timeout(SILENCE, incoming.message()), if !closed => match request {
                    Err(_) => {
                        for stream in self.streams.values() {
                            // The stream may have ended by itself.
                            let _ = stream.frames.send(Arrival::Silent);
                        }
                        break "nothing came";
                    }
                    Ok(Ok(None)) => closed = true,
                    Ok(Err(_)) => break "the relay is gone",
                    Ok(Ok(Some(request))) => if self.take(request).await.is_err() {
                        break "the relay is gone";
                    },
                },
                Some(ended) = self.tasks.join_next() => {
                    if let Ok(number) = ended {
                        self.running.remove(&number);
                    }
                }
                Some(_) = self.pumps.join_next() => {}
                () = self.frames.closed() => break "the relay is gone",
                Some(()) = prepare.recv() => self.tell(v1::TermEnding { over: false, r#yield: self.seat.yields() }).await,
                () = over.cancelled(), if ends_at.is_none() => {
                    ends_at = Some(Instant::now() + LAST_ANSWERS);
                    self.tell(v1::TermEnding { over: true, r#yield: self.seat.yields() }).await;
                }
                () = sleep_until(ends_at.unwrap_or_else(Instant::now)), if ends_at.is_some() => break "the term ended",
            }
        };
        tracing::info!(why, streams = self.streams.len(), "a broker no longer follows");
    }

    async fn take(&mut self, request: v1::LinkRequest) -> Result<(), ()> {
        match request.frame {
            Some(link_request::Frame::Standing(standing)) => {
                self.seat.stands(&standing);
                let beat = response(link_response::Frame::Beat(v1::OwnerBeat {}));
                // One whose frames wait hears enough.
                let _ = self.frames.try_send(Ok(beat));
            }
            Some(link_request::Frame::Parts(parts)) => {
                for v1::RelayPart { number, part } in parts.parts {
                    if let Some(part) = part {
                        self.part(number, part).await?;
                    }
                }
            }
            Some(link_request::Frame::Introduction(_)) | None => {}
        }
        Ok(())
    }

    async fn part(&mut self, number: u64, part: relay_part::Part) -> Result<(), ()> {
        match part {
            relay_part::Part::Call(call) => self.call(number, call).await?,
            relay_part::Part::GivenUp(_) => {
                if let Some(running) = self.running.remove(&number) {
                    running.abort();
                }
            }
            relay_part::Part::Opened(opened) => self.open(number, &opened.address),
            relay_part::Part::Frame(frame) => {
                if let Some(stream) = self.streams.get(&number) {
                    let _ = stream.frames.send(Arrival::Frame(frame));
                }
            }
            relay_part::Part::Credit(bytes) => {
                if let Some(stream) = self.streams.get(&number) {
                    stream.window.credit(bytes);
                }
            }
            relay_part::Part::Closed(_) => {
                if let Some(stream) = self.streams.get(&number) {
                    let _ = stream.frames.send(Arrival::Closed);
                }
            }
            relay_part::Part::Lost(_) => {
                // Also of a stream that has ended by itself.
                self.streams.remove(&number);
            }
        }
        Ok(())
    }

    async fn call(&mut self, number: u64, call: v1::Call) -> Result<(), ()> {
        let v1::Call { path, headers, body, address } = call;
        let parts = self.parts.clone();
        let request = HttpRequest::post(path).body(Body::from(body));
        let Ok(mut request) = request else {
            let status = Reason::Internal.status("a relay passed on a call whose path is none");
            return send(&parts, number, answer(status.into_http()).await).await;
        };
        if self.running.len() >= CALLS_MAX {
            let limit = [("limit", "calls of one relay".to_owned()), ("value", CALLS_MAX.to_string())];
            let status = Reason::TooBusy.status_with("a relay has too many calls under way; try again", limit);
            return send(&parts, number, answer(status.into_http()).await).await;
        }
        *request.headers_mut() = from_wire(headers);
        request.extensions_mut().insert(Relayed { address });
        let router = self.calls.answers.clone();
        let task = self.tasks.spawn(async move {
            let Ok(response) = router.oneshot(request).await;
            // Refused only if the link has ended.
            let _ = send(&parts, number, answer(response).await).await;
            number
        });
        self.running.insert(number, task);
        Ok(())
    }

    fn open(&mut self, number: u64, address: &str) {
        let (frames, arrivals) = mpsc::unbounded_channel();
        let window = Arc::new(Window::default());
        let gone = CancellationToken::new();
        let pump_guard = gone.clone().drop_guard();
        self.streams.insert(number, Guided { frames, window: Arc::clone(&window), _pump: pump_guard });
        let incoming = RelayedFrames { number, arrivals, parts: self.parts.clone(), taken: Taken::default() };
        tracing::debug!(address, number, "a relay opens a stream");
        let responses =
            open_relayed(&self.calls.cell, self.owned.clone(), self.calls.streams.clone(), Incoming::Relayed(incoming));
        let parts = self.parts.clone();
        self.pumps.spawn(async move {
            tokio::select! {
                () = pump(number, responses, &window, &parts) => {}
                () = gone.cancelled() => {}
            }
        });
    }

    async fn tell(&self, ending: v1::TermEnding) {
        // Whoever is gone need not be told.
        let _ = self.frames.send(Ok(response(link_response::Frame::Ending(ending)))).await;
    }
}

async fn send(parts: &mpsc::Sender<v1::OwnerPart>, number: u64, answer: v1::Answer) -> Result<(), ()> {
    let part = Some(owner_part::Part::Answer(answer));
    parts.send(v1::OwnerPart { number, part }).await.map_err(|_| ())
}

/// Brings the frames of a stream to its link.
async fn pump(number: u64, mut responses: Responses, window: &Window, parts: &mpsc::Sender<v1::OwnerPart>) {
    let mut last = Status::ok("");
    while let Some(response) = responses.recv().await {
        let frame = match response {
            Ok(response) => Bytes::from(response.encode_to_vec()),
            Err(status) => {
                last = status;
                break;
            }
        };
        window.room().await;
        window.sent(frame.len());
        let part = Some(owner_part::Part::Frame(frame));
        if parts.send(v1::OwnerPart { number, part }).await.is_err() {
            return;
        }
    }
    let part = Some(owner_part::Part::Ended(ended(&last)));
    // Refused only if the link has ended.
    let _ = parts.send(v1::OwnerPart { number, part }).await;
}

/// The frames of a worker that come over a link.
#[derive(Debug)]
pub struct RelayedFrames {
    number: u64,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    parts: mpsc::Sender<v1::OwnerPart>,
    taken: Taken,
}

impl RelayedFrames {
    /// The next frame; `None` once the worker has closed its side. An error is the end of the transport: as
    /// `DEADLINE_EXCEEDED`, if it is only silent.
    pub async fn message(&mut self) -> Result<Option<WorkRequest>, Status> {
        let frame = match self.arrivals.recv().await {
            Some(Arrival::Frame(frame)) => frame,
            Some(Arrival::Closed) => return Ok(None),
            Some(Arrival::Silent) => return Err(Status::deadline_exceeded("the relay is silent")),
            None => return Err(Status::unavailable("the worker, or its relay, is gone")),
        };
        if let Some(credit) = self.taken.take(frame.len()) {
            let part = Some(owner_part::Part::Credit(credit));
            // Refused only if the link has ended.
            let _ = self.parts.send(v1::OwnerPart { number: self.number, part }).await;
        }
        WorkRequest::decode(frame).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
