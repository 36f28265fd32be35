//! Jobs that are told to stop.

use std::time::Duration;

use cabbage_worker::{CancelCause, Context, Error, RetryPolicy, TaskError, TaskOptions, v1::JobState};
use tokio::sync::mpsc;

use crate::{
    both::on_both_stores,
    scene::{On, Running, Scene, defer, end_of, failure, noop, result, run, soon},
};

on_both_stores! {
    a_handler_that_obeys_ends_the_job_as_cancelled,
    a_handler_that_swallows_a_cancellation_has_succeeded,
    another_error_after_a_cancellation_is_a_failure_that_is_not_tried_again,
    a_blocking_handler_that_looks_is_cancelled,
    a_job_may_cancel_itself,
    a_job_that_waits_is_cancelled_and_never_runs,
    cancelling_a_job_that_is_not_there_changes_nothing,
    a_cancellation_after_the_end_changes_nothing,
    an_attempt_that_takes_too_long_is_told_and_fails_whatever_it_answers,
    a_job_that_has_not_started_by_its_deadline_fails,
}

/// Where handlers say that they run.
struct Desk(mpsc::UnboundedSender<i64>);

/// A worker of `wait`, which answers a cancellation with what the arguments say, and whoever hears that it runs.
async fn wait(answer: String, ctx: Context<Desk>) -> Result<String, TaskError> {
    ctx.state().0.send(ctx.id())?;
    let cause = ctx.cancelled().await;
    match answer.as_str() {
        "swallow" => Ok(format!("{cause:?}")),
        "obey" => Err(TaskError::cancelled("told to")),
        other => Err(TaskError::new(other, "something else went wrong")),
    }
}

fn office(broker: &Scene) -> (Running, mpsc::UnboundedReceiver<i64>) {
    let (desk, runs) = mpsc::unbounded_channel();
    let block = |(): (), ctx: Context<Desk>| {
        ctx.state().0.send(ctx.id())?;
        while !ctx.is_cancelled() {
            std::thread::yield_now();
        }
        Err::<(), _>(TaskError::cancelled("looked"))
    };
    let worker = broker.worker().state(Desk(desk)).function("wait", wait).blocking("block", block);
    (Running::start(worker.function("noop", noop)), runs)
}

/// Defers a job that waits, and cancels it once it runs.
async fn cancelled(broker: &Scene, answer: &str, retry: Option<RetryPolicy>) -> cabbage_worker::v1::Job {
    let (worker, mut runs) = office(broker);
    let mut job = broker.client().defer_named("wait", answer);
    if let Some(retry) = retry {
        job = job.retry(retry);
    }
    let job = job.await.expect("a job").job_id;
    assert_eq!(soon(runs.recv()).await, Some(job));
    let state = broker.client().cancel(job, "no longer wanted").await.expect("the broker takes it");
    assert_eq!(state, JobState::Running);
    let job = end_of(broker, job).await;
    // Nothing is remembered of it.
    let status =
        soon(worker.handle.wait_for(|status| status.held == 0 && status.running == 0)).await.expect("a worker");
    assert_eq!(status.counters.started, 1);
    worker.stop().await;
    job
}

async fn a_handler_that_obeys_ends_the_job_as_cancelled(on: On) {
    let broker = Scene::start(on).await;
    let job = cancelled(&broker, "obey", None).await;
    assert_eq!((job.state(), failure(&job).message.as_str()), (JobState::Cancelled, "told to"));
}

async fn a_handler_that_swallows_a_cancellation_has_succeeded(on: On) {
    let broker = Scene::start(on).await;
    let job = cancelled(&broker, "swallow", None).await;
    assert_eq!(job.state(), JobState::Succeeded);
    let cause: String = result(&broker, job.id).await;
    assert_eq!(cause, format!("{:?}", CancelCause::Requested));
}

async fn another_error_after_a_cancellation_is_a_failure_that_is_not_tried_again(on: On) {
    let broker = Scene::start(on).await;
    let job = cancelled(&broker, "Wrong", Some(RetryPolicy::forever())).await;
    assert_eq!((job.state(), job.attempts, failure(&job).kind.as_str()), (JobState::Failed, 1, "Wrong"));
}

async fn a_blocking_handler_that_looks_is_cancelled(on: On) {
    let broker = Scene::start(on).await;
    let (worker, mut runs) = office(&broker);
    let job = defer(&broker, "block").await;
    assert_eq!(soon(runs.recv()).await, Some(job));
    broker.client().cancel(job, "").await.expect("the broker takes it");
    assert_eq!(end_of(&broker, job).await.state(), JobState::Cancelled);
    worker.stop().await;
}

async fn a_job_may_cancel_itself(on: On) {
    let broker = Scene::start(on).await;
    let job = broker.client().defer_named("give up", ()).retry(RetryPolicy::forever()).await.expect("a job").job_id;
    let give_up = |(): (), _: Context| async { Err::<(), _>(TaskError::cancelled("no use")) };
    run(broker.worker().function("give up", give_up)).await;
    let job = end_of(&broker, job).await;
    assert_eq!((job.state(), failure(&job).message.as_str()), (JobState::Cancelled, "no use"));
}

async fn a_job_that_waits_is_cancelled_and_never_runs(on: On) {
    let broker = Scene::start(on).await;
    let job = defer(&broker, "noop").await;
    assert_eq!(broker.client().cancel(job, "").await.expect("the broker takes it"), JobState::Cancelled);
    let status = run(broker.worker().function("noop", noop)).await;
    assert_eq!((status.counters.started, end_of(&broker, job).await.state()), (0, JobState::Cancelled));
}

async fn cancelling_a_job_that_is_not_there_changes_nothing(on: On) {
    let broker = Scene::start(on).await;
    let other = defer(&broker, "noop").await;
    let error = broker.client().cancel(other + 1, "").await.expect_err("there is none");
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    assert_eq!(broker.client().get(other).await.expect("a job").state(), JobState::Waiting);
}

async fn a_cancellation_after_the_end_changes_nothing(on: On) {
    let broker = Scene::start(on).await;
    let job = defer(&broker, "noop").await;
    run(broker.worker().function("noop", noop)).await;
    assert_eq!(broker.client().cancel(job, "").await.expect("the broker takes it"), JobState::Succeeded);
    assert_eq!(end_of(&broker, job).await.state(), JobState::Succeeded);
}

async fn an_attempt_that_takes_too_long_is_told_and_fails_whatever_it_answers(on: On) {
    let broker = Scene::start(on).await;
    let job = broker.client().defer_named("slow", ()).attempt_timeout(Duration::from_millis(20));
    let job = job.retry(RetryPolicy::forever().never_kind("Timeout")).await.expect("a job").job_id;
    let slow = |(): (), ctx: Context| async move { Ok::<_, TaskError>(format!("{:?}", ctx.cancelled().await)) };
    run(broker.worker().function_with("slow", TaskOptions::new(), slow)).await;
    let job = end_of(&broker, job).await;
    assert_eq!((job.state(), failure(&job).kind.as_str()), (JobState::Failed, "Timeout"));
}

async fn a_job_that_has_not_started_by_its_deadline_fails(on: On) {
    let broker = Scene::start(on).await;
    let now = broker.client().get(defer(&broker, "other").await).await.expect("a job").created_at.expect("a time");
    let deadline = std::time::SystemTime::try_from(now).expect("a time") + Duration::from_hours(1);
    let job = broker.client().defer_named("noop", ()).deadline(deadline).await.expect("a job").job_id;
    broker.advance(Duration::from_secs(3_601)).await;
    let status = run(broker.worker().function("noop", noop)).await;
    let job = end_of(&broker, job).await;
    assert_eq!((job.state(), status.counters.started), (JobState::Failed, 0));
    assert_eq!(job.last_attempt.expect("an end").reason, "DEADLINE");
}
