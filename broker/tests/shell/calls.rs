//! Unary calls, health and the second port.

use std::time::Duration;

use cabbage_broker::core::job::JobSpec;
use cabbage_proto::v1::{self, job_spec::Due};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::peer::{Peer, hello, job};

fn reason(status: &tonic::Status) -> String {
    status.get_details_error_info().expect("every status has an ErrorInfo").reason
}

#[tokio::test]
async fn the_same_request_id_gives_the_same_answer_and_other_content_none() {
    let peer = Peer::start().await;
    let call = |args: &str| v1::DeferJobRequest { job: Some(job("send", args)), request_id: "one".into() };
    let first = peer.jobs().defer_job(call("1")).await.expect("a valid job").into_inner();
    let again = peer.jobs().defer_job(call("1")).await.expect("a valid job").into_inner();
    assert_eq!((again.job_id, again.repeated_call, first.repeated_call), (first.job_id, true, false));
    let other = peer.jobs().defer_job(call("2")).await.expect_err("other content");
    assert_eq!((other.code(), reason(&other).as_str()), (Code::AlreadyExists, "REQUEST_ID_REUSED"));
}

#[tokio::test]
async fn a_taken_queueing_lock_names_its_job() {
    let peer = Peer::start().await;
    let spec = v1::JobSpec { queueing_lock: "one".into(), ..job("send", "{}") };
    let id = peer.defer(spec.clone()).await;
    let request = v1::DeferJobRequest { job: Some(spec), request_id: String::new() };
    let status = peer.jobs().defer_job(request).await.expect_err("it is taken");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "QUEUEING_LOCK_TAKEN"));
    assert_eq!(status.get_details_error_info().expect("details").metadata["job_id"], id.to_string());
}

#[tokio::test]
async fn a_batch_is_all_or_nothing_unless_its_items_are_independent() {
    let peer = Peer::start().await;
    let item = |task: &str| v1::BatchItem { job: Some(job(task, "{}")), request_id: String::new() };
    let items = vec![item("send"), item("")];
    let request = v1::BatchDeferJobsRequest { items: items.clone(), ..Default::default() };
    let status = peer.jobs().batch_defer_jobs(request).await.expect_err("one is not valid");
    let violations = status.get_details_bad_request().expect("a BadRequest").field_violations;
    assert_eq!(violations[0].field, "items[1].job.task");
    let request = v1::BatchDeferJobsRequest { items, independent: true, ..Default::default() };
    let answer = peer.jobs().batch_defer_jobs(request).await.expect("each for itself").into_inner();
    assert!(matches!(answer.results[0].result, Some(v1::batch_item_result::Result::JobId(_))));
    assert!(matches!(answer.results[1].result, Some(v1::batch_item_result::Result::Error(_))));
    let items = vec![item("send"), item("send")];
    let request = v1::BatchDeferJobsRequest { items, ..Default::default() };
    assert_eq!(peer.jobs().batch_defer_jobs(request).await.expect("valid").into_inner().job_ids.len(), 2);
}

#[tokio::test]
async fn a_wait_ends_with_the_job() {
    let peer = Peer::start().await;
    let id = peer.defer(job("send", "{}")).await;
    let wait = move |milliseconds: u64| v1::WaitJobRequest {
        job_id: id,
        max_wait: Some(prost_types::Duration::try_from(Duration::from_millis(milliseconds)).expect("a duration")),
    };
    let early = peer.jobs().wait_job(wait(1)).await.expect("an answer").into_inner();
    assert!(!early.is_final && early.job.expect("a job").state() == v1::JobState::Waiting);
    let mut jobs = peer.jobs();
    let waits = tokio::spawn(async move { jobs.wait_job(wait(10_000)).await });
    let (mut worker, _) = peer.worker(hello("send", 1)).await;
    let token = worker.jobs(1).await[0].1.lease_token.clone();
    worker.succeed(1, vec![token]).await;
    let ended = waits.await.expect("no panic").expect("an answer").into_inner();
    assert!(ended.is_final && ended.job.expect("a job").state() == v1::JobState::Succeeded);
}

#[tokio::test]
async fn a_job_that_waits_says_what_for_and_can_be_cancelled() {
    let peer = Peer::start().await;
    let id = peer.defer(job("send", r#"{"a":1}"#)).await;
    let shown = peer.job(id).await;
    assert_eq!((shown.state(), shown.waiting_for()), (v1::JobState::Waiting, v1::WaitingFor::Unserved));
    let spec = shown.spec.expect("a spec");
    assert_eq!((&spec.args[..], spec.queue.as_str()), (&br#"{"a":1}"#[..], "default"));
    let request = v1::CancelJobRequest { job_id: id, ..Default::default() };
    let answer = peer.jobs().cancel_job(request).await.expect("an answer").into_inner();
    assert_eq!(answer.state(), v1::JobState::Cancelled);
    assert_eq!(peer.job(id).await.state(), v1::JobState::Cancelled);
    let nothing = peer.jobs().cancel_job(v1::CancelJobRequest { job_id: 4_711, ..Default::default() }).await;
    assert_eq!(reason(&nothing.expect_err("no such job")), "JOB_NOT_FOUND");
}

#[tokio::test]
async fn a_list_goes_on_page_by_page_with_the_same_filters_only() {
    let peer = Peer::start().await;
    for _ in 0..5 {
        peer.defer(job("send", "{}")).await;
    }
    let mut request = v1::ListJobsRequest { page_size: 2, states: vec![2], ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let page = peer.jobs().list_jobs(request.clone()).await.expect("a page").into_inner();
        seen.extend(page.jobs.iter().map(|job| job.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert!(seen.len() == 5 && seen.is_sorted_by(|one, next| one > next), "{seen:?}");
    request.queue = "other".into();
    let status = peer.jobs().list_jobs(request).await.expect_err("another list");
    assert_eq!(reason(&status), "INVALID_FIELD");
}

#[tokio::test]
async fn what_is_not_served_says_so_with_a_reason() {
    let peer = Peer::start().await;
    let mut admin = v1::admin_service_client::AdminServiceClient::new(peer.channel.clone());
    let status = admin.list_sessions(v1::ListSessionsRequest::default()).await.expect_err("not yet");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unimplemented, "NOT_IMPLEMENTED"));
}

#[tokio::test]
async fn health_is_told_by_grpc_and_http() {
    let peer = Peer::start().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(peer.channel.clone());
    for service in ["", "cabbage.v1.JobService", "cabbage.v1.WorkerService"] {
        let mut watch = health
            .watch(tonic_health::pb::HealthCheckRequest { service: service.into() })
            .await
            .expect("a known service")
            .into_inner();
        while watch.message().await.expect("an answer").expect("no end").status != 1 {}
    }
    assert!(peer.get("/livez").await.starts_with("HTTP/1.1 200"));
    assert!(peer.get("/readyz").await.contains("ready: owns the cell, term 1"));
    peer.defer(job("send", "{}")).await;
    let metrics = peer.get("/metrics").await;
    assert!(metrics.contains("cabbage_jobs_deferred_total") && metrics.contains("cabbage_leader"), "{metrics}");
}

#[tokio::test]
async fn metrics_show_the_unfinished_jobs_of_a_hundred_queues_and_of_the_others_together() {
    let peer = Peer::start().await;
    assert!(!peer.get("/metrics").await.contains("cabbage_jobs_unfinished"), "there is no queue");
    let (mut worker, _) = peer.worker(hello("send", 1)).await;
    for number in 0..103 {
        peer.defer(v1::JobSpec { queue: format!("q{number}"), ..job("send", "{}") }).await;
    }
    let later = Some(Due::ScheduleIn(prost_types::Duration { seconds: 3_600, nanos: 0 }));
    peer.defer(v1::JobSpec { queue: "q0".into(), due: later, ..job("send", "{}") }).await;
    peer.defer(v1::JobSpec { queue: "q1".into(), ..job("of nobody", "{}") }).await;
    let token = worker.jobs(1).await.remove(0).1.lease_token;
    let metrics = peer.get("/metrics").await;
    for (queue, state, count) in [
        ("q0", "running", 1),
        ("q0", "scheduled", 1),
        ("q0", "limited", 0),
        ("q1", "limited", 1),
        ("q1", "unserved", 1),
        ("q99", "limited", 1),
        ("", "limited", 3),
        ("", "running", 0),
    ] {
        let line = format!("cabbage_jobs_unfinished{{queue=\"{queue}\",state=\"{state}\"}} {count}\n");
        assert!(metrics.contains(&line), "no {line} in:\n{metrics}");
    }
    assert!(!metrics.contains("\"q100\""), "{metrics}");
    worker.succeed(1, vec![token]).await;
    let metrics = peer.get("/metrics").await;
    assert!(metrics.contains("cabbage_jobs_unfinished{queue=\"q0\",state=\"running\"} 0\n"), "{metrics}");
}

#[tokio::test]
async fn a_job_from_the_inbox_runs_like_any_other() {
    let (peer, store) = Peer::start_in_memory().await;
    let spec = JobSpec {
        args: bytes::Bytes::from_static(b" [1] "),
        queueing_lock: Some("one".into()),
        ..JobSpec::plain("send", "default")
    };
    let (first, second) = (store.defer(spec.clone()), store.defer(spec));
    let (mut worker, _) = peer.worker(hello("send", 1)).await;
    let delivered = worker.jobs(1).await.remove(0).1;
    assert_eq!((delivered.job_id, &delivered.args[..]), (first.0, &b" [1] "[..]));
    // The bell may have been heard before both were there: then the second comes with the next look.
    let wait = v1::WaitJobRequest { job_id: second.0, max_wait: None };
    let ended = peer.jobs().wait_job(wait).await.expect("an answer").into_inner();
    let job = ended.job.expect("a job");
    assert_eq!(
        (job.state(), job.last_attempt.expect("an end").reason.as_str()),
        (v1::JobState::Cancelled, "DUPLICATE")
    );
}
