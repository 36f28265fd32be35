//! What a newer version might send: fields, frames and values of enums that this broker does not know.

use bytes::Bytes;
use cabbage_proto::v1::{self, work_request::Frame as Up, work_response::Frame as Down};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    raw::{self, call_with, field, fields_of_the_future},
    refused::refused,
    scene::Scene,
    worker::{hello, job},
};

/// A frame of a worker with unknown fields in all its parts.
fn frame(number: u32, content: &impl prost::Message) -> Bytes {
    let content = [content.encode_to_vec(), fields_of_the_future()].concat();
    [field(number, &content), fields_of_the_future()].concat().into()
}

#[tokio::test]
async fn fields_that_are_not_known_are_passed_over() {
    let scene = Scene::start().await;
    let spec = [job("unknown").encode_to_vec(), fields_of_the_future()].concat();
    let behind = [field(1, &spec), fields_of_the_future()].concat();
    let (method, empty) = ("/cabbage.v1.JobService/DeferJob", v1::DeferJobRequest::default());
    let deferred: v1::DeferJobResponse = call_with(&scene.channel, method, &empty, &behind).await.expect("a valid job");
    assert_eq!(scene.shown(deferred.job_id).await.spec.expect("a spec").task, "unknown");

    let (sender, frames) = mpsc::channel(8);
    let mut answers = raw::stream(&scene.channel, ReceiverStream::new(frames)).await.expect("a stream");
    sender.send(frame(2, &hello("unknown", 1))).await.expect("it is open");
    let mut hear = async || {
        let bytes = answers.message().await.expect("no error").expect("a frame");
        v1::WorkResponse::decode(bytes).expect("a frame of a broker").frame.expect("a known frame")
    };
    assert!(matches!(hear().await, Down::Welcome(_)));
    let Down::Jobs(jobs) = hear().await else { panic!("a job waits") };
    let token = jobs.deliveries[0].lease_token.clone();
    sender.send(frame(3, &v1::Capacity { revision: 2, max_jobs: 2, ..Default::default() })).await.expect("open");
    sender
        .send(frame(5, &v1::JobResults { results_seq: 1, succeeded: vec![token], results: vec![] }))
        .await
        .expect("open");
    assert_eq!(hear().await, Down::SettleAck(v1::SettleAck { recorded_through: 1, ..Default::default() }));
    assert_eq!(scene.shown(deferred.job_id).await.state(), v1::JobState::Succeeded);
    scene.stays_well().await;
}

#[tokio::test]
async fn frames_that_are_not_known_are_passed_over_and_counted() {
    let scene = Scene::start().await;
    let (sender, frames) = mpsc::channel(8);
    let mut answers = raw::stream(&scene.channel, ReceiverStream::new(frames)).await.expect("a stream");
    let say = async |bytes: Vec<u8>| sender.send(bytes.into()).await.expect("it is open");
    let hello = v1::WorkRequest { received_seq: 0, frame: Some(Up::Hello(hello("unknown", 1))) };
    say(hello.encode_to_vec()).await;
    say(field(99, b"a frame of the future")).await;
    say(Vec::new()).await;
    let progress = v1::JobProgress { percent: 1_000_000, message: "x".repeat(1 << 20), ..Default::default() };
    say(v1::WorkRequest { received_seq: 0, frame: Some(Up::Progress(progress)) }.encode_to_vec()).await;
    say(v1::WorkRequest { received_seq: 0, frame: Some(Up::Beat(v1::Beat { number: 7, in_flight: 0 })) }
        .encode_to_vec())
    .await;
    loop {
        let bytes = answers.message().await.expect("no error").expect("the stream goes on");
        let frame = v1::WorkResponse::decode(bytes).expect("a frame of a broker").frame;
        if frame == Some(Down::BeatAck(v1::BeatAck { number: 7 })) {
            break;
        }
    }
    assert!((scene.metric("cabbage_unknown_frames_total").await - 3.0).abs() < 0.1);
    scene.stays_well().await;
}

#[tokio::test]
async fn values_of_enums_that_are_not_known_are_refused_and_named() {
    let scene = Scene::start().await;
    for value in [-1, 3, 77, i32::MAX] {
        refused(scene.try_defer(v1::JobSpec { lock_mode: value, ..job("unknown") }).await).names("job.lock_mode", &[]);
    }
    for value in [-1, 0, 7, i32::MAX] {
        let list = v1::ListJobsRequest { states: vec![value], ..Default::default() };
        refused(scene.jobs().list_jobs(list).await).names("states", &["leave it out"]);
    }
    for value in [-1, 4, 77, i32::MAX] {
        let spec = v1::JobSpec { queueing_conflict: value, ..job("unknown") };
        refused(scene.try_defer(spec).await).names("job.queueing_conflict", &[]);
    }
    let strict = v1::JobSpec { lock_mode: v1::LockMode::Strict.into(), ..job("unknown") };
    refused(scene.try_defer(strict).await).names("job.lock_mode", &["name the lock"]);
    scene.stays_well().await;
}
