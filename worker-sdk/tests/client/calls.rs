//! Each call by itself.

use std::time::Duration;

use bytes::Bytes;
use cabbage_worker::{
    Batch, Client, Error, JobFilter, LockMode, NewJob, QueueingConflict, RetryPolicy,
    v1::{self, job_spec::Due},
};
use tonic::{Code, Status};

use crate::service::{Broker, Call, deferred, refusal};

#[tokio::test]
async fn every_option_of_a_job_reaches_the_broker() {
    let mut broker = Broker::start().await;
    let defer = broker
        .client()
        .defer_named("t", [1, 2])
        .queue("q")
        .priority(-3)
        .lock("l")
        .lock_mode(LockMode::Strict)
        .queueing_lock("ql")
        .on_queueing_conflict(QueueingConflict::Replace)
        .schedule_in(Duration::from_millis(1_500))
        .attempt_timeout(Duration::from_secs(9))
        .retry(RetryPolicy::attempts(4).wait(Duration::from_secs(2)).never_kind("panic"))
        .metadata("k", "v")
        .traceparent("tp");
    let call = tokio::spawn(defer.send());
    let (request, reply) = broker.defer().await;
    assert!(!request.request_id.is_empty());
    let spec = request.job.expect("a job");
    assert_eq!((spec.task.as_str(), spec.queue.as_str(), &spec.args[..]), ("t", "q", &b"[1,2]"[..]));
    assert_eq!((spec.priority, spec.lock.as_str(), spec.lock_mode()), (-3, "l", v1::LockMode::Strict));
    assert_eq!((spec.queueing_lock.as_str(), spec.queueing_conflict()), ("ql", v1::QueueingConflict::Replace));
    assert!(matches!(spec.due, Some(Due::ScheduleIn(wait)) if (wait.seconds, wait.nanos) == (1, 500_000_000)));
    assert_eq!(spec.attempt_timeout.map(|time| time.seconds), Some(9));
    let retry = spec.retry.expect("a policy");
    assert_eq!((retry.max_attempts, retry.never_kinds), (4, vec!["panic".to_owned()]));
    assert_eq!((spec.metadata["k"].as_str(), spec.traceparent.as_str()), ("v", "tp"));
    reply.send(Ok(deferred(5))).expect("it waits");
    assert_eq!(call.await.expect("no panic").expect("a job").job_id, 5);
}

#[tokio::test]
async fn a_call_of_unknown_outcome_is_repeated_with_the_same_request_id() {
    let mut broker = Broker::start().await;
    let call = tokio::spawn(broker.client().defer_named("t", ()).send());
    let (first, reply) = broker.defer().await;
    reply.send(Err(Status::unknown("h2 protocol error"))).expect("it waits");
    let (second, reply) = broker.defer().await;
    assert_eq!(first, second);
    assert!(first.job.is_some_and(|job| job.args == Bytes::new()));
    reply.send(Ok(v1::DeferJobResponse { job_id: 5, repeated_call: true, existing_job: false })).expect("it waits");
    assert!(call.await.expect("no panic").expect("a job").repeated_call);
}

#[tokio::test]
async fn an_outcome_that_stays_unknown_is_told_as_such() {
    let mut broker = Broker::start().await;
    let client = Client::builder(broker.address.to_string()).timeout(Duration::from_millis(1)).build();
    let call = tokio::spawn(client.expect("a client").defer_named("t", ()).send());
    let answer = tokio::spawn(async move {
        while let Some(Call::Defer(_, reply)) = broker.calls.recv().await {
            let _ = reply.send(Err(Status::unknown("cut")));
        }
    });
    let error = call.await.expect("no panic").expect_err("no job");
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
    assert!(error.is_retryable() && !error.has_no_side_effects());
    answer.abort();
}

#[tokio::test]
async fn a_broker_that_is_not_the_owner_is_left_for_the_next() {
    let (mut one, mut other) = (Broker::start().await, Broker::start().await);
    let client = Client::new([one.address.to_string(), other.address.to_string()]).expect("a client");
    let call = tokio::spawn(client.defer_named("t", ()).send());
    let (first, reply) = one.defer().await;
    reply.send(Err(refusal(Code::Unavailable, "NOT_OWNER"))).expect("it waits");
    let (second, reply) = other.defer().await;
    assert_eq!(first.request_id, second.request_id);
    reply.send(Ok(deferred(1))).expect("it waits");
    assert!(call.await.expect("no panic").is_ok());
    // The next call goes where the last one was served.
    let call = tokio::spawn(client.defer_named("t", ()).send());
    other.defer().await.1.send(Ok(deferred(2))).expect("it waits");
    assert!(call.await.expect("no panic").is_ok());
}

#[tokio::test]
async fn a_refusal_is_told_at_once_with_its_reason() {
    let mut broker = Broker::start().await;
    let call = tokio::spawn(broker.client().defer_named("t", ()).queueing_lock("l").send());
    broker.defer().await.1.send(Err(refusal(Code::AlreadyExists, "QUEUEING_LOCK_TAKEN"))).expect("it waits");
    let error = call.await.expect("no panic").expect_err("no job");
    assert!(matches!(error, Error::AlreadyExists(_)), "{error}");
    assert_eq!((error.reason(), error.job_id()), (Some("QUEUEING_LOCK_TAKEN"), Some(7)));
    assert!(matches!(broker.client().get(3).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn no_broker_at_all_changed_nothing() {
    let client = Client::builder("127.0.0.1:1").timeout(Duration::from_millis(500)).build().expect("a client");
    let error = client.defer_named("t", ()).await.expect_err("nobody is there");
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(error.is_retryable() && error.has_no_side_effects());
}

#[tokio::test]
async fn a_batch_is_all_or_nothing_or_each_by_itself() {
    let mut broker = Broker::start().await;
    let client = broker.client();
    let batch: Batch = ["a", "b"].map(NewJob::named).into_iter().collect();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.defer_all(batch).await }
    });
    let (request, reply) = broker.batch().await;
    assert!(!request.independent && !request.request_id.is_empty());
    assert!(request.items.iter().all(|item| item.request_id.is_empty()));
    let answer = v1::BatchDeferJobsResponse { job_ids: vec![1, 2], ..Default::default() };
    reply.send(Ok(answer)).expect("it waits");
    assert_eq!(call.await.expect("no panic").expect("jobs"), [1, 2]);

    let mut batch = Batch::new();
    batch.push(NewJob::named("a").request_id("mine"));
    batch.push(NewJob::named("b"));
    let call = tokio::spawn(async move { client.defer_each(batch).await });
    let (request, reply) = broker.batch().await;
    assert!(request.independent && request.request_id.is_empty());
    assert_eq!(request.items[0].request_id, "mine");
    assert!(!request.items[1].request_id.is_empty());
    let refused = tonic_types::Status { code: Code::InvalidArgument as i32, message: "no".to_owned(), details: vec![] };
    let results = [v1::batch_item_result::Result::JobId(3), v1::batch_item_result::Result::Error(refused)];
    let results = results.map(|result| v1::BatchItemResult { result: Some(result), ..Default::default() }).to_vec();
    reply.send(Ok(v1::BatchDeferJobsResponse { results, ..Default::default() })).expect("it waits");
    let outcomes = call.await.expect("no panic").expect("answers");
    assert_eq!(outcomes[0].as_ref().expect("a job").job_id, 3);
    assert!(matches!(outcomes[1], Err(Error::Refused(_))));
}

#[tokio::test]
async fn a_list_walks_over_all_pages() {
    let mut broker = Broker::start().await;
    let client = broker.client();
    let walk = tokio::spawn(async move {
        let mut ids = Vec::new();
        let mut page = client.list(JobFilter::new().queue("q").state(v1::JobState::Failed));
        while let Some(job) = page.next().await? {
            ids.push(job.id);
        }
        Ok::<_, Error>(ids)
    });
    for (token, ids, next) in [("", vec![9, 8], "t1"), ("t1", vec![], "t2"), ("t2", vec![3], "")] {
        let Call::List(request, reply) = broker.call().await else { panic!("another call") };
        assert_eq!((request.page_token.as_str(), request.queue.as_str()), (token, "q"));
        let jobs = ids.into_iter().map(|id| v1::Job { id, ..Default::default() }).collect();
        let answer = v1::ListJobsResponse { jobs, next_page_token: next.to_owned(), ..Default::default() };
        reply.send(Ok(answer)).expect("it waits");
    }
    assert_eq!(walk.await.expect("no panic").expect("ids"), [9, 8, 3]);
}

#[tokio::test]
async fn a_result_is_waited_for_as_long_as_it_takes() {
    let mut broker = Broker::start().await;
    let client = broker.client();
    let call = tokio::spawn(async move { client.result_as::<u32>(4).await });
    for is_final in [false, true] {
        let Call::Wait(request, reply) = broker.call().await else { panic!("another call") };
        assert!(request.max_wait.is_some_and(|wait| wait.seconds > 0));
        let last_attempt = Some(v1::Attempt { result: "17".into(), ..Default::default() });
        let state = v1::JobState::Succeeded.into();
        let job = Some(v1::Job { id: 4, state, last_attempt, ..Default::default() });
        reply.send(Ok(v1::WaitJobResponse { job, is_final })).expect("it waits");
    }
    assert_eq!(call.await.expect("no panic").expect("a result"), 17);
}

#[tokio::test]
async fn a_cancel_answers_with_the_state() {
    let mut broker = Broker::start().await;
    let client = broker.client();
    let call = tokio::spawn(async move { client.cancel(4, "enough").await });
    let Call::Cancel(request, reply) = broker.call().await else { panic!("another call") };
    assert_eq!((request.job_id, request.reason.as_str()), (4, "enough"));
    assert!(!request.request_id.is_empty());
    reply.send(Ok(v1::CancelJobResponse { state: v1::JobState::Running.into() })).expect("it waits");
    assert_eq!(call.await.expect("no panic").expect("a state"), v1::JobState::Running);
}
