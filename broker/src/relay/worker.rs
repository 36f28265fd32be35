//! A worker's stream on a link: frames go both ways as they are.

use bytes::Bytes;
use cabbage_proto::{
    relay::v1::{self as relay, relay_part},
    v1::{self, work_request, work_response},
};
use prost::Message as _;
use tokio::time::{Duration, sleep, timeout};
use tonic::{Code, Status};
use tonic_types::RpcStatusExt as _;

use crate::{
    core::types::Term,
    grpc::{
        Incoming, Out, StreamSettings, broker_drain,
        status::{Reason, to_message, unreadable},
    },
};

use super::{
    link::{Inbound, Link, LinkStream, ToOwner},
    way::Relay,
    window::{Taken, Window},
};

/// How long the last word of a stream may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long an owner whose term is over may take to acknowledge what it has recorded.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How a worker's stream on a link ended.
#[derive(Debug)]
pub(crate) enum RelayedEnd {
    /// The worker's transport is gone.
    Gone,
    /// The worker does not read.
    NotReading,
    /// The worker was told the end, by the owner or from here.
    Told,
    /// The worker is to be told this.
    Refused(Status),
    /// The owner's term is over, or the owner is gone.
    OwnerGone {
        /// Whether the worker had been welcomed.
        welcomed: bool,
    },
}

/// Passes a worker's stream on, which begins with this `Hello`, until it ends or the link does.
pub(crate) async fn serve(
    relay: &Relay,
    link: &std::sync::Arc<Link>,
    (address, hello): (String, &v1::Hello),
    settings: &StreamSettings,
    incoming: &mut Incoming,
    out: &Out,
) -> (Term, RelayedEnd) {
    let term = link.term();
    let Ok(stream) = link.open_stream(address).await else { return (term, RelayedEnd::OwnerGone { welcomed: false }) };
    let _counted = relay.count_stream();
    let (to_owner, window) = (stream.to_owner(), std::sync::Arc::clone(&stream.window));
    let mut down = Down { stream, to_owner: to_owner.clone(), term, settings, out, welcomed: false };
    let end = {
        let up = up(hello, &to_owner, &window, incoming);
        tokio::select! {
            end = up => Some(end),
            end = down.run() => Some(end),
            () = out.closed() => Some(RelayedEnd::Gone),
            () = last_words(link) => None,
        }
    };
    let end = end.unwrap_or(RelayedEnd::OwnerGone { welcomed: down.welcomed });
    (term, end)
}

/// Resolves when nothing more is to be expected of an owner whose term is over. Usually it has ended the stream by then,
/// after its last acknowledgements.
async fn last_words(link: &Link) {
    link.over().await;
    sleep(LAST_WORDS).await;
}

/// From the worker to the owner.
async fn up(hello: &v1::Hello, to_owner: &ToOwner, window: &Window, incoming: &mut Incoming) -> RelayedEnd {
    let hello = work_request::Frame::Hello(hello.clone());
    let mut request = v1::WorkRequest { received_seq: 0, frame: Some(hello) };
    loop {
        window.room().await;
        let frame = Bytes::from(request.encode_to_vec());
        window.sent(frame.len());
        to_owner.send(relay_part::Part::Frame(frame)).await;
        request = match incoming.message().await {
            Ok(Some(request)) => request,
            Ok(None) => {
                to_owner.send(relay_part::Part::Closed(relay::StreamClosed {})).await;
                // The owner has the last word.
                return std::future::pending().await;
            }
            Err(status) => {
                return match status.code() {
                    Code::OutOfRange | Code::ResourceExhausted | Code::Internal | Code::InvalidArgument => {
                        RelayedEnd::Refused(unreadable(&status))
                    }
                    _ => RelayedEnd::Gone,
                };
            }
        };
    }
}

/// From the owner to the worker.
struct Down<'a> {
    stream: LinkStream,
    to_owner: ToOwner,
    term: Term,
    settings: &'a StreamSettings,
    out: &'a Out,
    welcomed: bool,
}

impl Down<'_> {
    async fn run(&mut self) -> RelayedEnd {
        let draining = self.settings.draining.clone();
        let (mut taken, mut told_drain) = (Taken::default(), false);
        loop {
            let inbound = tokio::select! {
                inbound = self.stream.inbound.recv() => inbound,
                () = draining.cancelled(), if self.welcomed && !told_drain => {
                    told_drain = true;
                    let drain = work_response::Frame::BrokerDrain(broker_drain(self.settings));
                    let Term { number: term, nonce } = self.term;
                    if let Err(end) = self.tell(v1::WorkResponse { term, nonce, frame: Some(drain) }).await {
                        return end;
                    }
                    continue;
                }
            };
            match inbound {
                Some(Inbound::Frame(frame)) => {
                    let bytes = frame.len();
                    let Ok(response) = v1::WorkResponse::decode(frame) else {
                        tracing::error!("the owner sent a frame that cannot be read: this is a bug");
                        return RelayedEnd::OwnerGone { welcomed: self.welcomed };
                    };
                    let welcome = matches!(response.frame, Some(work_response::Frame::Welcome(_)));
                    if let Err(end) = self.tell(response).await {
                        return end;
                    }
                    self.welcomed |= welcome;
                    if let Some(credit) = taken.take(bytes) {
                        self.to_owner.send(relay_part::Part::Credit(credit)).await;
                    }
                }
                Some(Inbound::Ended(ended)) => {
                    let status = ended.status.unwrap_or_default();
                    if is_not_owner_status(&status) {
                        return RelayedEnd::OwnerGone { welcomed: self.welcomed };
                    }
                    if status.code != i32::from(Code::Ok) {
                        let details = status.encode_to_vec().into();
                        let status = Status::with_details(Code::from(status.code), status.message, details);
                        // Whoever does not listen hears no farewell.
                        let _ = timeout(FAREWELL, self.out.send(Box::new(Err(status)))).await;
                    }
                    return RelayedEnd::Told;
                }
                None => return RelayedEnd::OwnerGone { welcomed: self.welcomed },
            }
        }
    }

    async fn tell(&self, response: v1::WorkResponse) -> Result<(), RelayedEnd> {
        match timeout(self.settings.send_timeout, self.out.send(Box::new(Ok(response)))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(RelayedEnd::Gone),
            Err(_) => Err(RelayedEnd::NotReading),
        }
    }
}

/// Whether the owner ends a stream since it is no owner any more.
fn is_not_owner_status(status: &tonic_types::Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == Reason::NotOwner.word())
}

/// The end of a stream as the owner says it on a link.
pub(super) fn ended(status: &Status) -> relay::StreamEnded {
    relay::StreamEnded { status: Some(to_message(status)) }
}
