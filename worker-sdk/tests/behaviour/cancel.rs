//! Jobs that are told to stop.

use std::time::Duration;

use cabbage_worker::{CancelCause, Context, RetryPolicy, TaskError, TaskOptions, testing::TestBroker, v1::JobState};
use tokio::sync::mpsc;

use crate::scene::{Running, defer, end_of, failure, noop, result, run, soon};

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

fn office(broker: &TestBroker) -> (Running, mpsc::UnboundedReceiver<i64>) {
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
async fn cancelled(broker: &TestBroker, answer: &str, retry: Option<RetryPolicy>) -> cabbage_worker::v1::Job {
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

#[tokio::test]
async fn a_handler_that_obeys_ends_the_job_as_cancelled() {
    let broker = TestBroker::start().await;
    let job = cancelled(&broker, "obey", None).await;
    assert_eq!((job.state(), failure(&job).message.as_str()), (JobState::Cancelled, "told to"));
}

#[tokio::test]
async fn a_handler_that_swallows_a_cancellation_has_succeeded() {
    let broker = TestBroker::start().await;
    let job = cancelled(&broker, "swallow", None).await;
    assert_eq!(job.state(), JobState::Succeeded);
    let cause: String = result(&broker, job.id).await;
    assert_eq!(cause, format!("{:?}", CancelCause::Requested));
}

#[tokio::test]
async fn another_error_after_a_cancellation_is_a_failure_that_is_not_tried_again() {
    let broker = TestBroker::start().await;
    let job = cancelled(&broker, "Wrong", Some(RetryPolicy::forever())).await;
    assert_eq!((job.state(), job.attempts, failure(&job).kind.as_str()), (JobState::Failed, 1, "Wrong"));
}

#[tokio::test]
async fn a_blocking_handler_that_looks_is_cancelled() {
    let broker = TestBroker::start().await;
    let (worker, mut runs) = office(&broker);
    let job = defer(&broker, "block").await;
    assert_eq!(soon(runs.recv()).await, Some(job));
    broker.client().cancel(job, "").await.expect("the broker takes it");
    assert_eq!(end_of(&broker, job).await.state(), JobState::Cancelled);
    worker.stop().await;
}

#[tokio::test]
async fn a_job_may_cancel_itself() {
    let broker = TestBroker::start().await;
    let job = broker.client().defer_named("give up", ()).retry(RetryPolicy::forever()).await.expect("a job").job_id;
    let give_up = |(): (), _: Context| async { Err::<(), _>(TaskError::cancelled("no use")) };
    run(&broker, broker.worker().function("give up", give_up)).await;
    let job = end_of(&broker, job).await;
    assert_eq!((job.state(), failure(&job).message.as_str()), (JobState::Cancelled, "no use"));
}

#[tokio::test]
async fn a_job_that_waits_is_cancelled_and_never_runs() {
    let broker = TestBroker::start().await;
    let job = defer(&broker, "noop").await;
    assert_eq!(broker.client().cancel(job, "").await.expect("the broker takes it"), JobState::Cancelled);
    let status = run(&broker, broker.worker().function("noop", noop)).await;
    assert_eq!((status.counters.started, end_of(&broker, job).await.state()), (0, JobState::Cancelled));
}

#[tokio::test]
async fn a_cancellation_after_the_end_changes_nothing() {
    let broker = TestBroker::start().await;
    let job = defer(&broker, "noop").await;
    run(&broker, broker.worker().function("noop", noop)).await;
    assert_eq!(broker.client().cancel(job, "").await.expect("the broker takes it"), JobState::Succeeded);
    assert_eq!(end_of(&broker, job).await.state(), JobState::Succeeded);
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_told_and_fails_whatever_it_answers() {
    let broker = TestBroker::start().await;
    let job = broker.client().defer_named("slow", ()).attempt_timeout(Duration::from_millis(20));
    let job = job.retry(RetryPolicy::forever().never_kind("Timeout")).await.expect("a job").job_id;
    let slow = |(): (), ctx: Context| async move { Ok::<_, TaskError>(format!("{:?}", ctx.cancelled().await)) };
    run(&broker, broker.worker().function_with("slow", TaskOptions::new(), slow)).await;
    let job = end_of(&broker, job).await;
    assert_eq!((job.state(), failure(&job).kind.as_str()), (JobState::Failed, "Timeout"));
}

#[tokio::test]
async fn a_job_that_has_not_started_by_its_deadline_fails() {
    let broker = TestBroker::start().await;
    let now = broker.client().get(defer(&broker, "other").await).await.expect("a job").created_at.expect("a time");
    let deadline = std::time::SystemTime::try_from(now).expect("a time") + Duration::from_hours(1);
    let job = broker.client().defer_named("noop", ()).deadline(deadline).await.expect("a job").job_id;
    broker.advance(Duration::from_secs(3_601)).await;
    let status = run(&broker, broker.worker().function("noop", noop)).await;
    let job = end_of(&broker, job).await;
    assert_eq!((job.state(), status.counters.started), (JobState::Failed, 0));
    assert_eq!(job.last_attempt.expect("an end").reason, "DEADLINE");
}
