//! The task that reads a worker's stream. It waits for the owner, and for nobody else.

use std::{future::pending, sync::Arc, time::Duration};

use cabbage_proto::v1::{self, work_request::Frame};
use tokio::{sync::mpsc, time::Instant};
use tonic::{Code, Status};

use crate::{
    cell::{LinkMessage, Owned},
    core::{
        effect::LinkId,
        event::{Event, Settle, SettleFrom},
    },
    grpc::{
        check, hello,
        results::Results,
        status::{Reason, unreadable},
    },
};

use super::{Incoming, Ledger, StreamSettings, writer::RESULTS_MAX};

/// Results of one event; a frame with more becomes several.
const EVENT_RESULTS_MAX: usize = 1_000;

/// The owner is told at least this often that something was heard; with a short beat, twice in each.
const HEARD: Duration = Duration::from_secs(1);

/// Why the reader ended.
pub(super) enum ReaderEnd {
    /// The transport is gone.
    Gone,
    /// Nothing is heard of the transport, and nobody said that it is gone.
    Silent,
    /// The worker is to be told; through this way.
    Told(mpsc::Sender<LinkMessage>, Status),
}

/// Reads one stream.
pub(super) struct Reader {
    pub(super) link: LinkId,
    pub(super) owned: Owned,
    pub(super) ledger: Arc<Ledger>,
    pub(super) local: mpsc::Sender<LinkMessage>,
    pub(super) settings: StreamSettings,
    /// The number of the last frame of results.
    pub(super) results_seq: u64,
    /// What the owner was last told of: when, and how many deliveries were received.
    pub(super) heard: Option<(Instant, u64)>,
}

impl Reader {
    /// Reads until the worker is done, or what it sends cannot be gone on with.
    pub(super) async fn run(mut self, incoming: &mut Incoming) -> ReaderEnd {
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
                    Code::DeadlineExceeded => return ReaderEnd::Silent,
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
                self.settle(events, frame).await;
                return Ok(());
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
        if !events.is_empty() {
            self.tell(events).await;
        }
        Ok(())
    }

    /// Tells the owner. Refused only if the term has ended: the writer learns that too, and has the last word.
    async fn tell(&self, events: Vec<Event>) {
        if self.owned.frame(events).await.is_err() {
            pending::<()>().await;
        }
    }

    async fn settle(&mut self, mut events: Vec<Event>, frame: v1::JobResults) {
        let (link, seq) = (self.link, frame.results_seq);
        let Results { mut ends, invalid_tokens } = Results::of_frame(frame);
        self.ledger.results(seq, ends.len(), invalid_tokens);
        while ends.len() > EVENT_RESULTS_MAX {
            let rest = ends.split_off(EVENT_RESULTS_MAX);
            let part = std::mem::replace(&mut ends, rest);
            events.push(Event::Settle(Settle { from: SettleFrom::Link(link, None), results: part }));
            self.tell(std::mem::take(&mut events)).await;
        }
        events.push(Event::Settle(Settle { from: SettleFrom::Link(link, Some(seq)), results: ends }));
        self.tell(events).await;
    }
}
