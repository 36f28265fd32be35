//! The client's verbs for operators, against a real broker.

#[path = "broker/memory.rs"]
mod memory;

use std::time::{Duration, SystemTime};

use cabbage_worker::{Client, Error, NewJob, QueueingConflict, v1::JobState};

fn is_refused<T: std::fmt::Debug>(answer: Result<T, Error>, reason: &str) {
    let error = answer.expect_err("it is refused");
    assert!(matches!(error, Error::Refused(_)), "{error:?}");
    assert_eq!(error.reason(), Some(reason));
}

#[tokio::test]
async fn an_operator_moves_opens_and_erases_jobs_and_pauses_their_queue() {
    let broker = memory::start(|_| {}).await;
    let client = Client::builder(broker.grpc_address().to_string()).actor("ada").build().expect("an address");
    let job = NewJob::named("send").queue("mail").queueing_lock("one").schedule_in(Duration::from_hours(1));
    let id = client.defer_job(job).await.expect("a valid job").job_id;
    is_refused(client.retry(id, "").await, "JOB_NOT_FINAL");
    assert_eq!(client.run_now(id, "at once").await.expect("it waits"), JobState::Waiting);
    let later = SystemTime::now() + Duration::from_hours(2);
    assert_eq!(client.reschedule(id, later, "not now").await.expect("it waits"), JobState::Scheduled);
    let again = NewJob::named("send").args("new").queue("mail").queueing_lock("one");
    let again = client.defer_job(again).on_queueing_conflict(QueueingConflict::Replace).await.expect("it is moved");
    assert_eq!(again.job_id, id);
    let shown = client.get_full(id).await.expect("it exists");
    assert_eq!((shown.state(), &shown.spec.expect("a spec").args[..]), (JobState::Waiting, &b"\"new\""[..]));

    let paused = client.pause_queue("mail", "no mail today").await.expect("an answer");
    assert!(paused.paused && paused.paused_by == "ada" && paused.pause_reason == "no mail today", "{paused:?}");
    assert_eq!(client.queues("").await.expect("a page").queues, [client.queue("mail").await.expect("it exists")]);
    assert!(!client.resume_queue("mail", "").await.expect("an answer").paused);

    client.cancel(id, "").await.expect("an answer");
    is_refused(client.reschedule(id, later, "").await, "JOB_FINAL");
    assert_eq!(client.retry_at(id, later, "").await.expect("it is final"), JobState::Scheduled);
    client.cancel(id, "").await.expect("an answer");
    client.delete(id, "gone").await.expect("it is final");
    assert!(matches!(client.get(id).await, Err(Error::NotFound(_))));
    let audit = client.audit(id, "").await.expect("a page").entries;
    let verbs: Vec<_> = audit.iter().map(|entry| entry.verb.as_str()).collect();
    assert_eq!(verbs, ["delete", "cancel", "retry", "cancel", "reschedule", "reschedule"]);
    assert!(audit.iter().all(|entry| entry.actor == "ada") && audit[0].reason == "gone");
    broker.shutdown().await.expect("it stops in order");
}
