//! A worker's stream at any broker: from one owner of the cell to the next.
//!
//! A stream outlives the owner that it was opened under: when another broker takes over, the worker is asked to introduce
//! itself again, on the same stream, and goes on there. Workers that do not know this are told to connect again.

use cabbage_proto::v1::{self, work_request, work_response};
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::{
    cell::{Cell, Owned},
    core::types::Term,
    grpc::status::{Reason, to_message, unreadable},
    relay::{self, Relay, RelayedEnd, Way},
};

use super::{Incoming, Out, Responses, StreamSettings, local, out::way_out, writer::Ended};

/// How long a worker may take to introduce itself.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the last frames of a stream may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long after the end of an owner that had not welcomed the worker yet it is looked again.
const NEXT_LOOK: Duration = Duration::from_millis(5);

/// The ability of a worker to introduce itself again on the same stream.
const OWNER_CHANGED: &str = "owner-changed";

/// Serves the stream of a worker that is connected to this broker, which came from this address. The answer is there at
/// once, before anything was read.
pub(in crate::grpc) fn open(relay: &Relay, settings: StreamSettings, address: String, incoming: Incoming) -> Responses {
    let (out, responses) = way_out();
    let front = Front { relay: relay.clone(), settings, address, incoming, out };
    tokio::spawn(async move {
        let metrics = front.settings.metrics.clone();
        metrics.stream_opened();
        let reason = front.serve().await;
        metrics.stream_ended(reason);
    });
    responses
}

/// Serves the stream of a worker that another broker passes on, under this term only.
pub(crate) fn open_relayed(cell: &Cell, owned: Owned, settings: StreamSettings, mut incoming: Incoming) -> Responses {
    let (out, responses) = way_out();
    let cell = cell.clone();
    // The worker stays where it is when this broker stops.
    let settings = StreamSettings { draining: CancellationToken::new(), ..settings };
    tokio::spawn(async move {
        let hello = tokio::select! {
            hello = first_hello(&mut incoming) => Some(hello),
            () = owned.over.cancelled() => None,
            () = out.closed() => return,
        };
        let ended = match hello {
            Some(Ok(Some(hello))) => local::serve(&cell, &owned, &settings, hello, &mut incoming, &out).await,
            Some(Ok(None)) => return,
            Some(Err(status)) => Err(status),
            None => Ok(Ended::TermOver { welcomed: false }),
        };
        match ended {
            // For the broker that passes the stream on, which goes on with it elsewhere. It may know already.
            Ok(Ended::TermOver { .. }) => _ = out.send(Box::new(Err(Reason::NotOwner.status("the term ended")))).await,
            Ok(_) => {}
            Err(status) => goodbye(&out, owned.term, &status).await,
        }
    });
    responses
}

struct Front {
    relay: Relay,
    settings: StreamSettings,
    address: String,
    incoming: Incoming,
    out: Out,
}

/// What follows for a stream when one owner has served it.
enum Next {
    /// It ends; why, as a word.
    End(&'static str),
    /// It ends, and the worker is told so.
    Refuse(Status),
    /// It goes on under the next owner.
    GoOn {
        /// Whether the worker was welcomed, so that it has to introduce itself again.
        welcomed: bool,
    },
}

impl Front {
    /// Serves to the end; gives the reason of it, as a word.
    async fn serve(mut self) -> &'static str {
        // What the worker compares frames with before its first `Welcome` is nothing.
        let mut term = Term { number: 0, nonce: 0 };
        let first = tokio::select! {
            first = first_hello(&mut self.incoming) => first,
            () = self.out.closed() => return "gone",
        };
        let mut hello = match first {
            Ok(Some(hello)) => hello,
            Ok(None) => return "gone",
            Err(status) => return self.refuse(term, status).await,
        };
        // However often it is tried until somebody welcomes the worker, it is held back no longer than a call.
        let mut until = Instant::now() + self.relay.hold();
        loop {
            let way = tokio::select! {
                way = self.relay.way_of_stream(until) => way,
                () = self.out.closed() => return "gone",
            };
            let next;
            (term, next) = match way {
                Ok(Way::Here(owned)) => (owned.term, self.here(&owned, &hello).await),
                Ok(Way::There(link)) => self.there(&link, &hello).await,
                Err(status) => (term, Next::Refuse(status)),
            };
            let welcomed = match next {
                Next::End(reason) => return reason,
                Next::Refuse(status) => return self.refuse(term, status).await,
                Next::GoOn { welcomed } => welcomed,
            };
            if self.settings.draining.is_cancelled() {
                return self.refuse(term, Reason::Draining.status("the broker stops")).await;
            }
            if !welcomed {
                if Instant::now() >= until {
                    return self.refuse(term, self.relay.nobody()).await;
                }
                // Who is next is not known yet.
                sleep(NEXT_LOOK).await;
                continue;
            }
            if !hello.capabilities.iter().any(|capability| capability == OWNER_CHANGED) {
                let text = "the cell has another owner; connect again, to any broker";
                return self.refuse(term, Reason::NotOwner.status(text)).await;
            }
            hello = match self.introduced_again(term).await {
                Ok(Some(hello)) => hello,
                Ok(None) => return "gone",
                Err(status) => return self.refuse(term, status).await,
            };
            until = Instant::now() + self.relay.hold();
        }
    }

    /// Under this broker's own term.
    async fn here(&mut self, owned: &Owned, hello: &v1::Hello) -> Next {
        let cell = self.relay.cell();
        match local::serve(cell, owned, &self.settings, hello.clone(), &mut self.incoming, &self.out).await {
            Ok(Ended::TermOver { welcomed }) => Next::GoOn { welcomed },
            Ok(ended) => Next::End(ended.word()),
            Err(status) => Next::Refuse(status),
        }
    }

    /// Over a link to the owner.
    async fn there(&mut self, link: &std::sync::Arc<relay::Link>, hello: &v1::Hello) -> (Term, Next) {
        let whose = (self.address.clone(), hello);
        let served = relay::serve(&self.relay, link, whose, &self.settings, &mut self.incoming, &self.out).await;
        let (term, end) = served;
        let next = match end {
            RelayedEnd::Gone => Next::End("gone"),
            RelayedEnd::Told => Next::End("planned"),
            RelayedEnd::NotReading => Next::Refuse(Reason::NotReading.status("the worker does not read its stream")),
            RelayedEnd::Refused(status) => Next::Refuse(status),
            RelayedEnd::OwnerGone { welcomed } => Next::GoOn { welcomed },
        };
        (term, next)
    }

    /// Asks the worker to introduce itself again, and waits until it does.
    async fn introduced_again(&mut self, term: Term) -> Result<Option<v1::Hello>, Status> {
        let Term { number: term, nonce } = term;
        let frame = Some(work_response::Frame::OwnerChanged(v1::OwnerChanged {}));
        let sent =
            timeout(self.settings.send_timeout, self.out.send(Box::new(Ok(v1::WorkResponse { term, nonce, frame }))));
        if !matches!(sent.await, Ok(Ok(()))) {
            return Ok(None);
        }
        let again = async {
            loop {
                match self.incoming.message().await.map_err(|status| unreadable(&status))? {
                    None => return Ok(None),
                    Some(v1::WorkRequest { frame: Some(work_request::Frame::Hello(hello)), .. }) => {
                        return Ok(Some(hello));
                    }
                    // Sent before it read our frame: it will be sent again.
                    Some(_) => {}
                }
            }
        };
        tokio::select! {
            again = timeout(HELLO_TIMEOUT, again) => again.unwrap_or_else(|_| Err(no_hello())),
            () = self.out.closed() => Ok(None),
        }
    }

    async fn refuse(&self, term: Term, status: Status) -> &'static str {
        goodbye(&self.out, term, &status).await;
        if status.code() == Code::Ok { "planned" } else { "refused" }
    }
}

/// The first frame of a stream.
async fn first_hello(incoming: &mut Incoming) -> Result<Option<v1::Hello>, Status> {
    match timeout(HELLO_TIMEOUT, incoming.message()).await {
        Err(_) => Err(no_hello()),
        Ok(Err(status)) => Err(unreadable(&status)),
        Ok(Ok(None)) => Ok(None),
        Ok(Ok(Some(v1::WorkRequest { frame: Some(work_request::Frame::Hello(hello)), .. }))) => Ok(Some(hello)),
        Ok(Ok(Some(_))) => Err(Reason::HelloExpected.status("the first frame of a stream must be `Hello`")),
    }
}

fn no_hello() -> Status {
    Reason::HelloTimeout.status("no `Hello` came within 10 s; send it first")
}

/// The last words of a stream that nothing else writes to.
async fn goodbye(out: &Out, term: Term, status: &Status) {
    let frame = work_response::Frame::Goodbye(v1::Goodbye { status: Some(to_message(status)) });
    let frame = v1::WorkResponse { term: term.number, nonce: term.nonce, frame: Some(frame) };
    // Whoever does not listen hears no farewell.
    let _ = timeout(FAREWELL_TIMEOUT, async {
        if out.send(Box::new(Ok(frame))).await.is_ok() && status.code() != Code::Ok {
            let _ = out.send(Box::new(Err(status.clone()))).await;
        }
    })
    .await;
}
