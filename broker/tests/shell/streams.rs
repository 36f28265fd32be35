//! Streams of workers.

use bytes::Bytes;
use cabbage_proto::v1::{self, work_request, work_response::Frame};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::peer::{Peer, Worker, hello, job};

fn reason(status: &tonic::Status) -> String {
    status.get_details_error_info().expect("every status has an ErrorInfo").reason
}

#[tokio::test]
async fn a_job_goes_to_a_worker_and_its_result_is_kept() {
    let peer = Peer::start().await;
    let (mut worker, welcome) = peer.worker(hello("send", 10)).await;
    assert!(!welcome.resumed && welcome.protocol == 1);
    let id = peer.defer(job("send", r#"{"to": "all"}"#)).await;
    let jobs = worker.jobs(1).await;
    let (task, delivery) = &jobs[0];
    assert_eq!((task.as_str(), delivery.job_id, &delivery.args[..]), ("send", id, &br#"{"to": "all"}"#[..]));
    assert_eq!(peer.job(id).await.state(), v1::JobState::Running);
    let succeeded = v1::Succeeded { result: Bytes::from_static(b"[1]") };
    let result = v1::JobResult {
        lease_token: delivery.lease_token.clone(),
        outcome: Some(v1::job_result::Outcome::Succeeded(succeeded)),
    };
    let results = v1::JobResults { results_seq: 1, succeeded: Vec::new(), results: vec![result.clone()] };
    worker.say(work_request::Frame::Results(results)).await;
    assert_eq!(worker.ack().await, v1::SettleAck { recorded_through: 1, ..Default::default() });
    let shown = peer.job(id).await;
    assert_eq!((shown.state(), shown.attempts), (v1::JobState::Succeeded, 1));
    assert_eq!(&shown.last_attempt.expect("an attempt").result[..], b"[1]");
    // Again, as a call: nothing changes (C6).
    let again = peer.workers().settle_jobs(v1::SettleJobsRequest { results: vec![result] }).await.expect("an answer");
    assert_eq!(again.into_inner().results[0].code(), v1::SettleCode::AlreadyRecorded);
}

#[tokio::test]
async fn jobs_that_waited_come_when_a_worker_does_and_in_order() {
    let peer = Peer::start().await;
    let mut ids = Vec::new();
    for number in 0..50 {
        ids.push(peer.defer(job("send", &number.to_string())).await);
    }
    let (mut worker, _) = peer.worker(hello("send", 20)).await;
    let first = worker.jobs(20).await;
    assert_eq!(first.iter().map(|(_, delivery)| delivery.job_id).collect::<Vec<_>>(), ids[..20]);
    let tokens = first.iter().map(|(_, delivery)| delivery.lease_token.clone()).collect();
    let results = v1::JobResults { results_seq: 1, succeeded: tokens, results: Vec::new() };
    worker.say(work_request::Frame::Results(results)).await;
    // The acknowledgement and the next jobs come after the same commit; control goes first.
    assert_eq!(worker.ack().await.recorded_through, 1);
    let second = worker.jobs(20).await;
    assert_eq!(second.iter().map(|(_, delivery)| delivery.job_id).collect::<Vec<_>>(), ids[20..40]);
    assert_eq!(&second[0].1.args[..], b"20");
}

#[tokio::test]
async fn arguments_that_the_cache_did_not_keep_are_read_again() {
    let peer = Peer::start_with(|args| args.memory.memory_arguments_mib = 0).await;
    let ids = [peer.defer(job("send", "[1]")).await, peer.defer(job("send", "[2]")).await];
    let (mut worker, _) = peer.worker(hello("send", 10)).await;
    let jobs = worker.jobs(2).await;
    assert_eq!(jobs.iter().map(|(_, delivery)| delivery.job_id).collect::<Vec<_>>(), ids);
    assert_eq!((&jobs[0].1.args[..], &jobs[1].1.args[..]), (&b"[1]"[..], &b"[2]"[..]));
}

#[tokio::test]
async fn a_beat_is_answered() {
    let peer = Peer::start().await;
    let (mut worker, _) = peer.worker(hello("send", 10)).await;
    worker.say(work_request::Frame::Beat(v1::Beat { number: 7, in_flight: 0 })).await;
    assert_eq!(worker.hear().await, Frame::BeatAck(v1::BeatAck { number: 7 }));
}

#[tokio::test]
async fn a_bad_result_does_not_stop_its_neighbours() {
    let peer = Peer::start().await;
    let (mut worker, _) = peer.worker(hello("send", 10)).await;
    let good = peer.defer(job("send", "1")).await;
    let bad = peer.defer(job("send", "2")).await;
    let jobs = worker.jobs(2).await;
    let token = |id| jobs.iter().find(|(_, delivery)| delivery.job_id == id).expect("it came").1.lease_token.clone();
    let succeeded = v1::Succeeded { result: Bytes::from_static(b"no json") };
    let unrecordable =
        v1::JobResult { lease_token: token(bad), outcome: Some(v1::job_result::Outcome::Succeeded(succeeded)) };
    let no_token = Bytes::from_static(b"no token");
    let results =
        v1::JobResults { results_seq: 1, succeeded: vec![no_token.clone(), token(good)], results: vec![unrecordable] };
    worker.say(work_request::Frame::Results(results)).await;
    let mut exceptions = Vec::new();
    loop {
        let ack = worker.ack().await;
        exceptions.extend(ack.exceptions.into_iter().map(|result| (result.lease_token.clone(), result.code())));
        if ack.recorded_through == 1 {
            break;
        }
    }
    assert!(exceptions.contains(&(no_token, v1::SettleCode::InvalidToken)), "{exceptions:?}");
    assert!(exceptions.contains(&(token(bad), v1::SettleCode::Unrecordable)), "{exceptions:?}");
    assert_eq!(exceptions.len(), 2);
    assert_eq!(peer.job(good).await.state(), v1::JobState::Succeeded);
    let failed = peer.job(bad).await;
    assert_eq!(failed.state(), v1::JobState::Failed);
    assert_eq!(failed.last_attempt.expect("an attempt").reason, "UNRECORDABLE");
}

async fn is_refused(mut worker: Worker, code: Code, expected: &str) {
    let (goodbye, end) = worker.end().await;
    let status = end.expect_err("the stream ends with the same status");
    assert_eq!((status.code(), reason(&status).as_str()), (code, expected));
    assert_eq!(goodbye.code, i32::from(code));
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_stream_with_its_reason_and_harms_nobody_else() {
    let peer = Peer::start().await;
    let (mut bystander, _) = peer.worker(hello("send", 10)).await;

    let early = peer.stream().await;
    early.say(work_request::Frame::Beat(v1::Beat::default())).await;
    is_refused(early, Code::InvalidArgument, "HELLO_EXPECTED").await;

    let newer = peer.stream().await;
    newer.say(work_request::Frame::Hello(v1::Hello { min_protocol: 2, max_protocol: 3, ..hello("send", 1) })).await;
    is_refused(newer, Code::FailedPrecondition, "PROTOCOL_UNSUPPORTED").await;

    let (twice, _) = peer.worker(hello("send", 0)).await;
    twice.say(work_request::Frame::Hello(hello("send", 0))).await;
    is_refused(twice, Code::InvalidArgument, "HELLO_TWICE").await;

    let (greedy, _) = peer.worker(hello("send", 0)).await;
    let window = v1::Capacity { revision: 2, max_jobs: 100_001, ..v1::Capacity::default() };
    greedy.say(work_request::Frame::Capacity(window)).await;
    is_refused(greedy, Code::InvalidArgument, "INVALID_FIELD").await;

    let (skips, _) = peer.worker(hello("send", 0)).await;
    skips.say(work_request::Frame::Results(v1::JobResults { results_seq: 2, ..Default::default() })).await;
    is_refused(skips, Code::InvalidArgument, "FRAME_OUT_OF_ORDER").await;

    let (odd, _) = peer.worker(hello("send", 0)).await;
    odd.say(work_request::Frame::Progress(v1::JobProgress::default())).await;
    odd.say(work_request::Frame::Drain(v1::Drain::default())).await;

    let id = peer.defer(job("send", "{}")).await;
    assert_eq!(bystander.jobs(1).await[0].1.job_id, id);
}

#[tokio::test]
async fn a_worker_that_drains_and_closes_ends_with_ok() {
    let peer = Peer::start().await;
    let (mut worker, _) = peer.worker(hello("send", 10)).await;
    peer.defer(job("send", "{}")).await;
    let token = worker.jobs(1).await[0].1.lease_token.clone();
    worker.say(work_request::Frame::Drain(v1::Drain { reason: "deploy".into() })).await;
    assert_eq!(worker.hear().await, Frame::DrainAck(v1::DrainAck { last_seq: 1 }));
    assert_eq!(worker.succeed(1, vec![token]).await.recorded_through, 1);
    assert_eq!(worker.close().await.expect("a planned end"), None);
}

#[tokio::test]
async fn a_worker_resumes_its_session_and_keeps_its_job() {
    let peer = Peer::start().await;
    let (mut worker, welcome) = peer.worker(hello("send", 10)).await;
    let id = peer.defer(job("send", "{}")).await;
    let token = worker.jobs(1).await[0].1.lease_token.clone();
    drop(worker);
    let resume = v1::Resume {
        session_id: welcome.session_id.clone(),
        resume_token: welcome.resume_token,
        lease_tokens: vec![token.clone()],
    };
    let (mut worker, again) = peer.worker(v1::Hello { resume: Some(resume), ..hello("send", 10) }).await;
    assert!(again.resumed && again.session_id == welcome.session_id && again.lost_lease_tokens.is_empty());
    assert_eq!(worker.succeed(1, vec![token]).await.recorded_through, 1);
    assert_eq!(peer.job(id).await.state(), v1::JobState::Succeeded);
}

#[tokio::test]
async fn a_stop_tells_workers_and_ends_their_streams_as_planned() {
    let peer = Peer::start().await;
    let (mut worker, _) = peer.worker(hello("send", 10)).await;
    let Peer { broker, channel, .. } = peer;
    drop(channel);
    let stopped = tokio::spawn(broker.shutdown());
    let Frame::BrokerDrain(drain) = worker.hear().await else { panic!("the worker is told") };
    assert_eq!(drain.reason(), v1::DrainReason::Shutdown);
    let (goodbye, end) = worker.end().await;
    assert_eq!(goodbye.code, 0);
    end.expect("a planned end");
    drop(worker);
    stopped.await.expect("no panic").expect("it stops in time");
}

#[tokio::test]
async fn a_silent_worker_is_told_so_and_its_job_goes_to_another() {
    let peer = Peer::start_with(|args| {
        args.intervals.beat_ms = 50;
        args.intervals.watchdog_ms = 200;
        args.intervals.grace_ms = 300;
        args.intervals.session_ms = 400;
    })
    .await;
    let (mut silent, _) = peer.worker(hello("send", 10)).await;
    let id = peer.defer(job("send", "{}")).await;
    assert_eq!(silent.jobs(1).await[0].1.job_id, id);
    is_refused(silent, Code::DeadlineExceeded, "SESSION_SILENT").await;
    let (mut other, _) = peer.worker(hello("send", 10)).await;
    let jobs = other.jobs_with_beats().await;
    assert_eq!((jobs[0].1.job_id, jobs[0].1.delivery), (id, 2));
}
