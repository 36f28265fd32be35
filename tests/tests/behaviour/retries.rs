//! What follows a failed attempt.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use cabbage_worker::{
    Context, JobInfo, Retry, RetryDecision, RetryPolicy, RetryStrategy, Task, TaskError, TaskOptions, WorkerBuilder,
    v1::{self, JobState},
};

use crate::{
    both::on_both_stores,
    scene::{On, Scene, defer, failure, only_job, result, run},
};

on_both_stores! {
    a_strategy_of_a_task_changes_wait_queue_priority_and_lock,
    a_handler_knows_the_queue_priority_and_lock_that_a_retry_gave_its_job,
    a_strategy_ends_a_job_by_its_own_limit_and_handlers_know_the_last_attempt,
    a_strategy_may_say_that_there_is_no_hope,
    a_strategy_never_goes_beyond_the_attempts_that_the_defer_allows,
    a_strategy_of_the_worker_is_for_tasks_without_one,
    a_strategy_decides_on_panics_and_timeouts,
    a_decision_outlives_the_worker_that_made_it,
    a_number_of_attempts_may_be_given_to_a_task_or_to_a_job,
    only_errors_of_the_named_kinds_are_tried_again,
    the_broker_waits_as_the_policy_says,
    a_huge_wait_is_clamped,
    a_snooze_is_no_attempt,
}

const MINUTE: Duration = Duration::from_mins(1);

/// By how much a wait may be longer than it was told, on a machine that stalls.
const SLACK: Duration = Duration::from_secs(30);

async fn fail((): (), _: Context) -> Result<(), TaskError> {
    Err(TaskError::new("Wrong", "wrong"))
}

fn worker(broker: &Scene, options: TaskOptions) -> WorkerBuilder {
    broker.worker().function_with("fail", options, fail)
}

/// How long after the end of its last attempt the only job is due. The broker never waits for less than it was told
/// (C8), and counts from the latest time that it may be.
async fn wait_of(broker: &Scene) -> Duration {
    let job = only_job(broker).await;
    assert_eq!(job.state(), JobState::Scheduled);
    let micros = |at: Option<prost_types::Timestamp>| {
        let at = at.expect("a time");
        at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000
    };
    let ended = job.last_attempt.clone().expect("an attempt").finished_at;
    Duration::from_micros(u64::try_from(micros(job.due_at) - micros(ended)).expect("later"))
}

/// Waits by the minute, moves to another queue, and gives up after three attempts, or when there is no hope.
struct Own(AtomicU32);

impl RetryStrategy for Own {
    fn decide(&self, error: &TaskError, job: &JobInfo) -> Retry {
        self.0.fetch_add(1, Ordering::Relaxed);
        match error.kind() {
            Some("Hopeless") => Retry::Never,
            _ => RetryDecision::after(MINUTE * job.attempt()).queue("again").priority(-7).lock("one at a time").into(),
        }
    }

    fn max_attempts(&self, _: &JobInfo) -> Option<u32> {
        Some(3)
    }
}

fn own() -> TaskOptions {
    TaskOptions::new().retry(Own(AtomicU32::new(0)))
}

async fn a_strategy_of_a_task_changes_wait_queue_priority_and_lock(on: On) {
    let broker = Scene::start(on).await;
    defer(&broker, "fail").await;
    run(worker(&broker, own())).await;
    let job = only_job(&broker).await;
    let spec = job.spec.expect("what was asked for");
    assert_eq!((spec.queue.as_str(), spec.priority, spec.lock.as_str()), ("again", -7, "one at a time"));
    let wait = wait_of(&broker).await;
    assert!((MINUTE..MINUTE + SLACK).contains(&wait), "{wait:?}");
}

/// Moves a job after each failure: to the lock that the error names, or to none.
struct Elsewhere(Duration);

impl RetryStrategy for Elsewhere {
    fn decide(&self, error: &TaskError, _: &JobInfo) -> Retry {
        let named = error.message();
        let lock = if named == "none" { "" } else { &*named };
        RetryDecision::after(self.0).queue("again").priority(-7).lock(lock).into()
    }
}

async fn a_handler_knows_the_queue_priority_and_lock_that_a_retry_gave_its_job(on: On) {
    let broker = Scene::start(on).await;
    // At once, and after a time for which the job leaves the memory of the broker.
    for wait in [Duration::ZERO, MINUTE] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let tell = {
            let seen = Arc::clone(&seen);
            move |(): (), ctx: Context| {
                let lock = ctx.lock().map(ToOwned::to_owned);
                seen.lock().expect("no panic").push((ctx.queue().to_owned(), ctx.priority(), lock));
                let next = ["new", "newer", "none"].get(ctx.attempt() as usize - 1);
                async move { next.map_or(Ok(()), |next| Err(TaskError::new("Moved", *next))) }
            }
        };
        let job = broker.client().defer_named("tell", ()).lock("old").await.expect("a job").job_id;
        let options = || TaskOptions::new().retry(Elsewhere(wait));
        while broker.client().get(job).await.expect("a job").state() != JobState::Succeeded {
            run(broker.worker().function_with("tell", options(), tell.clone())).await;
            broker.advance(2 * wait).await;
        }
        let at = |queue: &str, priority, lock: Option<&str>| (queue.to_owned(), priority, lock.map(ToOwned::to_owned));
        let expected = [
            at("default", 0, Some("old")),
            at("again", -7, Some("new")),
            at("again", -7, Some("newer")),
            at("again", -7, None),
        ];
        assert_eq!(*seen.lock().expect("no panic"), expected);
    }
}

async fn a_strategy_ends_a_job_by_its_own_limit_and_handlers_know_the_last_attempt(on: On) {
    let broker = Scene::start(on).await;
    defer(&broker, "tell").await;
    let tell = |(): (), ctx: Context| async move {
        Err::<(), _>(TaskError::new("Told", format!("{:?} {}", ctx.max_attempts(), ctx.is_last_attempt())))
    };
    for (attempt, state, told) in [
        (1, JobState::Scheduled, "Some(3) false"),
        (2, JobState::Scheduled, "Some(3) false"),
        (3, JobState::Failed, "Some(3) true"),
    ] {
        run(broker.worker().function_with("tell", own(), tell)).await;
        let job = only_job(&broker).await;
        assert_eq!((job.attempts, job.state(), failure(&job).message.as_str()), (attempt, state, told));
        broker.advance(MINUTE * 5).await;
    }
}

async fn a_strategy_may_say_that_there_is_no_hope(on: On) {
    let broker = Scene::start(on).await;
    broker.client().defer_named("hopeless", ()).retry(RetryPolicy::forever()).await.expect("a job");
    let hopeless = |(): (), _: Context| async { Err::<(), _>(TaskError::new("Hopeless", "")) };
    run(broker.worker().function_with("hopeless", own(), hopeless)).await;
    assert_eq!(only_job(&broker).await.state(), JobState::Failed);
}

async fn a_strategy_never_goes_beyond_the_attempts_that_the_defer_allows(on: On) {
    let broker = Scene::start(on).await;
    broker.client().defer_named("fail", ()).retry(RetryPolicy::none()).await.expect("a job");
    run(worker(&broker, own())).await;
    let job = only_job(&broker).await;
    assert_eq!((job.state(), job.attempts), (JobState::Failed, 1));
}

async fn a_strategy_of_the_worker_is_for_tasks_without_one(on: On) {
    let broker = Scene::start(on).await;
    let never = TaskOptions::new().retry(RetryPolicy::none());
    for task in ["fail", "never"] {
        defer(&broker, task).await;
    }
    let worker = broker.worker().function("fail", fail).function_with("never", never, fail);
    run(worker.retry(RetryPolicy::attempts(2).wait(MINUTE))).await;
    let states: Vec<_> = broker.jobs().await.iter().map(v1::Job::state).collect();
    assert_eq!(states, [JobState::Scheduled, JobState::Failed]);
}

/// The same, for a test to look at.
struct Shared(Arc<Own>);

impl RetryStrategy for Shared {
    fn decide(&self, error: &TaskError, job: &JobInfo) -> Retry {
        self.0.decide(error, job)
    }
}

async fn a_strategy_decides_on_panics_and_timeouts(on: On) {
    async fn bang((): (), _: Context) -> Result<(), TaskError> {
        panic!("bang")
    }
    async fn slow((): (), _: Context) -> Result<(), TaskError> {
        std::future::pending().await
    }
    let broker = Scene::start(on).await;
    defer(&broker, "bang").await;
    let short = Duration::from_millis(20);
    broker.client().defer_named("slow", ()).attempt_timeout(short).await.expect("a job");
    let own = Arc::new(Own(AtomicU32::new(0)));
    let worker = broker.worker().function("bang", bang).function("slow", slow).retry(Shared(own.clone()));
    run(worker).await;
    let jobs = broker.jobs().await;
    for (job, kind) in jobs.iter().zip(["panic", "Timeout"]) {
        let queue = job.spec.as_ref().map(|spec| spec.queue.as_str());
        assert_eq!((job.state(), queue, failure(job).kind.as_str()), (JobState::Scheduled, Some("again"), kind));
    }
    assert_eq!(own.0.load(Ordering::Relaxed), 2);
}

async fn a_decision_outlives_the_worker_that_made_it(on: On) {
    let broker = Scene::start(on).await;
    defer(&broker, "fail").await;
    run(worker(&broker, own())).await;
    broker.advance(MINUTE * 2).await;
    // The next one has no strategy, and serves only the queue that the first one chose.
    let fine = |(): (), _: Context| async { Ok::<_, TaskError>(()) };
    run(broker.worker().queues(["again"]).function("fail", fine)).await;
    let job = only_job(&broker).await;
    assert_eq!((job.state(), job.attempts), (JobState::Succeeded, 2));
}

/// A task that says itself how it is retried: five attempts for each of its jobs.
struct Flaky;

impl Task for Flaky {
    const NAME: &'static str = "flaky";
    type Args = ();
    type Output = u32;
    type Error = TaskError;
    type State = ();

    fn options() -> TaskOptions {
        TaskOptions::new().retry(RetryPolicy::attempts(5))
    }

    async fn run((): (), ctx: Context) -> Result<u32, TaskError> {
        if ctx.attempt() < 4 {
            Err(TaskError::new("Flaky", "who could have seen this coming"))
        } else {
            Ok(ctx.attempt())
        }
    }
}

async fn a_number_of_attempts_may_be_given_to_a_task_or_to_a_job(on: On) {
    let broker = Scene::start(on).await;
    let task = broker.client().defer::<Flaky>(()).await.expect("a job").job_id;
    let job = broker.client().defer::<Flaky>(()).retry(2).await.expect("a job").job_id;
    let forever = broker.client().defer::<Flaky>(()).retry(RetryPolicy::forever()).await.expect("a job").job_id;
    run(broker.worker().task::<Flaky>()).await;
    let ends: Vec<_> = broker.jobs().await.iter().map(|job| (job.id, job.state(), job.attempts)).collect();
    let (fine, failed) = (JobState::Succeeded, JobState::Failed);
    assert_eq!(ends, [(task, fine, 4), (job, failed, 2), (forever, fine, 4)]);
}

async fn only_errors_of_the_named_kinds_are_tried_again(on: On) {
    async fn unstable((): (), ctx: Context) -> Result<(), TaskError> {
        match ctx.attempt() {
            1 => Err("x".parse::<u32>().expect_err("no number").into()),
            2 => Err(TaskError::new("Busy", "busy")),
            _ => Err(u8::try_from(300_u32).expect_err("too large").into()),
        }
    }
    let broker = Scene::start(on).await;
    let policy = RetryPolicy::forever().only::<std::num::ParseIntError>().only_kind("Busy");
    broker.client().defer_named("unstable", ()).retry(policy).await.expect("a job");
    run(broker.worker().function("unstable", unstable)).await;
    let job = only_job(&broker).await;
    assert_eq!((job.state(), job.attempts), (JobState::Failed, 3));
    assert!(failure(&job).kind.ends_with("TryFromIntError"), "{job:?}");
}

async fn the_broker_waits_as_the_policy_says(on: On) {
    for (policy, waits) in [
        (RetryPolicy::forever().wait(MINUTE), [1, 1, 1]),
        (RetryPolicy::forever().linear(MINUTE), [1, 2, 3]),
        (RetryPolicy::forever().exponential(MINUTE).factor(3.0), [1, 3, 9]),
        (RetryPolicy::forever().wait(MINUTE).linear(MINUTE).exponential(MINUTE).max_wait(MINUTE * 5), [3, 5, 5]),
    ] {
        let broker = Scene::start(on).await;
        broker.client().defer_named("fail", ()).retry(policy.clone()).await.expect("a job");
        for (attempts, minutes) in (1..).zip(waits) {
            run(worker(&broker, TaskOptions::new())).await;
            let wait = wait_of(&broker).await;
            assert!((MINUTE * minutes..MINUTE * minutes + SLACK).contains(&wait), "{policy:?} {wait:?}");
            assert_eq!(policy.wait_after(attempts), MINUTE * minutes);
            broker.advance(wait).await;
        }
    }
}

async fn a_huge_wait_is_clamped(on: On) {
    let broker = Scene::start(on).await;
    let century = MINUTE * 60 * 24 * 36_500;
    let year = MINUTE * 60 * 24 * 365;
    let policy = RetryPolicy::forever().exponential(year).factor(100.0).max_wait(century);
    broker.client().defer_named("fail", ()).retry(policy).await.expect("a job");
    for _ in 0..3 {
        run(worker(&broker, TaskOptions::new())).await;
        broker.advance(wait_of(&broker).await).await;
    }
    assert_eq!(only_job(&broker).await.attempts, 3);
}

async fn a_snooze_is_no_attempt(on: On) {
    let broker = Scene::start(on).await;
    let job = defer(&broker, "later").await;
    let later = |(): (), ctx: Context| async move {
        if ctx.delivery() == 1 { Err(TaskError::snooze(MINUTE)) } else { Ok(ctx.attempt()) }
    };
    run(broker.worker().function("later", later)).await;
    assert_eq!(only_job(&broker).await.state(), JobState::Scheduled);
    broker.advance(MINUTE * 2).await;
    run(broker.worker().function("later", later)).await;
    assert_eq!(result::<u32>(&broker, job).await, 1);
}
