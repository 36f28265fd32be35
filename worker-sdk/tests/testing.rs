//! The broker for tests itself.

use std::{
    future::Future,
    time::{Duration, SystemTime},
};

use cabbage_worker::{
    CancelCause, Context, Error, RetryPolicy, TaskError, WorkerBuilder,
    testing::TestBroker,
    v1::{self, JobState, Verdict},
};
use tokio::time::timeout;

/// 2038-01-19 03:14:07 UTC.
const END_OF_32_BITS: Duration = Duration::from_secs(2_147_483_647);

/// Nothing is waited for longer than this; a test that gets here has failed.
const PATIENCE: Duration = Duration::from_mins(1);

async fn noop((): (), _: Context) -> Result<(), TaskError> {
    Ok(())
}

/// Fails if it takes far too long.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

/// Runs what is there.
async fn run(broker: &TestBroker, worker: WorkerBuilder) {
    soon(broker.run(worker)).await.expect("a worker");
}

/// Defers a job of this task, without arguments.
async fn defer(broker: &TestBroker, task: &str) -> i64 {
    broker.client().defer_named(task, ()).await.expect("a job").job_id
}

/// The states of all jobs.
async fn states(broker: &TestBroker) -> Vec<JobState> {
    broker.jobs().await.iter().map(v1::Job::state).collect()
}

/// The only job.
async fn only_job(broker: &TestBroker) -> v1::Job {
    let mut jobs = broker.jobs().await;
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    jobs.remove(0)
}

#[tokio::test]
async fn a_job_of_2038_runs_after_an_advance_and_not_before() {
    let broker = TestBroker::start().await;
    let at = SystemTime::UNIX_EPOCH + END_OF_32_BITS;
    broker.client().defer_named("create_bug", ()).schedule_at(at).await.expect("a job");
    let run_it = || run(&broker, broker.worker().function("create_bug", noop));
    run_it().await;
    let created = SystemTime::try_from(only_job(&broker).await.created_at.expect("a time")).expect("a time");
    let hour = Duration::from_hours(1);
    broker.advance(at.duration_since(created + hour).expect("a test of before 2038")).await;
    run_it().await;
    assert_eq!(states(&broker).await, [JobState::Scheduled]);
    broker.advance(hour).await;
    run_it().await;
    assert_eq!(states(&broker).await, [JobState::Succeeded]);
}

#[tokio::test]
async fn what_is_due_soon_is_due_after_an_advance_as_well() {
    let broker = TestBroker::start().await;
    for seconds in [1, 20, 4_000] {
        broker.client().defer_named("noop", ()).schedule_in(Duration::from_secs(seconds)).await.expect("a job");
    }
    broker.advance(Duration::from_secs(20)).await;
    run(&broker, broker.worker().function("noop", noop)).await;
    assert_eq!(states(&broker).await, [JobState::Succeeded, JobState::Succeeded, JobState::Scheduled]);
}

#[tokio::test]
async fn a_worker_that_runs_does_not_notice_an_advance_but_for_its_jobs() {
    let broker = TestBroker::start().await;
    let worker = broker.worker().function("noop", noop).build().expect("a worker");
    let (handle, worker) = (worker.handle(), tokio::spawn(worker.run()));
    soon(handle.wait_for(|status| status.connected)).await.expect("a worker");
    let job = broker.client().defer_named("noop", ()).schedule_in(Duration::from_hours(24)).await.expect("a job");
    broker.advance(Duration::from_hours(24)).await;
    soon(broker.client().wait(job.job_id)).await.expect("a final job");
    handle.stop();
    let status = soon(worker).await.expect("no panic");
    assert_eq!((status.counters.welcomed, status.counters.recorded), (1, 1));
}

#[tokio::test]
async fn jobs_show_arguments_attempts_and_history() {
    let broker = TestBroker::start().await;
    let fail = |_: serde_json::Value, ctx: Context| async move {
        Err::<(), _>(TaskError::new("Wrong", format!("attempt {}", ctx.attempt())))
    };
    let job = broker.client().defer_named("fail", serde_json::json!({ "letter": "a" })).queue("letters");
    job.retry(RetryPolicy::attempts(2)).await.expect("a job");
    run(&broker, broker.worker().function("fail", fail)).await;
    let job = only_job(&broker).await;
    let spec = job.spec.clone().expect("what was asked for");
    assert_eq!(
        (spec.task.as_str(), spec.queue.as_str(), &spec.args[..]),
        ("fail", "letters", &br#"{"letter":"a"}"#[..])
    );
    let verdicts: Vec<_> = job.history.iter().map(v1::Attempt::verdict).collect();
    assert_eq!((job.attempts, verdicts), (2, vec![Verdict::Retried, Verdict::Failed]));
    let failure = job.last_attempt.and_then(|attempt| attempt.failure).expect("what went wrong");
    assert_eq!(failure.message, "attempt 2");
}

#[tokio::test]
async fn a_reset_forgets_everything() {
    let broker = TestBroker::start().await;
    let forgotten = defer(&broker, "noop").await;
    broker.client().defer_named("noop", ()).queueing_lock("only one").await.expect("a job");
    broker.reset().await;
    assert!(broker.jobs().await.is_empty());
    let gone = broker.client().get(forgotten).await;
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
    // Neither locks nor ids are left over.
    let job = broker.client().defer_named("noop", ()).queueing_lock("only one").await.expect("a job");
    assert_eq!(job.job_id, forgotten);
    run(&broker, broker.worker().function("noop", noop)).await;
    assert_eq!(states(&broker).await, [JobState::Succeeded]);
}

#[tokio::test]
async fn a_reset_tells_running_handlers_and_their_worker_goes_on() {
    let broker = TestBroker::start().await;
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let wait = |(): (), ctx: Context<tokio::sync::mpsc::UnboundedSender<CancelCause>>| async move {
        ctx.state().send(ctx.cancelled().await)
    };
    let worker = broker.worker().state(told).function("wait", wait).function("noop", noop);
    let worker = worker.build().expect("a worker");
    let (handle, worker) = (worker.handle(), tokio::spawn(worker.run()));
    defer(&broker, "wait").await;
    soon(handle.wait_for(|status| status.running == 1)).await.expect("a worker");
    broker.reset().await;
    assert_eq!(soon(hears.recv()).await, Some(CancelCause::LeaseLost));
    let job = defer(&broker, "noop").await;
    assert_eq!(soon(broker.client().wait(job)).await.expect("a final job").state(), JobState::Succeeded);
    handle.stop();
    soon(worker).await.expect("no panic");
}

#[tokio::test]
async fn brokers_of_two_tests_do_not_know_of_each_other() {
    let (one, other) = (TestBroker::start().await, TestBroker::start().await);
    defer(&one, "noop").await;
    assert_ne!(one.address(), other.address());
    assert_eq!((one.jobs().await.len(), other.jobs().await.len()), (1, 0));
    one.shutdown().await;
    defer(&other, "noop").await;
}
