//! Defers that are made at the same time travel together.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use cabbage_worker::{Client, Defer, Deferred, Error, v1};
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::Status as ItemStatus;

use crate::service::{Broker, Call, deferred, refusal};

type Sending = Pin<Box<dyn Future<Output = Result<Deferred, Error>> + Send>>;

/// A defer that has taken its place behind the call that is away.
async fn begun(defer: Defer) -> Sending {
    let mut sending: Sending = Box::pin(defer.send());
    let first = poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await;
    assert!(first.is_pending());
    sending
}

/// One defer is on its way, and those of these tasks wait for its answer.
async fn behind_another(broker: &mut Broker, client: &Client, tasks: &[&str]) -> Vec<Sending> {
    let away = tokio::spawn(client.defer_named("away", ()).send());
    let (_, reply) = broker.defer().await;
    let mut waiting = Vec::new();
    for task in tasks {
        waiting.push(begun(client.defer_named(*task, ())).await);
    }
    reply.send(Ok(deferred(1))).expect("it waits");
    assert_eq!(away.await.expect("no panic").expect("a job").job_id, 1);
    waiting
}

fn tasks(request: &v1::BatchDeferJobsRequest) -> Vec<&str> {
    request.items.iter().map(|item| item.job.as_ref().map_or("", |job| job.task.as_str())).collect()
}

fn ids(request: &v1::BatchDeferJobsRequest) -> Vec<&str> {
    request.items.iter().map(|item| item.request_id.as_str()).collect()
}

fn job(job_id: i64, repeated_call: bool) -> v1::BatchItemResult {
    let result = Some(v1::batch_item_result::Result::JobId(job_id));
    v1::BatchItemResult { result, repeated_call, ..Default::default() }
}

fn no(code: Code, message: &str) -> v1::BatchItemResult {
    let status = ItemStatus { code: code as i32, message: message.to_owned(), details: Vec::new() };
    v1::BatchItemResult { result: Some(v1::batch_item_result::Result::Error(status)), ..Default::default() }
}

#[tokio::test]
async fn those_that_come_while_a_call_is_away_are_the_next_call_and_each_gets_its_own_answer() {
    let mut broker = Broker::start().await;
    let client = broker.client();
    let mut waiting = behind_another(&mut broker, &client, &["a", "b", "c"]).await;
    let (request, reply) = broker.batch().await;
    assert!(request.independent && request.request_id.is_empty());
    assert_eq!(tasks(&request), ["a", "b", "c"]);
    let names = ids(&request);
    assert!(names.iter().all(|id| !id.is_empty()) && names[0] != names[1] && names[1] != names[2]);
    let results = vec![job(7, false), no(Code::InvalidArgument, "items[1].job.priority: is 101"), job(9, true)];
    reply.send(Ok(v1::BatchDeferJobsResponse { results, ..Default::default() })).expect("it waits");
    let third = waiting.remove(2).await.expect("a job");
    assert_eq!((third.job_id, third.repeated_call), (9, true));
    let error = waiting.remove(1).await.expect_err("it is refused");
    assert!(matches!(&error, Error::Refused(answer) if answer.message == "job.priority: is 101"), "{error}");
    let first = waiting.remove(0).await.expect("a job");
    assert_eq!((first.job_id, first.repeated_call), (7, false));
}

#[tokio::test]
async fn a_caller_who_gives_up_disturbs_nobody() {
    let mut broker = Broker::start().await;
    let client = broker.client();
    let mut waiting = behind_another(&mut broker, &client, &["a", "b", "c"]).await;
    // Before the call: it takes its job back.
    drop(waiting.remove(1));
    let (request, reply) = broker.batch().await;
    assert_eq!(tasks(&request), ["a", "c"]);
    // While the call is away: the other one still hears of its job.
    drop(waiting.remove(0));
    reply.send(Ok(v1::BatchDeferJobsResponse { job_ids: vec![7, 8], ..Default::default() })).expect("it waits");
    assert_eq!(waiting.remove(0).await.expect("a job").job_id, 8);
}

#[tokio::test]
async fn nobody_waits_behind_a_call_that_all_its_callers_have_given_up() {
    let mut broker = Broker::start().await;
    let client = broker.client();
    let alone = begun(client.defer_named("a", ())).await;
    let (_, _never) = broker.defer().await;
    drop(alone);
    let mut waiting = behind_another(&mut broker, &client, &["b", "c"]).await;
    let (_, _never) = broker.batch().await;
    drop(waiting.remove(0));
    let next = begun(client.defer_named("d", ())).await;
    drop(waiting);
    let next = tokio::spawn(next);
    // By itself a try ends after 10 s, and lets the next one go.
    let heard = timeout(Duration::from_secs(8), broker.defer()).await;
    let (_, reply) = heard.expect("it does not wait for the end of a try");
    reply.send(Ok(deferred(9))).expect("it waits");
    assert_eq!(next.await.expect("no panic").expect("a job").job_id, 9);
}

#[tokio::test]
async fn an_error_of_the_whole_call_is_everybodys_and_each_tries_again_with_its_own_request_id() {
    let (mut one, mut other) = (Broker::start().await, Broker::start().await);
    let client = Client::new([one.address.to_string(), other.address.to_string()]).expect("a client");
    let waiting = behind_another(&mut one, &client, &["a", "b"]).await;
    let waiting: Vec<_> = waiting.into_iter().map(tokio::spawn).collect();
    let (request, reply) = one.batch().await;
    reply.send(Err(refusal(Code::Unavailable, "NOT_OWNER"))).expect("it waits");
    let mut again = Vec::new();
    while again.len() < 2 {
        // Whether they meet again is up to them.
        match other.call().await {
            Call::Defer(request, reply) => {
                again.push(request.request_id);
                reply.send(Ok(deferred(7))).expect("it waits");
            }
            Call::Batch(request, reply) => {
                again.extend(request.items.into_iter().map(|item| item.request_id));
                let answer = v1::BatchDeferJobsResponse { job_ids: vec![7, 8], ..Default::default() };
                reply.send(Ok(answer)).expect("it waits");
            }
            _ => panic!("another call"),
        }
    }
    again.sort_unstable();
    let mut before = ids(&request);
    before.sort_unstable();
    assert_eq!(again, before);
    for waiting in waiting {
        assert!(waiting.await.expect("no panic").is_ok());
    }
}

#[tokio::test]
async fn a_refusal_that_does_not_pass_is_told_to_all_at_once() {
    let mut broker = Broker::start().await;
    let client = broker.client();
    let waiting = behind_another(&mut broker, &client, &["a", "b"]).await;
    let (_, reply) = broker.batch().await;
    reply.send(Err(Status::permission_denied("who are you"))).expect("it waits");
    for waiting in waiting {
        let error = waiting.await.expect_err("it is refused");
        assert!(matches!(&error, Error::Refused(answer) if answer.code == Code::PermissionDenied), "{error}");
    }
}

#[tokio::test]
async fn a_call_that_is_refused_for_what_one_job_holds_is_made_again_for_each_by_itself() {
    let mut broker = Broker::start().await;
    let client = broker.client();
    let mut waiting = behind_another(&mut broker, &client, &["a", "b"]).await;
    let (_, reply) = broker.batch().await;
    reply.send(Err(refusal(Code::InvalidArgument, "UNRECORDABLE"))).expect("it waits");
    let (second, first) = (waiting.remove(1), waiting.remove(0));
    let answer = async {
        for _ in 0..2 {
            let (request, reply) = broker.defer().await;
            let answer = match request.job.expect("a job").task.as_str() {
                "a" => Err(refusal(Code::InvalidArgument, "UNRECORDABLE")),
                _ => Ok(deferred(8)),
            };
            reply.send(answer).expect("it waits");
        }
    };
    let (first, second, ()) = tokio::join!(first, second, answer);
    assert_eq!(first.expect_err("it is the culprit").reason(), Some("UNRECORDABLE"));
    assert_eq!(second.expect("a job").job_id, 8);
}
