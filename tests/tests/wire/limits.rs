//! Limits: each holds at its edge, and one over is refused with the field, the limit and what to do.

use std::collections::HashMap;

use bytes::Bytes;
use cabbage_proto::v1;
use tonic::Code;

use crate::{
    raw,
    refused::refused,
    scene::Scene,
    worker::{hello, job},
};

/// A change of a job that puts one of its fields to a size.
type Resize = fn(&mut v1::JobSpec, usize);

/// The field, its limit, what is said of one over, and how to get there.
const SIZES: [(&str, usize, &str, Resize); 14] = [
    ("job.args", 256 << 10, "make it shorter", |job, size| job.args = text(size)),
    ("job.args", 64, "nested more than", |job, depth| {
        job.args = format!("{}{}", r#"{"a":"#.repeat(depth - 1) + "[", "]".to_owned() + &"}".repeat(depth - 1)).into();
    }),
    ("job.task", 128, "make it shorter", |job, size| job.task = "t".repeat(size)),
    ("job.queue", 128, "make it shorter", |job, size| job.queue = "q".repeat(size)),
    ("job.lock", 255, "make it shorter", |job, size| job.lock = "l".repeat(size)),
    ("job.queueing_lock", 255, "make it shorter", |job, size| job.queueing_lock = "l".repeat(size)),
    ("job.traceparent", 512, "make it shorter", |job, size| job.traceparent = "0".repeat(size)),
    ("job.tracestate", 512, "make it shorter", |job, size| job.tracestate = "0".repeat(size)),
    ("job.metadata", 32, "send fewer at once", |job, count| job.metadata = labels(count)),
    ("job.metadata", 128, "make it shorter", |job, size| {
        job.metadata = [("k".repeat(size), String::new())].into();
    }),
    ("job.metadata", 1 << 10, "make it shorter", |job, size| {
        job.metadata = [("k".to_owned(), "v".repeat(size))].into();
    }),
    ("job.retry.only_kinds", 16, "send fewer at once", |job, count| {
        job.retry = Some(v1::RetryPolicy { only_kinds: vec!["K".into(); count], ..policy() });
    }),
    ("job.retry.never_kinds", 16, "send fewer at once", |job, count| {
        job.retry = Some(v1::RetryPolicy { never_kinds: vec!["K".into(); count], ..policy() });
    }),
    ("job.retry.never_kinds", 128, "make it shorter", |job, size| {
        job.retry = Some(v1::RetryPolicy { never_kinds: vec!["K".repeat(size)], ..policy() });
    }),
];

/// JSON text of so many bytes.
fn text(bytes: usize) -> Bytes {
    format!("\"{}\"", "x".repeat(bytes - 2)).into()
}

fn labels(count: usize) -> HashMap<String, String> {
    (0..count).map(|number| (number.to_string(), String::new())).collect()
}

/// A policy as it is shown, with nothing left to its defaults.
fn policy() -> v1::RetryPolicy {
    let zero = Some(prost_types::Duration::default());
    v1::RetryPolicy {
        max_attempts: 3,
        wait: zero,
        linear_wait: zero,
        exponential_wait: zero,
        exponential_factor: 2.0,
        max_wait: zero,
        ..v1::RetryPolicy::default()
    }
}

/// What is shown of a job that was asked for in this way.
fn with_defaults(mut job: v1::JobSpec) -> v1::JobSpec {
    if job.queue.is_empty() {
        job.queue = "default".into();
    }
    if job.args.is_empty() {
        job.args = Bytes::from_static(b"{}");
    }
    job.set_lock_mode(v1::LockMode::FirstStartable);
    job.set_queueing_conflict(v1::QueueingConflict::Reject);
    job
}

#[tokio::test]
async fn sizes_of_a_job_hold_at_the_limit_and_are_refused_one_over() {
    let scene = Scene::start().await;
    for (field, limit, remedy, resize) in SIZES {
        let mut at = job("limits");
        resize(&mut at, limit);
        let id = scene.defer(at.clone()).await;
        assert_eq!(scene.shown(id).await.spec, Some(with_defaults(at)), "{field} at {limit}");
        let mut over = job("limits");
        resize(&mut over, limit + 1);
        refused(scene.try_defer(over).await).names(field, &[&limit.to_string(), remedy]);
    }
    scene.stays_well().await;
}

#[tokio::test]
async fn priorities_go_from_minus_100_to_100() {
    let scene = Scene::start().await;
    for priority in [-100, 0, 100] {
        let id = scene.defer(v1::JobSpec { priority, ..job("limits") }).await;
        assert_eq!(scene.shown(id).await.spec.expect("a spec").priority, priority);
    }
    for priority in [-101, 101, i32::MIN, i32::MAX] {
        let refused = refused(scene.try_defer(v1::JobSpec { priority, ..job("limits") }).await);
        refused.names("job.priority", &["-100 to 100"]);
    }
    scene.stays_well().await;
}

#[tokio::test]
async fn calls_hold_a_thousand_and_not_one_more() {
    let scene = Scene::start().await;
    let batch = |count: usize, independent| v1::BatchDeferJobsRequest {
        items: vec![v1::BatchItem { job: Some(job("limits")), request_id: String::new() }; count],
        request_id: String::new(),
        independent,
    };
    for independent in [false, true] {
        let answer = scene.jobs().batch_defer_jobs(batch(1_000, independent)).await.expect("as many as may be");
        assert_eq!(answer.into_inner().job_ids.len(), 1_000);
        let refused = refused(scene.jobs().batch_defer_jobs(batch(1_001, independent)).await);
        refused.names("items", &["1000", "send fewer"]);
    }

    let list = |page_size| v1::ListJobsRequest { page_size, task: "limits".into(), ..Default::default() };
    let page = scene.jobs().list_jobs(list(1_000)).await.expect("as many as may be").into_inner();
    assert_eq!((page.jobs.len(), page.next_page_token.is_empty()), (1_000, false));
    refused(scene.jobs().list_jobs(list(1_001)).await).names("page_size", &["1000"]);
    refused(scene.jobs().list_jobs(list(u32::MAX)).await).names("page_size", &["1000"]);

    let settle = |count| v1::SettleJobsRequest { results: vec![v1::JobResult::default(); count] };
    let answer = scene.workers().settle_jobs(settle(1_000)).await.expect("as many as may be");
    assert_eq!(answer.into_inner().results.len(), 1_000);
    refused(scene.workers().settle_jobs(settle(1_001)).await).names("results", &["1000", "send fewer"]);
    scene.stays_well().await;
}

#[tokio::test]
async fn one_bad_item_names_itself_and_stops_only_a_batch_that_is_all_or_nothing() {
    let scene = Scene::start().await;
    let bad = v1::JobSpec { priority: 101, ..job("limits") };
    let items: Vec<_> = [job("limits"), bad, job("limits")]
        .map(|job| v1::BatchItem { job: Some(job), request_id: String::new() })
        .into();
    let mut batch = v1::BatchDeferJobsRequest { items, request_id: String::new(), independent: false };
    refused(scene.jobs().batch_defer_jobs(batch.clone()).await).names("items[1].job.priority", &["-100 to 100"]);
    let list = v1::ListJobsRequest { task: "limits".into(), ..Default::default() };
    assert_eq!(scene.jobs().list_jobs(list).await.expect("a page").into_inner().jobs, []);

    batch.independent = true;
    let answer = scene.jobs().batch_defer_jobs(batch).await.expect("two of three").into_inner();
    let results: Vec<_> = answer.results.into_iter().map(|item| item.result.expect("an answer")).collect();
    assert!(matches!(results[0], v1::batch_item_result::Result::JobId(_)));
    assert!(matches!(results[2], v1::batch_item_result::Result::JobId(_)));
    let v1::batch_item_result::Result::Error(error) = &results[1] else { panic!("it is refused") };
    crate::refused::Refused::of_message(error).names("items[1].job.priority", &["-100 to 100"]);
    scene.stays_well().await;
}

#[tokio::test]
async fn a_message_of_more_than_4_mib_is_refused_and_names_the_limit() {
    let scene = Scene::start().await;
    let items = |count| v1::BatchDeferJobsRequest {
        items: vec![
            v1::BatchItem {
                job: Some(v1::JobSpec { args: text(256 << 10), ..job("limits") }),
                request_id: String::new()
            };
            count
        ],
        ..Default::default()
    };
    scene.jobs().batch_defer_jobs(items(15)).await.expect("less than 4 MiB");
    let refused = refused(scene.jobs().batch_defer_jobs(items(17)).await);
    refused.is(Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(refused.metadata["value"], (4 << 20).to_string());
    scene.stays_well().await;
}

#[tokio::test]
async fn a_page_is_cut_to_what_one_message_holds() {
    let scene = Scene::start().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(scene.defer(v1::JobSpec { args: text(256 << 10), ..job("limits") }).await);
    }
    ids.reverse();
    let mut listed = Vec::new();
    let mut list = v1::ListJobsRequest { task: "limits".into(), include_args: true, ..Default::default() };
    loop {
        let page = scene.jobs().list_jobs(list.clone()).await.expect("a page").into_inner();
        listed.extend(page.jobs.into_iter().map(|job| job.id));
        if page.next_page_token.is_empty() {
            break;
        }
        list.page_token = page.next_page_token;
    }
    assert_eq!(listed, ids);
    scene.stays_well().await;
}

#[tokio::test]
async fn credit_goes_to_100_000_jobs() {
    let scene = Scene::start().await;
    drop(scene.worker("limits", 100_000).await);
    for max_jobs in [100_001, u32::MAX] {
        let mut worker = crate::worker::Worker::open(&scene.channel).await;
        worker.say(v1::work_request::Frame::Hello(hello("limits", max_jobs))).await;
        worker.refused().await.names("hello.capacity.max_jobs", &["100000", "ask for less"]);
        let mut worker = scene.worker("limits", 1).await;
        let capacity = v1::Capacity { revision: 2, max_jobs, ..v1::Capacity::default() };
        worker.say(v1::work_request::Frame::Capacity(capacity)).await;
        worker.refused().await.names("capacity.max_jobs", &["100000", "ask for less"]);
    }
    scene.stays_well().await;
}

#[tokio::test]
async fn a_frame_of_a_worker_of_more_than_4_mib_ends_its_stream_and_names_the_limit() {
    let scene = Scene::start().await;
    let mut worker = scene.worker("limits", 1).await;
    let id = scene.defer(job("limits")).await;
    let token = worker.job().await.lease_token;
    let succeeded = v1::Succeeded { result: text(5 << 20) };
    let outcome = Some(v1::job_result::Outcome::Succeeded(succeeded));
    worker.send_results(Vec::new(), vec![v1::JobResult { lease_token: token, outcome }]).await;
    let refused = worker.refused().await;
    refused.is(Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(refused.metadata["value"], (4 << 20).to_string());
    assert_eq!(scene.shown(id).await.state(), v1::JobState::Running);
    scene.stays_well().await;
}

#[tokio::test]
async fn a_frame_full_of_tokens_that_are_none_harms_nobody() {
    let scene = Scene::start().await;
    let mut worker = scene.worker("limits", 1).await;
    // Two bytes each: a frame below 4 MiB holds two millions of them.
    worker.send_results(vec![Bytes::new(); 2_000_000], Vec::new()).await;
    worker.refused().await.names("results", &["20000", "send fewer"]);
    scene.stays_well().await;
}

#[tokio::test]
async fn headers_of_more_than_16_kib_are_refused() {
    let scene = Scene::start().await;
    let mut request = tonic::Request::new(v1::GetJobRequest { job_id: 1, ..Default::default() });
    request.metadata_mut().insert("x-large", "x".repeat(32 << 10).parse().expect("letters"));
    scene.jobs().get_job(request).await.expect_err("the connection does not take it");
    // The connection goes on.
    let id = scene.defer(job("limits")).await;
    assert_eq!(scene.shown(id).await.id, id);
    let answer = raw::call(&scene.channel, "/cabbage.v1.JobService/GetJob", Bytes::new()).await;
    refused(answer).names("job_id", &["ids begin with 1"]);
    scene.stays_well().await;
}
