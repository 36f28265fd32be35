//! One stream to one broker: a task that connects, reads, and reports. It decides nothing.

use std::error::Error as StdError;

use cabbage_proto::v1::{self, worker_service_client::WorkerServiceClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::Endpoint,
};

use crate::{
    error::Answer,
    session::{LinkEnd, LinkId, MAX_RECEIVE_BYTES},
};

/// Frames that wait for the transport. Few: what waits longer grows into a fuller frame.
const WAITING_FRAMES: usize = 2;

/// What a stream reports.
#[derive(Debug)]
pub(super) enum StreamEvent {
    /// The broker can be reached; frames go here.
    Connected(LinkId, mpsc::Sender<v1::WorkRequest>),
    Frame(LinkId, Box<v1::WorkResponse>),
    Ended(LinkId, LinkEnd),
}

/// Runs one stream to its end, on a channel of its own.
pub(super) async fn run(
    link: LinkId,
    endpoint: Endpoint,
    bearer: Option<MetadataValue<Ascii>>,
    events: mpsc::Sender<StreamEvent>,
) {
    let end = match read(link, &endpoint, bearer, &events).await {
        Ok(()) => LinkEnd { detail: format!("{} ended the stream", endpoint.uri()), ..LinkEnd::default() },
        Err(end) => end,
    };
    // If nobody listens, the worker has stopped.
    let _ = events.send(StreamEvent::Ended(link, end)).await;
}

async fn read(
    link: LinkId,
    endpoint: &Endpoint,
    bearer: Option<MetadataValue<Ascii>>,
    events: &mpsc::Sender<StreamEvent>,
) -> Result<(), LinkEnd> {
    let channel = endpoint.connect().await.map_err(|error| {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        LinkEnd { try_next: true, retry_after: None, detail: format!("{}: {error}: {cause}", endpoint.uri()) }
    })?;
    let (frames, to_send) = mpsc::channel(WAITING_FRAMES);
    if events.send(StreamEvent::Connected(link, frames)).await.is_err() {
        return Ok(());
    }
    let mut client = WorkerServiceClient::new(channel).max_decoding_message_size(MAX_RECEIVE_BYTES as usize);
    let mut request = Request::new(ReceiverStream::new(to_send));
    if let Some(bearer) = bearer {
        request.metadata_mut().insert("authorization", bearer);
    }
    let mut inbound = client.work(request).await.map_err(|status| end_of(endpoint, &status))?.into_inner();
    while let Some(frame) = inbound.message().await.map_err(|status| end_of(endpoint, &status))? {
        if events.send(StreamEvent::Frame(link, Box::new(frame))).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn end_of(endpoint: &Endpoint, status: &Status) -> LinkEnd {
    let answer = Answer::of(status);
    LinkEnd {
        try_next: answer.names_another_broker() || answer.never_sent,
        retry_after: answer.retry_after,
        detail: format!("{}: {answer}", endpoint.uri()),
    }
}
