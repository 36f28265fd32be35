//! Who may open a link, and what brokers show of each other.

use cabbage_broker::store::format::HIGHEST;
use cabbage_proto::{
    relay::v1::{
        self as relay, link_request::Frame, link_response, owner_part, relay_part,
        relay_service_client::RelayServiceClient,
    },
    v1,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use tonic_types::{RpcStatusExt as _, StatusExt as _};

use crate::scene::{Brokers, defer, soon};

/// A link that is written by hand, to the owner.
async fn link(brokers: &Brokers) -> (mpsc::Sender<relay::LinkRequest>, Streaming<relay::LinkResponse>) {
    let owner = brokers.owner();
    let key = brokers.store().owner().await.expect("a store").expect("an owner").key;
    let introduction = relay::Introduction {
        min_protocol: 1,
        max_protocol: 1,
        key: key.0.as_bytes().to_vec().into(),
        address: "10.0.0.1:7733".into(),
        version: "9".into(),
        highest_format: u32::from(HIGHEST.0),
    };
    let (frames, to_send) = mpsc::channel(16);
    frames.send(relay::LinkRequest { frame: Some(Frame::Introduction(introduction)) }).await.expect("room");
    let mut client = RelayServiceClient::new(brokers.channel(owner).await);
    let mut link = client.link(ReceiverStream::new(to_send)).await.expect("a link").into_inner();
    let first = soon(link.message()).await.expect("no error").expect("a frame").frame;
    assert!(matches!(first, Some(link_response::Frame::Acceptance(_))));
    (frames, link)
}

async fn say(frames: &mpsc::Sender<relay::LinkRequest>, part: relay_part::Part) {
    let parts = vec![relay::RelayPart { number: 1, part: Some(part) }];
    let frame = Some(Frame::Parts(relay::RelayParts { parts }));
    frames.send(relay::LinkRequest { frame }).await.expect("the link is open");
}

/// The next part; `None` once the link has ended in order.
async fn hear(link: &mut Streaming<relay::LinkResponse>) -> Option<owner_part::Part> {
    loop {
        if let Some(link_response::Frame::Parts(parts)) = soon(link.message()).await.expect("no error")?.frame {
            return parts.parts.into_iter().next()?.part;
        }
    }
}

#[tokio::test]
async fn a_broker_is_told_to_leave_the_term_to_another_before_it_ends() {
    let brokers = Brokers::in_memory(2).await;
    let (owner, heir) = (brokers.owner(), 1 - brokers.owner());
    let (_frames, mut link) = link(&brokers).await;
    let to = v1::HandOverRequest { address: brokers.address(heir), ..v1::HandOverRequest::default() };
    let mut admin = brokers.admin(owner).await;
    let handover = tokio::spawn(async move { admin.hand_over(to).await });
    let mut told = Vec::new();
    while !told.iter().any(|(over, _)| *over) {
        let frame = soon(link.message()).await.expect("no error").expect("the link goes on").frame;
        if let Some(link_response::Frame::Ending(ending)) = frame {
            told.push((ending.over, ending.r#yield));
        }
    }
    handover.await.expect("no panic").expect("another owner");
    assert!(told.ends_with(&[(false, true), (true, true)]), "{told:?}");
}

#[tokio::test]
async fn a_broker_that_leaves_gets_the_answers_to_its_calls_first() {
    let brokers = Brokers::in_memory(1).await;
    let job_id = brokers.jobs(0).await.defer_job(defer("send")).await.expect("a job").into_inner().job_id;
    let (frames, mut link) = link(&brokers).await;
    let wait = v1::WaitJobRequest { job_id, max_wait: Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 }) };
    let message = wait.encode_to_vec();
    let body = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat().into();
    let header = |name: &str, value: &'static str| relay::Header { name: name.into(), value: value.as_bytes().into() };
    let headers = vec![header("content-type", "application/grpc"), header("te", "trailers")];
    let path = "/cabbage.v1.JobService/WaitJob".into();
    say(&frames, relay_part::Part::Call(relay::Call { path, headers, body, address: String::new() })).await;
    drop(frames);
    let Some(owner_part::Part::Answer(answer)) = hear(&mut link).await else { panic!("no answer") };
    let answer = v1::WaitJobResponse::decode(&answer.body[5..]).expect("an answer");
    assert!(!answer.is_final && answer.job.is_some_and(|job| job.id == job_id));
    assert!(hear(&mut link).await.is_none(), "the link ends");
}

#[tokio::test]
async fn a_stream_that_was_not_introduced_yet_goes_on_under_the_next_owner() {
    let brokers = Brokers::in_memory(1).await;
    let (frames, mut link) = link(&brokers).await;
    say(&frames, relay_part::Part::Opened(relay::StreamOpened { address: String::new() })).await;
    brokers.depose();
    // The owner learns of it by its next commit.
    let mut jobs = brokers.jobs(0).await;
    tokio::spawn(async move { jobs.defer_job(defer("send")).await });
    let Some(owner_part::Part::Ended(ended)) = hear(&mut link).await else { panic!("no end") };
    let status = ended.status.expect("a status");
    assert_eq!(status.get_details_error_info().expect("an ErrorInfo").reason, "NOT_OWNER");
}

#[tokio::test]
async fn only_a_broker_of_the_cell_opens_a_link() {
    let brokers = Brokers::in_memory(1).await;
    let mut client = RelayServiceClient::new(brokers.channel(0).await);
    let mut link = async |introduction: relay::Introduction| {
        let first = relay::LinkRequest { frame: Some(Frame::Introduction(introduction)) };
        client.link(tokio_stream::iter([first])).await.map(|_| ()).map_err(|status| {
            (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
        })
    };
    let introduction = relay::Introduction {
        min_protocol: 1,
        max_protocol: 1,
        key: vec![7; 16].into(),
        address: "10.0.0.1:7733".into(),
        version: "9".into(),
        highest_format: u32::from(HIGHEST.0),
    };
    let refused = |code, reason: &str| Err((code, reason.to_owned()));
    assert_eq!(link(introduction.clone()).await, refused(Code::PermissionDenied, "RELAY_REFUSED"));
    let newer = relay::Introduction { min_protocol: 2, max_protocol: 3, ..introduction.clone() };
    assert_eq!(link(newer).await, refused(Code::FailedPrecondition, "PROTOCOL_UNSUPPORTED"));
    let key = brokers.store().owner().await.expect("a store").expect("an owner").key;
    let right = relay::Introduction { key: key.0.as_bytes().to_vec().into(), ..introduction };
    assert_eq!(link(right).await, Ok(()));
}

#[tokio::test]
async fn brokers_are_listed_anywhere_with_what_each_does() {
    let brokers = Brokers::in_postgres(3).await;
    brokers.jobs(2).await.defer_job(defer("send")).await.expect("a job");
    for number in 0..3 {
        let listed = soon(async {
            loop {
                let list = brokers.admin(number).await.list_brokers(v1::ListBrokersRequest {}).await;
                let listed = list.expect("a list").into_inner().brokers;
                // A broker that follows says how far it is each second.
                if listed.iter().all(|broker| broker.lag == 0) {
                    return listed;
                }
            }
        })
        .await;
        let addresses: Vec<_> = listed.iter().map(|broker| broker.address.clone()).collect();
        assert_eq!(addresses, [0, 1, 2].map(|number| brokers.address(number)));
        assert_eq!(listed.iter().map(|broker| broker.owner).collect::<Vec<_>>(), [true, false, false]);
        for broker in listed {
            assert_eq!((broker.term, broker.version.as_str()), (1, env!("CARGO_PKG_VERSION")));
            assert!(broker.since.is_some());
        }
    }
}
