//! Streams of workers that are held back while nobody who is reached owns the cell.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cabbage_broker::Broker;
use cabbage_proto::{
    relay::v1::{
        self as relay, link_request, link_response, owner_part, relay_part,
        relay_service_server::{RelayService, RelayServiceServer},
    },
    v1::{self, work_request, work_response, worker_service_client::WorkerServiceClient},
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};
use tonic_types::StatusExt as _;

use crate::scene::{Brokers, soon};

/// An owner that takes links, and says of every stream on them that its term is over.
struct NeverWelcomes {
    term: u64,
    nonce: u64,
    streams: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl RelayService for NeverWelcomes {
    type LinkStream = ReceiverStream<Result<relay::LinkResponse, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<relay::LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let (frames, responses) = mpsc::channel(16);
        let acceptance = relay::Acceptance { protocol: 1, term: self.term, nonce: self.nonce };
        let streams = Arc::clone(&self.streams);
        tokio::spawn(async move {
            let say = async |frame| frames.send(Ok(relay::LinkResponse { frame: Some(frame) })).await.is_ok();
            let mut said = say(link_response::Frame::Acceptance(acceptance)).await;
            let mut incoming = request.into_inner();
            while said && let Ok(Some(request)) = incoming.message().await {
                said = match request.frame {
                    Some(link_request::Frame::Parts(parts)) => {
                        let opened = |part: &relay::RelayPart| matches!(part.part, Some(relay_part::Part::Opened(_)));
                        let parts: Vec<_> =
                            parts.parts.into_iter().filter(opened).map(|part| ended(part.number)).collect();
                        streams.fetch_add(parts.len(), Ordering::Relaxed);
                        say(link_response::Frame::Parts(relay::OwnerParts { parts })).await
                    }
                    _ => say(link_response::Frame::Beat(relay::OwnerBeat {})).await,
                };
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

/// The end of a stream, as an owner says it whose term is over.
fn ended(number: u64) -> relay::OwnerPart {
    let info = tonic_types::ErrorDetails::with_error_info("NOT_OWNER", "cabbage", []);
    let status = Status::with_error_details(Code::Unavailable, "the term ended", info);
    let status = tonic_types::Status::decode(status.details()).expect("our own");
    let ended = relay::StreamEnded { status: Some(status) };
    relay::OwnerPart { number, part: Some(owner_part::Part::Ended(ended)) }
}

#[tokio::test]
async fn a_stream_that_no_owner_welcomes_is_held_back_for_as_long_as_it_may_and_no_longer() {
    let nobody = Brokers::in_memory(0).await;
    let store = nobody.store();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let tenure = store.take_term(&address).await.expect("a store").expect("nobody has it");
    let streams = Arc::new(AtomicUsize::new(0));
    let owner = NeverWelcomes { term: tenure.term.number, nonce: tenure.term.nonce, streams: Arc::clone(&streams) };
    let serve = Server::builder().add_service(RelayServiceServer::new(owner));
    tokio::spawn(serve.serve_with_incoming(TcpListenerStream::new(listener)));
    let mut args = nobody.args.clone();
    args.intervals.relay_hold_ms = 300;
    let broker = Broker::start_on(&args, store).await.expect("it starts");
    let (frames, to_send) = mpsc::channel(1);
    let hello = v1::Hello {
        min_protocol: 1,
        max_protocol: 1,
        tasks: vec![v1::TaskRegistration { task: "send".into(), max_concurrent: 0 }],
        ..v1::Hello::default()
    };
    let first = v1::WorkRequest { received_seq: 0, frame: Some(work_request::Frame::Hello(hello)) };
    frames.send(first).await.expect("room");
    let endpoint = tonic::transport::Channel::from_shared(format!("http://{}", broker.grpc_address()));
    let channel = endpoint.expect("an address").connect().await.expect("it listens");
    let began = Instant::now();
    let stream = WorkerServiceClient::new(channel).work(ReceiverStream::new(to_send)).await;
    let mut stream = stream.expect("a stream").into_inner();
    let farewell = soon(stream.message()).await.expect("no error before the farewell").expect("a frame");
    assert!(matches!(farewell.frame, Some(work_response::Frame::Goodbye(_))), "{farewell:?}");
    let status = soon(stream.message()).await.expect_err("the reason");
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!((status.code(), info.reason.as_str()), (Code::Unavailable, "NOT_OWNER"));
    assert!(began.elapsed() >= Duration::from_millis(300), "it was held back for {:?} only", began.elapsed());
    // It was no single long wait that the bound cut short.
    assert!(streams.load(Ordering::Relaxed) > 1, "it was tried once only");
}
