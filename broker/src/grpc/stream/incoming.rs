//! Where a worker's frames come from.

use cabbage_proto::v1;
use tonic::{Status, Streaming};

use crate::relay::RelayedFrames;

/// The frames of a worker.
#[derive(Debug)]
pub enum Incoming {
    /// It is connected to this broker.
    Socket(Box<Streaming<v1::WorkRequest>>),
    /// It is connected to another broker, which passes its frames on.
    Relayed(RelayedFrames),
}

impl Incoming {
    /// The next frame; `None` once the worker has closed its side. Loses nothing if it is dropped.
    pub async fn message(&mut self) -> Result<Option<v1::WorkRequest>, Status> {
        match self {
            Self::Socket(frames) => frames.message().await,
            Self::Relayed(frames) => frames.message().await,
        }
    }
}
