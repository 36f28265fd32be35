//! Streams of workers at a broker that does not own the cell.

use cabbage_proto::v1::{self, work_request::Frame as Up, work_response::Frame as Down};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::scene::{Brokers, defer, soon};

/// A worker that is written by hand, once it is welcome.
async fn worker(
    brokers: &Brokers,
    number: usize,
    hello: v1::Hello,
) -> (mpsc::Sender<v1::WorkRequest>, Streaming<v1::WorkResponse>) {
    let (frames, to_send) = mpsc::channel(16);
    say(&frames, Up::Hello(hello)).await;
    let stream = brokers.workers(number).await.work(ReceiverStream::new(to_send)).await;
    let mut stream = stream.expect("a stream").into_inner();
    assert!(matches!(hear(&mut stream).await, Down::Welcome(_)));
    (frames, stream)
}

async fn say(frames: &mpsc::Sender<v1::WorkRequest>, frame: Up) {
    frames.send(v1::WorkRequest { received_seq: 0, frame: Some(frame) }).await.expect("the stream is open");
}

/// The next frame that is no beat.
async fn hear(stream: &mut Streaming<v1::WorkResponse>) -> Down {
    loop {
        let response = soon(stream.message()).await.expect("no error").expect("a frame");
        match response.frame.expect("a kind that is known") {
            Down::BeatAck(_) => {}
            frame => return frame,
        }
    }
}

fn hello(max_jobs: u32) -> v1::Hello {
    v1::Hello {
        min_protocol: 1,
        max_protocol: 1,
        instance_id: "by hand".into(),
        tasks: vec![v1::TaskRegistration { task: "send".into(), max_concurrent: 0 }],
        capacity: Some(v1::Capacity { revision: 1, max_jobs, ..v1::Capacity::default() }),
        ..v1::Hello::default()
    }
}

#[tokio::test]
async fn a_thousand_workers_of_a_relay_are_one_link_of_the_owner() {
    let brokers = Brokers::in_memory(2).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(brokers.workers(1).await);
    }
    let mut streams = Vec::new();
    for number in 0..1_000 {
        let (frames, to_send) = mpsc::channel(1);
        say(&frames, Up::Hello(hello(0))).await;
        let stream = clients[number % 4].work(ReceiverStream::new(to_send)).await.expect("a stream").into_inner();
        streams.push((frames, stream));
    }
    for (_, stream) in &mut streams {
        assert!(matches!(hear(stream).await, Down::Welcome(_)));
    }
    let relayed = soon(async {
        loop {
            let list = brokers.admin(0).await.list_brokers(v1::ListBrokersRequest {}).await;
            let listed = list.expect("a list").into_inner().brokers;
            if listed[1].relayed_streams == 1_000 {
                return listed.len() - 1;
            }
        }
    })
    .await;
    assert_eq!(relayed, 1);
}

#[tokio::test]
async fn a_worker_that_does_not_read_holds_up_nobody_else() {
    let brokers = Brokers::in_memory(2).await;
    let mut jobs = brokers.jobs(1).await;
    // Far more bytes than a stream may have under way, and all the credit that this worker gave.
    let (_silent, stuck) = worker(&brokers, 1, hello(100)).await;
    let args = format!("\"{}\"", "x".repeat(200 << 10));
    for _ in 0..100 {
        let mut call = defer("send");
        call.job.as_mut().expect("a job").args = args.clone().into();
        jobs.defer_job(call).await.expect("a job");
    }
    let (frames, mut reads) = worker(&brokers, 1, hello(1)).await;
    let id = jobs.defer_job(defer("send")).await.expect("a job").into_inner().job_id;
    let Down::Jobs(next) = hear(&mut reads).await else { panic!("no job") };
    assert_eq!(next.deliveries.iter().map(|delivery| delivery.job_id).collect::<Vec<_>>(), [id]);
    let succeeded = next.deliveries.into_iter().map(|delivery| delivery.lease_token).collect();
    say(&frames, Up::Results(v1::JobResults { results_seq: 1, succeeded, results: Vec::new() })).await;
    assert!(matches!(hear(&mut reads).await, Down::SettleAck(_)));
    drop(stuck);
}

#[tokio::test]
async fn a_worker_that_closes_its_side_gets_its_last_acknowledgement_first() {
    let brokers = Brokers::in_memory(2).await;
    let (frames, mut stream) = worker(&brokers, 1, hello(1)).await;
    brokers.jobs(0).await.defer_job(defer("send")).await.expect("a job");
    let Down::Jobs(jobs) = hear(&mut stream).await else { panic!("no job") };
    let succeeded = jobs.deliveries.into_iter().map(|delivery| delivery.lease_token).collect();
    say(&frames, Up::Results(v1::JobResults { results_seq: 1, succeeded, results: Vec::new() })).await;
    assert!(matches!(hear(&mut stream).await, Down::SettleAck(_)));
    drop(frames);
    assert!(soon(stream.message()).await.expect("a planned end").is_none());
}

#[tokio::test]
async fn a_worker_that_knows_nothing_of_new_owners_is_told_to_connect_again() {
    let brokers = Brokers::in_memory(3).await;
    let (_frames, mut stream) = worker(&brokers, 1, hello(1)).await;
    brokers.admin(0).await.hand_over(v1::HandOverRequest::default()).await.expect("another owner");
    let Down::Goodbye(goodbye) = hear(&mut stream).await else { panic!("no farewell") };
    assert_eq!(goodbye.status.expect("a reason").code, tonic::Code::Unavailable as i32);
}

#[tokio::test]
async fn a_worker_that_knows_it_introduces_itself_again_and_keeps_its_lease() {
    let brokers = Brokers::in_memory(3).await;
    let knows = v1::Hello { capabilities: vec!["owner-changed".into()], ..hello(1) };
    // At the owner that is to go, and at a relay.
    for number in [0, 1] {
        let (frames, to_send) = mpsc::channel(16);
        say(&frames, Up::Hello(knows.clone())).await;
        let stream = brokers.workers(number).await.work(ReceiverStream::new(to_send)).await;
        let mut stream = stream.expect("a stream").into_inner();
        let Down::Welcome(welcome) = hear(&mut stream).await else { panic!("not welcome") };
        let mut jobs = brokers.jobs(2).await;
        let id = jobs.defer_job(defer("send")).await.expect("a job").into_inner().job_id;
        let Down::Jobs(delivered) = hear(&mut stream).await else { panic!("no job") };
        let token = delivered.deliveries[0].lease_token.clone();
        let owner = brokers.owner();
        brokers.admin(owner).await.hand_over(v1::HandOverRequest::default()).await.expect("another owner");
        assert!(matches!(hear(&mut stream).await, Down::OwnerChanged(_)));
        let resume = v1::Resume {
            session_id: welcome.session_id,
            resume_token: welcome.resume_token,
            lease_tokens: vec![token.clone()],
        };
        say(&frames, Up::Hello(v1::Hello { resume: Some(resume), ..knows.clone() })).await;
        let Down::Welcome(again) = hear(&mut stream).await else { panic!("not welcome again") };
        assert!(again.resumed && again.lost_lease_tokens.is_empty());
        say(&frames, Up::Results(v1::JobResults { results_seq: 1, succeeded: vec![token], results: Vec::new() })).await;
        assert!(matches!(hear(&mut stream).await, Down::SettleAck(_)));
        let job = jobs.get_job(v1::GetJobRequest { job_id: id, ..v1::GetJobRequest::default() }).await;
        let job = job.expect("a job").into_inner().job.expect("a job");
        assert_eq!((job.state(), job.attempts), (v1::JobState::Succeeded, 1));
        brokers.settle().await;
    }
}

#[tokio::test]
async fn workers_of_a_relay_are_not_sent_away_when_the_owner_stops() {
    let mut brokers = Brokers::in_memory(3).await;
    let knows = v1::Hello { capabilities: vec!["owner-changed".into()], ..hello(1) };
    let (_frames, mut stream) = worker(&brokers, 1, knows).await;
    soon(brokers.all.remove(0).shutdown()).await.expect("it stops in order");
    assert!(matches!(hear(&mut stream).await, Down::OwnerChanged(_)));
}
