//! Request ids (C2).

use cabbage_proto::v1;
use tonic::Code;

use crate::{refused::refused, scene::Scene, worker::job};

fn defer(spec: v1::JobSpec, id: &str) -> v1::DeferJobRequest {
    v1::DeferJobRequest { job: Some(spec), request_id: id.into() }
}

#[tokio::test]
async fn a_call_that_is_repeated_gets_the_same_answer_and_with_other_content_none() {
    let scene = Scene::start().await;
    let metadata = [("a", "1"), ("b", "2"), ("c", "3")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let spec = v1::JobSpec { metadata: metadata.into(), ..job("repeats") };
    let first = scene.jobs().defer_job(defer(spec.clone(), "one")).await.expect("a valid job").into_inner();
    assert!(!first.repeated_call);
    for _ in 0..8 {
        // Labels have another order each time that they are encoded.
        let metadata = spec.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let spec = v1::JobSpec { metadata, ..spec.clone() };
        let again = scene.jobs().defer_job(defer(spec, "one")).await.expect("the same answer").into_inner();
        assert_eq!((again.job_id, again.repeated_call), (first.job_id, true));
    }
    let others: [fn(&mut v1::JobSpec); 5] = [
        |spec| spec.task.push('s'),
        |spec| spec.args = "[1]".into(),
        |spec| spec.priority = 1,
        |spec| spec.metadata.clear(),
        |spec| spec.retry = Some(v1::RetryPolicy::default()),
    ];
    for change in others {
        let mut spec = spec.clone();
        change(&mut spec);
        let refused = refused(scene.jobs().defer_job(defer(spec, "one")).await);
        refused.is(Code::AlreadyExists, "REQUEST_ID_REUSED");
    }
    // An id names one call, of whatever kind.
    let cancel = v1::CancelJobRequest { job_id: first.job_id, request_id: "one".into(), reason: String::new() };
    refused(scene.jobs().cancel_job(cancel).await).is(Code::AlreadyExists, "REQUEST_ID_REUSED");
    let batch = v1::BatchDeferJobsRequest {
        items: vec![v1::BatchItem { job: Some(spec), request_id: String::new() }],
        request_id: "one".into(),
        independent: false,
    };
    refused(scene.jobs().batch_defer_jobs(batch).await).is(Code::AlreadyExists, "REQUEST_ID_REUSED");
    let list = v1::ListJobsRequest { task: "repeats".into(), ..Default::default() };
    assert_eq!(scene.jobs().list_jobs(list).await.expect("a page").into_inner().jobs.len(), 1);
    scene.stays_well().await;
}

#[tokio::test]
async fn an_item_that_is_repeated_says_so_beside_one_that_is_new() {
    let scene = Scene::start().await;
    let first = scene.jobs().defer_job(defer(job("repeats"), "one")).await.expect("a valid job").into_inner().job_id;
    let items = ["one", "two"].map(|id| v1::BatchItem { job: Some(job("repeats")), request_id: id.into() });
    let batch = v1::BatchDeferJobsRequest { items: items.into(), request_id: String::new(), independent: true };
    let answer = scene.jobs().batch_defer_jobs(batch).await.expect("both").into_inner();
    assert_eq!((answer.job_ids.len(), answer.job_ids[0]), (2, first));
    assert_eq!(answer.results.iter().map(|item| item.repeated_call).collect::<Vec<_>>(), [true, false]);
    scene.stays_well().await;
}

#[tokio::test]
async fn a_refused_call_is_not_remembered() {
    let scene = Scene::start().await;
    let bad = v1::JobSpec { priority: 101, ..job("repeats") };
    refused(scene.jobs().defer_job(defer(bad, "two")).await).names("job.priority", &[]);
    let locked = v1::JobSpec { queueing_lock: "taken".into(), ..job("repeats") };
    let first = scene.defer(locked.clone()).await;
    let taken = refused(scene.jobs().defer_job(defer(locked, "two")).await);
    taken.is(Code::AlreadyExists, "QUEUEING_LOCK_TAKEN");
    assert_eq!(taken.metadata["job_id"], first.to_string());
    let answer = scene.jobs().defer_job(defer(job("repeats"), "two")).await.expect("a valid job").into_inner();
    assert!(!answer.repeated_call);
    scene.stays_well().await;
}

#[tokio::test]
async fn a_request_id_is_up_to_64_bytes_and_of_a_batch_or_its_items() {
    let scene = Scene::start().await;
    scene.jobs().defer_job(defer(job("repeats"), &"i".repeat(64))).await.expect("at the limit");
    let over = scene.jobs().defer_job(defer(job("repeats"), &"i".repeat(65))).await;
    refused(over).names("request_id", &["64", "make it shorter"]);

    let batch = |call: &str, item: &str, independent| v1::BatchDeferJobsRequest {
        items: vec![v1::BatchItem { job: Some(job("repeats")), request_id: item.into() }],
        request_id: call.into(),
        independent,
    };
    let both = scene.jobs().batch_defer_jobs(batch("call", "", true)).await;
    refused(both).names("request_id", &["independent", "each item"]);
    let item = scene.jobs().batch_defer_jobs(batch("", "item", false)).await;
    refused(item).names("items[0].request_id", &["independent"]);
    let over = scene.jobs().batch_defer_jobs(batch("", &"i".repeat(65), true)).await.expect("an answer for each");
    let Some(v1::batch_item_result::Result::Error(error)) = over.into_inner().results.remove(0).result else {
        panic!("it is refused")
    };
    crate::refused::Refused::of_message(&error).names("items[0].request_id", &["64", "make it shorter"]);
    scene.stays_well().await;
}
