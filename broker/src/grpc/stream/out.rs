//! The way of what a worker is told, from whoever serves its stream to its connection.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use cabbage_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

/// Frames that wait for the transport. Few, since a control frame must pass the jobs that wait before them.
const FRAMES_MAX: usize = 2;

/// A frame, or the status that ends the stream.
type Told = Result<v1::WorkResponse, Status>;

/// What a stream writes to. In boxes, since a channel of tokio's keeps the room for 32 of what it carries, however few it
/// admits.
pub(crate) type Out = mpsc::Sender<Box<Told>>;

/// What a worker reads: frames, and at last a status, if it has to be told one.
#[derive(Debug)]
pub struct Responses(mpsc::Receiver<Box<Told>>);

/// Both ends of the way.
pub(super) fn way_out() -> (Out, Responses) {
    let (out, responses) = mpsc::channel(FRAMES_MAX);
    (out, Responses(responses))
}

impl Responses {
    /// The next one; `None` at the end.
    pub(crate) async fn recv(&mut self) -> Option<Told> {
        self.0.recv().await.map(|told| *told)
    }
}

impl Stream for Responses {
    type Item = Told;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Told>> {
        self.0.poll_recv(context).map(|told| told.map(|told| *told))
    }
}
