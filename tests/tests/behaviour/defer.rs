//! New jobs.

use std::time::{Duration, SystemTime};

use cabbage_worker::{Batch, Context, Error, LockMode, NewJob, RetryPolicy, Task, TaskError, v1};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    both::on_both_stores,
    scene::{On, Scene, defer, only_job, result, run},
};

on_both_stores! {
    three_ways_to_defer_give_the_same_job,
    a_job_shows_all_that_was_asked_for,
    a_batch_keeps_the_order_of_its_jobs_and_of_their_runs,
    the_priority_is_that_of_the_defer_else_of_the_task_else_zero,
    arguments_with_their_own_json_come_back,
    arguments_are_kept_byte_for_byte,
    a_call_that_is_repeated_creates_one_job,
    a_request_id_with_other_content_is_no_taken_queueing_lock,
    a_refused_job_leaves_nothing,
    of_many_defers_at_once_each_gets_its_own_answer,
}

/// A task with options of its own.
struct Mail;

impl Task for Mail {
    const NAME: &'static str = "mail";
    type Args = String;
    type Output = ();
    type Error = TaskError;
    type State = ();

    fn configure(job: NewJob, to: &String) -> NewJob {
        job.queue("mail").priority(5).lock(to)
    }

    async fn run(_: String, _: Context) -> Result<(), TaskError> {
        Ok(())
    }
}

async fn three_ways_to_defer_give_the_same_job(on: On) {
    let broker = Scene::start(on).await;
    let client = broker.client();
    client.defer::<Mail>("ada".to_owned()).await.expect("a job");
    let described = NewJob::of::<Mail>("ada".to_owned());
    client.defer_job(described).await.expect("a job");
    client.defer_named("mail", "ada").queue("mail").priority(5).lock("ada").await.expect("a job");
    let specs: Vec<_> = broker.jobs().await.into_iter().map(|job| job.spec.expect("what was asked for")).collect();
    assert_eq!(specs.len(), 3);
    assert!(specs.iter().all(|spec| *spec == specs[0]), "{specs:?}");
    assert_eq!(&specs[0].args[..], br#""ada""#);
}

async fn a_job_shows_all_that_was_asked_for(on: On) {
    let broker = Scene::start(on).await;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let job = broker.client().defer_named("everything", [1, 2, 3]);
    let job = job.queue("q").priority(-7).lock("l").lock_mode(LockMode::Strict).queueing_lock("k").schedule_at(at);
    let job = job.deadline(at + Duration::from_secs(1)).attempt_timeout(Duration::from_millis(1_500));
    let job = job.retry(RetryPolicy::attempts(4).wait(Duration::from_secs(9))).metadata("a", "b");
    let created = job.traceparent("00-1-2-01").tracestate("x=y").await.expect("a job");
    let shown = only_job(&broker).await;
    assert_eq!((shown.id, shown.state(), shown.attempts), (created.job_id, v1::JobState::Scheduled, 0));
    assert!(shown.created_at.is_some() && shown.started_at.is_none() && shown.finished_at.is_none());
    let due = Some(prost_types::Timestamp::from(at));
    assert_eq!(shown.due_at, due);
    let spec = shown.spec.expect("what was asked for");
    assert_eq!((spec.task.as_str(), spec.queue.as_str(), &spec.args[..]), ("everything", "q", &b"[1,2,3]"[..]));
    assert_eq!((spec.priority, spec.lock.as_str(), spec.lock_mode()), (-7, "l", v1::LockMode::Strict));
    assert_eq!((spec.queueing_lock.as_str(), spec.due.is_some()), ("k", true));
    assert_eq!(spec.deadline.map(|at| at.seconds), Some(4_000_000_001));
    assert_eq!(spec.attempt_timeout, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
    let retry = spec.retry.expect("a policy");
    assert_eq!((retry.max_attempts, retry.wait.map(|wait| wait.seconds)), (4, Some(9)));
    assert_eq!(
        (spec.metadata["a"].as_str(), spec.traceparent.as_str(), spec.tracestate.as_str()),
        ("b", "00-1-2-01", "x=y")
    );
}

/// Says which job runs.
async fn tell(number: u32, ctx: Context<mpsc::UnboundedSender<u32>>) -> Result<(), TaskError> {
    Ok(ctx.state().send(number)?)
}

async fn a_batch_keeps_the_order_of_its_jobs_and_of_their_runs(on: On) {
    let broker = Scene::start(on).await;
    let batch: Batch = (1..=6).map(|number| NewJob::named("tell").args(number)).collect();
    let ids = broker.client().defer_all(batch).await.expect("jobs");
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    let (says, mut hears) = mpsc::unbounded_channel::<u32>();
    run(broker.worker().state(says).function("tell", tell).concurrency(1)).await;
    let mut ran = Vec::new();
    hears.recv_many(&mut ran, 10).await;
    assert_eq!(ran, [1, 2, 3, 4, 5, 6]);
}

async fn the_priority_is_that_of_the_defer_else_of_the_task_else_zero(on: On) {
    let broker = Scene::start(on).await;
    let client = broker.client();
    client.defer::<Mail>("ada".to_owned()).priority(9).await.expect("a job");
    client.defer::<Mail>("ada".to_owned()).await.expect("a job");
    defer(&broker, "mail").await;
    let priorities: Vec<_> = broker.jobs().await.into_iter().map(|job| job.spec.map(|spec| spec.priority)).collect();
    assert_eq!(priorities, [Some(9), Some(5), Some(0)]);
}

/// Reads and writes JSON in its own way: `"3 EUR"`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
struct Price(u32);

impl From<Price> for String {
    fn from(price: Price) -> Self {
        format!("{} EUR", price.0)
    }
}

impl TryFrom<String> for Price {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.trim_end_matches(" EUR").parse().map(Self)
    }
}

impl Clone for Price {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

async fn arguments_with_their_own_json_come_back(on: On) {
    let broker = Scene::start(on).await;
    let job = broker.client().defer_named("double", Price(3)).await.expect("a job").job_id;
    let double = |price: Price, _: Context| async move { Ok::<_, TaskError>(Price(price.0 * 2)) };
    run(broker.worker().function("double", double)).await;
    assert_eq!(&only_job(&broker).await.spec.expect("what was asked for").args[..], br#""3 EUR""#);
    assert_eq!(result::<Price>(&broker, job).await, Price(6));
}

async fn arguments_are_kept_byte_for_byte(on: On) {
    let broker = Scene::start(on).await;
    let text = r#"{"b": 123456789012345678901234567890, "a":1.0,  "b": "ü\u0041"}"#;
    let job = broker.client().defer_named("echo", ()).args_json(text).await.expect("a job").job_id;
    let spec = broker.client().get_full(job).await.expect("a job").spec.expect("what was asked for");
    assert_eq!(std::str::from_utf8(&spec.args).expect("text"), text);
}

async fn a_call_that_is_repeated_creates_one_job(on: On) {
    let broker = Scene::start(on).await;
    let call = || broker.client().defer_named("once", ()).request_id("my call");
    let first = call().await.expect("a job");
    let second = call().await.expect("the same job");
    assert_eq!((second.job_id, first.repeated_call, second.repeated_call), (first.job_id, false, true));
    assert_eq!(broker.jobs().await.len(), 1);
}

async fn a_request_id_with_other_content_is_no_taken_queueing_lock(on: On) {
    let broker = Scene::start(on).await;
    let call = |task: &str| broker.client().defer_named(task, ()).queueing_lock("k").request_id("my call");
    call("one").await.expect("a job");
    let error = call("other").await.expect_err("another call has this id");
    assert!(matches!(error, Error::AlreadyExists(_)), "{error}");
    assert_eq!((error.reason(), error.job_id()), (Some("REQUEST_ID_REUSED"), None));
}

async fn a_refused_job_leaves_nothing(on: On) {
    let broker = Scene::start(on).await;
    let mut batch: Batch = (0..3).map(|_| NewJob::named("fine")).collect();
    batch.push(NewJob::named("bad").priority(101));
    let error = broker.client().defer_all(batch).await.expect_err("no such priority");
    assert!(matches!(&error, Error::Refused(answer) if answer.message.contains("100")), "{error}");
    assert!(broker.jobs().await.is_empty());
}

async fn of_many_defers_at_once_each_gets_its_own_answer(on: On) {
    let broker = Scene::start(on).await;
    let known = broker.client().defer_named("known", ()).request_id("known").await.expect("a job").job_id;
    let defer = |number: i32| {
        let defer = broker.client().defer_named(format!("task {number}"), number).queue(format!("queue {number}"));
        match number % 5 {
            0 => defer.priority(101),
            1 => defer.args_json("{"),
            2 => defer.queueing_lock("only one"),
            3 => broker.client().defer_named("known", ()).request_id("known"),
            _ => defer,
        }
    };
    let answers = join_all((0..100).map(|number| defer(number).send())).await;
    let jobs = broker.jobs().await;
    let mut carrier = None;
    let mut taken = 0;
    for (number, answer) in (0..).zip(answers) {
        match (number % 5, answer) {
            (0, Err(error)) => assert!(error.to_string().contains(": job.priority: "), "{error}"),
            (1, Err(error)) => assert!(error.to_string().contains(": job.args: "), "{error}"),
            (2, Ok(deferred)) => assert!(carrier.replace(deferred.job_id).is_none(), "two carry one queueing lock"),
            (2, Err(error)) => {
                assert_eq!((error.reason(), error.job_id()), (Some("QUEUEING_LOCK_TAKEN"), carrier));
                assert_eq!(error.answer().map(|answer| answer.metadata["item"].as_str()), Some(""));
                taken += 1;
            }
            (3, Ok(again)) => assert_eq!((again.job_id, again.repeated_call), (known, true)),
            (4, Ok(deferred)) => {
                assert!(!deferred.repeated_call);
                let job = jobs.iter().find(|job| job.id == deferred.job_id).expect("it exists");
                assert_eq!(job.spec.as_ref().expect("what was asked for").task, format!("task {number}"));
            }
            (_, answer) => panic!("job {number}: {answer:?}"),
        }
    }
    assert_eq!((taken, jobs.len()), (19, 1 + 1 + 20));
}
