//! The link from a broker that follows to the owner: opened, kept, and ended as one.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cabbage_proto::relay::v1::{
    self, link_request, link_response, owner_part, relay_part, relay_service_client::RelayServiceClient,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Endpoint};

use crate::{
    cell::{Cell, Standby},
    core::types::Term,
    store::Owner,
};

use super::{
    parts::{BEAT, FRAME_BYTES_MAX, LINK_WINDOW_BYTES, PARTS_MAX, PROTOCOL, SILENCE, next_parts},
    window::Window,
};

/// How long to reach the owner, and then how long until it accepts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(3);

/// A peer that answers no pings is gone. (Beats find it too, through whatever answers pings in between.)
const PING: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// While it follows closely, a broker says how far it is at most this often.
const STANDING_PAUSE: Duration = Duration::from_millis(10);

/// Frames that wait for the transport. Few, so that what waits longer makes a fuller frame.
const FRAMES_MAX: usize = 2;

/// An open link. It ends by itself, with the transport or with the owner's term.
#[derive(Debug)]
pub struct Link {
    term: Term,
    parts: mpsc::Sender<v1::RelayPart>,
    numbers: AtomicU64,
    table: Mutex<Table>,
    /// Cancelled when nothing new may go here: the term is over, or the transport is gone.
    over: CancellationToken,
}

/// What is under way.
#[derive(Debug, Default)]
struct Table {
    /// Nothing comes from here any more.
    closed: bool,
    calls: HashMap<u64, oneshot::Sender<v1::Answer>>,
    streams: HashMap<u64, Stream>,
}

#[derive(Debug)]
struct Stream {
    /// Bounded by the window that the owner has.
    inbound: mpsc::UnboundedSender<Inbound>,
    window: Arc<Window>,
}

/// What comes from the owner for a worker's stream.
#[derive(Debug)]
pub(super) enum Inbound {
    /// An encoded `WorkResponse`.
    Frame(Bytes),
    /// The owner ends the stream.
    Ended(v1::StreamEnded),
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// It never reached the owner.
    NotSent,
    /// It may have.
    Unknown,
}

impl Link {
    /// Opens a link to this owner. It is kept by a task of its own, which asks the cell to look closely when it ends.
    pub(super) async fn open(cell: &Cell, owner: &Owner, streams: watch::Receiver<u32>) -> Result<Arc<Self>, Status> {
        let unreachable =
            |error: tonic::transport::Error| Status::unavailable(format!("{}: {}", owner.address, cause(&error)));
        let endpoint = Endpoint::from_shared(format!("http://{}", owner.address)).map_err(unreachable)?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(LINK_WINDOW_BYTES)
            .initial_connection_window_size(LINK_WINDOW_BYTES);
        let channel = endpoint.connect().await.map_err(unreachable)?;
        let mut client = RelayServiceClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX);
        let (frames, to_send) = mpsc::channel(FRAMES_MAX);
        let introduction = v1::Introduction {
            min_protocol: PROTOCOL,
            max_protocol: PROTOCOL,
            key: Bytes::copy_from_slice(owner.key.0.as_bytes()),
            address: cell.address().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            highest_format: u32::from(cell.highest_format().0),
        };
        let first = link_request::Frame::Introduction(introduction);
        // There is room for the first frame.
        let _ = frames.try_send(v1::LinkRequest { frame: Some(first) });
        let accepted = timeout(ACCEPT_TIMEOUT, async {
            let mut incoming = client.link(ReceiverStream::new(to_send)).await?.into_inner();
            let first = incoming.message().await?;
            Ok::<_, Status>((incoming, first))
        });
        let (incoming, first) =
            accepted.await.map_err(|_| Status::unavailable(format!("{} does not answer", owner.address)))??;
        let Some(v1::LinkResponse { frame: Some(link_response::Frame::Acceptance(acceptance)) }) = first else {
            return Err(Status::internal(format!("{} answers in another way than agreed", owner.address)));
        };
        let (parts, waiting) = mpsc::channel(PARTS_MAX);
        let link = Arc::new(Self {
            term: Term { number: acceptance.term, nonce: acceptance.nonce },
            parts,
            numbers: AtomicU64::new(0),
            table: Mutex::default(),
            over: CancellationToken::new(),
        });
        let writer = tokio::spawn(write(
            frames,
            waiting,
            link.over.clone(),
            News { folded: cell.folded(), streams, leaving: cell.leaving() },
        ));
        let (kept, cell) = (Arc::clone(&link), cell.clone());
        tokio::spawn(async move {
            let why = kept.read(incoming, &cell).await;
            tracing::info!(term = kept.term.number, why, "the link to the owner ended");
            writer.abort();
            let planned = kept.over.is_cancelled();
            kept.over.cancel();
            kept.close();
            if !planned {
                cell.watch_closely(Standby::Take);
            }
        });
        Ok(link)
    }

    /// The owner's term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Resolves when nothing new may go here.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Nothing new goes here, since the cell has another owner. What is under way is still answered, and then the link
    /// ends.
    pub(super) fn leave(&self) {
        self.over.cancel();
    }

    /// Makes a call. Whoever drops this future gives the call up, and the owner learns of it.
    pub(super) async fn call(&self, call: v1::Call) -> Result<v1::Answer, Lost> {
        let number = self.number();
        let (sender, answer) = oneshot::channel();
        {
            let mut table = self.table();
            if table.closed || self.is_over() {
                return Err(Lost::NotSent);
            }
            table.calls.insert(number, sender);
        }
        let _given_up = GivenUp { link: self, number };
        self.send(number, relay_part::Part::Call(call)).await.map_err(|()| Lost::NotSent)?;
        answer.await.map_err(|_| Lost::Unknown)
    }

    /// Opens a stream of a worker that came from this address.
    pub(super) async fn open_stream(self: &Arc<Self>, address: String) -> Result<LinkStream, Lost> {
        let number = self.number();
        let (sender, inbound) = mpsc::unbounded_channel();
        let window = Arc::new(Window::default());
        {
            let mut table = self.table();
            if table.closed || self.is_over() {
                return Err(Lost::NotSent);
            }
            table.streams.insert(number, Stream { inbound: sender, window: Arc::clone(&window) });
        }
        let stream = LinkStream { link: Arc::clone(self), number, inbound, window };
        let opened = relay_part::Part::Opened(v1::StreamOpened { address });
        self.send(number, opened).await.map_err(|()| Lost::NotSent)?;
        Ok(stream)
    }

    async fn send(&self, number: u64, part: relay_part::Part) -> Result<(), ()> {
        self.parts.send(v1::RelayPart { number, part: Some(part) }).await.map_err(|_| ())
    }

    /// Sends a part that nobody waits for.
    fn send_soon(&self, number: u64, part: relay_part::Part) {
        let part = v1::RelayPart { number, part: Some(part) };
        if let Err(mpsc::error::TrySendError::Full(part)) = self.parts.try_send(part) {
            let parts = self.parts.clone();
            // Refused only once the link is gone, and the owner knows then.
            tokio::spawn(async move { parts.send(part).await });
        }
    }

    /// Reads until the link ends; says why.
    async fn read(&self, mut incoming: Streaming<v1::LinkResponse>, cell: &Cell) -> String {
        loop {
            let response = match timeout(SILENCE, incoming.message()).await {
                Err(_) => return format!("nothing came for {SILENCE:?}"),
                Ok(Err(status)) => return status.message().to_owned(),
                Ok(Ok(None)) => return "the owner ended it".to_owned(),
                Ok(Ok(Some(response))) => response,
            };
            match response.frame {
                Some(link_response::Frame::Parts(parts)) => {
                    let mut table = self.table();
                    for part in parts.parts {
                        table.arrived(part);
                    }
                }
                Some(link_response::Frame::Ending(v1::TermEnding { over: false, r#yield })) => {
                    cell.watch_closely(if r#yield { Standby::Yield } else { Standby::Follow });
                }
                Some(link_response::Frame::Ending(v1::TermEnding { over: true, r#yield })) => {
                    self.over.cancel();
                    cell.watch_closely(if r#yield { Standby::Yield } else { Standby::Take });
                }
                Some(link_response::Frame::Acceptance(_) | link_response::Frame::Beat(_)) | None => {}
            }
        }
    }

    fn close(&self) {
        let mut table = self.table();
        table.closed = true;
        table.calls.clear();
        table.streams.clear();
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn arrived(&mut self, part: v1::OwnerPart) {
        let v1::OwnerPart { number, part } = part;
        match part {
            Some(owner_part::Part::Answer(answer)) => {
                if let Some(call) = self.calls.remove(&number) {
                    // Whoever asked may have gone.
                    let _ = call.send(answer);
                }
            }
            Some(owner_part::Part::Frame(frame)) => {
                if let Some(stream) = self.streams.get(&number) {
                    let _ = stream.inbound.send(Inbound::Frame(frame));
                }
            }
            Some(owner_part::Part::Credit(bytes)) => {
                if let Some(stream) = self.streams.get(&number) {
                    stream.window.credit(bytes);
                }
            }
            Some(owner_part::Part::Ended(ended)) => {
                if let Some(stream) = self.streams.remove(&number) {
                    let _ = stream.inbound.send(Inbound::Ended(ended));
                }
            }
            None => {}
        }
    }
}

/// Tells the owner that nobody waits for a call any more, unless it is answered.
struct GivenUp<'a> {
    link: &'a Link,
    number: u64,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        let waits = self.link.table().calls.remove(&self.number).is_some();
        if waits {
            self.link.send_soon(self.number, relay_part::Part::GivenUp(v1::CallGivenUp {}));
        }
    }
}

/// A worker's stream on a link. Dropped, it tells the owner that nothing more comes, and needs to be known.
#[derive(Debug)]
pub(super) struct LinkStream {
    link: Arc<Link>,
    number: u64,
    pub(super) inbound: mpsc::UnboundedReceiver<Inbound>,
    pub(super) window: Arc<Window>,
}

/// The way of a worker's stream to the owner.
#[derive(Clone, Debug)]
pub(super) struct ToOwner {
    link: Arc<Link>,
    number: u64,
}

impl LinkStream {
    pub(super) fn to_owner(&self) -> ToOwner {
        ToOwner { link: Arc::clone(&self.link), number: self.number }
    }
}

impl ToOwner {
    /// Sends a part; nothing, where the link is gone, which the stream learns otherwise.
    pub(super) async fn send(&self, part: relay_part::Part) {
        let _ = self.link.send(self.number, part).await;
    }
}

impl Drop for LinkStream {
    fn drop(&mut self) {
        let mut table = self.link.table();
        table.streams.remove(&self.number);
        let is_closed = table.closed;
        drop(table);
        if !is_closed {
            self.link.send_soon(self.number, relay_part::Part::Lost(v1::StreamLost {}));
        }
    }
}

/// Writes what waits, and says how far this broker is. Once the term is over, writes what was under way, and closes this
/// side: so the owner knows that it has heard of every call, and answers them before it ends the link.
async fn write(
    frames: mpsc::Sender<v1::LinkRequest>,
    mut parts: mpsc::Receiver<v1::RelayPart>,
    over: CancellationToken,
    mut news: News,
) {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut told, leaving) = (Instant::now(), news.leaving.clone());
    let mut told_leaving = false;
    loop {
        let frame = tokio::select! {
            parts = next_parts(&mut parts) => {
                if parts.is_empty() {
                    return;
                }
                link_request::Frame::Parts(v1::RelayParts { parts })
            }
            () = over.cancelled(), if !parts.is_closed() => {
                parts.close();
                continue;
            }
            _ = beat.tick() => news.standing(),
            Ok(()) = changed(&mut news.folded, told + STANDING_PAUSE) => news.standing(),
            () = leaving.cancelled(), if !told_leaving => news.standing(),
        };
        if let link_request::Frame::Standing(standing) = &frame {
            (told, told_leaving) = (Instant::now(), standing.leaving);
        }
        if frames.send(v1::LinkRequest { frame: Some(frame) }).await.is_err() {
            return;
        }
    }
}

/// Resolves when the number changes, and it is late enough to say so.
async fn changed(number: &mut watch::Receiver<u64>, from: Instant) -> Result<(), watch::error::RecvError> {
    sleep_until(from).await;
    number.changed().await
}

/// What the owner is told of this broker.
struct News {
    folded: watch::Receiver<u64>,
    streams: watch::Receiver<u32>,
    leaving: CancellationToken,
}

impl News {
    fn standing(&mut self) -> link_request::Frame {
        link_request::Frame::Standing(v1::Standing {
            log_number: *self.folded.borrow_and_update(),
            streams: *self.streams.borrow(),
            leaving: self.leaving.is_cancelled(),
        })
    }
}

/// The innermost cause, which says most.
fn cause(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
