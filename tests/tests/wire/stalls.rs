//! Workers that stop in the middle: they do not read, do not speak, or close one side.

use std::time::Duration;

use bytes::Bytes;
use cabbage_broker::BrokerArgs;
use cabbage_proto::v1::{self, work_request::Frame as Up};
use tonic::Code;

use crate::{
    scene::Scene,
    worker::{Worker, job},
};

/// Intervals that do not make a test wait for long.
fn impatient(args: &mut BrokerArgs) {
    args.intervals.beat_ms = 100;
    args.intervals.watchdog_ms = 1_500;
    args.intervals.grace_ms = 2_000;
    args.intervals.session_ms = 3_000;
}

#[tokio::test]
async fn a_worker_that_does_not_read_keeps_nobody_from_working() {
    let scene = Scene::start().await;
    let stalled = scene.worker("stalls", 100_000).await;
    let args = Bytes::from(format!("\"{}\"", "x".repeat(100_000)));
    let item = v1::BatchItem { job: Some(v1::JobSpec { args, ..job("stalls") }), request_id: String::new() };
    // 40 MB, far more than connections and streams hold in their windows.
    for _ in 0..10 {
        let batch = v1::BatchDeferJobsRequest { items: vec![item.clone(); 40], ..Default::default() };
        scene.jobs().batch_defer_jobs(batch).await.expect("a valid batch");
    }
    // Somebody else with the same task, on the same connection, works.
    let mut other = scene.worker("stalls", 10).await;
    let id = scene.defer(v1::JobSpec { queue: "other".into(), ..job("other") }).await;
    let mut third = scene.worker("other", 1).await;
    let delivery = third.job().await;
    assert_eq!(delivery.job_id, id);
    assert_eq!(third.settle(vec![delivery.lease_token], Vec::new()).await, []);
    other.say(Up::Beat(v1::Beat { number: 1, in_flight: 0 })).await;
    other.hear().await;
    scene.stays_well().await;
    drop(stalled);
}

#[tokio::test]
async fn beats_of_a_worker_that_does_not_read_are_not_kept() {
    let scene = Scene::start().await;
    let stalled = scene.worker("stalls", 1).await;
    // As many as a client of HTTP/2 takes before it gives up by itself.
    for number in 1..20_000 {
        stalled.say(Up::Beat(v1::Beat { number, in_flight: 0 })).await;
    }
    scene.stays_well().await;
    drop(stalled);
}

#[tokio::test]
async fn a_worker_that_falls_silent_is_told_and_its_job_goes_to_another() {
    let scene = Scene::start_with(impatient).await;
    let mut silent = scene.worker("stalls", 1).await;
    let id = scene.defer(job("stalls")).await;
    assert_eq!(silent.job().await.job_id, id);
    silent.refused().await.is(Code::DeadlineExceeded, "SESSION_SILENT");
    drop(silent);
    let mut next = beating(&scene).await;
    let delivery = next.job().await;
    assert_eq!(delivery.job_id, id);
    assert_eq!(next.settle(vec![delivery.lease_token], Vec::new()).await, []);
    scene.stays_well().await;
}

#[tokio::test]
async fn a_worker_that_closes_its_side_ends_as_planned_and_its_job_goes_to_another() {
    let scene = Scene::start_with(impatient).await;
    let mut half = scene.worker("stalls", 1).await;
    let id = scene.defer(job("stalls")).await;
    assert_eq!(half.job().await.job_id, id);
    half.close().await;
    let mut next = beating(&scene).await;
    let delivery = next.job().await;
    assert_eq!((delivery.job_id, delivery.delivery), (id, 2));
    assert_eq!(next.settle(vec![delivery.lease_token], Vec::new()).await, []);
    scene.stays_well().await;
}

/// A worker that is given the job of another: until then it shows that it lives.
async fn beating(scene: &Scene) -> Worker {
    let mut interval = tokio::time::interval(Duration::from_millis(200));
    let mut worker = scene.worker("stalls", 1).await;
    loop {
        tokio::select! {
            frame = worker.next() => match frame.expect("no error").expect("it goes on") {
                v1::work_response::Frame::Jobs(jobs) => {
                    worker.took(jobs);
                    return worker;
                }
                v1::work_response::Frame::BeatAck(_) => {}
                other => panic!("jobs were expected: {other:?}"),
            },
            _ = interval.tick() => worker.say(Up::Beat(v1::Beat { number: 1, in_flight: 0 })).await,
        }
    }
}
