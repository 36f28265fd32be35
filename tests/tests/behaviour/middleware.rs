//! Code around every attempt.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use cabbage_worker::{Attempt, Context, Middleware, Next, Outcome, RetryPolicy, TaskError, TaskOptions, v1::JobState};

use crate::{
    both::on_both_stores,
    scene::{On, Running, Scene, defer, end_of, failure, noop, only_job, result, run, states},
};

on_both_stores! {
    middleware_of_the_worker_is_around_that_of_the_task_and_the_first_is_outermost,
    middleware_of_a_task_is_not_around_the_others,
    what_middleware_puts_into_one_attempt_is_not_seen_in_another,
    middleware_may_change_arguments_results_and_errors,
    an_error_that_middleware_swallows_is_a_success,
    middleware_may_answer_without_the_handler,
    middleware_may_stop_the_worker_and_its_job_still_ends,
    middleware_sees_the_panic_of_a_handler_as_an_error,
    a_panic_of_middleware_is_one_of_the_attempt,
}

/// Writes its name when it is entered and left.
struct Named(&'static str, Arc<Mutex<Vec<String>>>);

impl Middleware for Named {
    async fn around(&self, attempt: Attempt, next: Next) -> Outcome {
        self.1.lock().expect("no panic").push(format!("{} in", self.0));
        let outcome = next.run(attempt).await;
        self.1.lock().expect("no panic").push(format!("{} out", self.0));
        outcome
    }
}

async fn middleware_of_the_worker_is_around_that_of_the_task_and_the_first_is_outermost(on: On) {
    let broker = Scene::start(on).await;
    let log = Arc::new(Mutex::new(Vec::new()));
    let named = |name| Named(name, log.clone());
    let handler = {
        let log = log.clone();
        move |(): (), _: Context| {
            log.lock().expect("no panic").push("handler".to_owned());
            async { Ok::<_, TaskError>(()) }
        }
    };
    let options = TaskOptions::new().middleware(named("task 1")).middleware(named("task 2"));
    defer(&broker, "t").await;
    let worker = broker.worker().function_with("t", options, handler);
    run(worker.middleware(named("worker 1")).middleware(named("worker 2"))).await;
    let order = log.lock().expect("no panic").join(", ");
    assert_eq!(
        order,
        "worker 1 in, worker 2 in, task 1 in, task 2 in, handler, task 2 out, task 1 out, worker 2 out, worker 1 out"
    );
}

async fn middleware_of_a_task_is_not_around_the_others(on: On) {
    let broker = Scene::start(on).await;
    defer(&broker, "guarded").await;
    defer(&broker, "free").await;
    let refuse = |_: Attempt, _: Next| async { Err(TaskError::new("Refused", "not today")) };
    let worker = broker.worker().function("free", noop);
    let worker = worker.function_with("guarded", TaskOptions::new().middleware(refuse), noop);
    run(worker).await;
    assert_eq!(states(&broker).await, [JobState::Failed, JobState::Succeeded]);
}

/// How many attempts a set of values has seen.
#[derive(Clone, Copy)]
struct Seen(u32);

async fn what_middleware_puts_into_one_attempt_is_not_seen_in_another(on: On) {
    async fn count(mut attempt: Attempt, next: Next) -> Outcome {
        let seen = attempt.get::<Seen>().copied().expect("the worker has it");
        attempt.insert(Seen(seen.0 + 1));
        if attempt.id() == 1 {
            attempt.insert("for the first job");
        }
        next.run(attempt).await
    }
    async fn tell((): (), ctx: Context) -> Result<(u32, bool), TaskError> {
        Ok((ctx.extension::<Seen>().map_or(0, |seen| seen.0), ctx.extension::<&str>().is_some()))
    }
    let broker = Scene::start(on).await;
    let jobs = [defer(&broker, "tell").await, defer(&broker, "tell").await];
    let worker = broker.worker().function("tell", tell).extension(Seen(0)).middleware(count);
    run(worker).await;
    assert_eq!(result::<(u32, bool)>(&broker, jobs[0]).await, (1, true));
    assert_eq!(result::<(u32, bool)>(&broker, jobs[1]).await, (1, false));
}

async fn middleware_may_change_arguments_results_and_errors(on: On) {
    async fn change(mut attempt: Attempt, next: Next) -> Outcome {
        let number: u32 = serde_json::from_slice(attempt.args())?;
        attempt.set_args((number + 1).to_string());
        let result = next.run(attempt).await.map_err(|error| TaskError::new("Renamed", error.message()))?;
        Ok(Bytes::from(format!("[{}]", String::from_utf8_lossy(&result))))
    }
    async fn double(number: u32, _: Context) -> Result<u32, TaskError> {
        if number > 10 { Err(TaskError::new("TooMuch", "too much")) } else { Ok(number * 2) }
    }
    let broker = Scene::start(on).await;
    let fine = broker.client().defer_named("double", 4).await.expect("a job").job_id;
    let wrong = broker.client().defer_named("double", 40).await.expect("a job").job_id;
    run(broker.worker().function("double", double).middleware(change)).await;
    assert_eq!(result::<Vec<u32>>(&broker, fine).await, [10]);
    assert_eq!(failure(&end_of(&broker, wrong).await).kind, "Renamed");
}

async fn an_error_that_middleware_swallows_is_a_success(on: On) {
    let broker = Scene::start(on).await;
    broker.client().defer_named("fail", ()).retry(5).await.expect("a job");
    let fail = |(): (), _: Context| async { Err::<(), _>(TaskError::new("Wrong", "wrong")) };
    let swallow = |attempt: Attempt, next: Next| async move { next.run(attempt).await.or(Ok(Bytes::new())) };
    run(broker.worker().function("fail", fail).middleware(swallow)).await;
    let job = only_job(&broker).await;
    assert_eq!((job.state(), job.attempts), (JobState::Succeeded, 1));
}

async fn middleware_may_answer_without_the_handler(on: On) {
    let broker = Scene::start(on).await;
    let job = defer(&broker, "cached").await;
    let ran = Arc::new(AtomicU32::new(0));
    let handler = {
        let ran = ran.clone();
        move |(): (), _: Context| {
            ran.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, TaskError>("fresh") }
        }
    };
    let cache = |_: Attempt, _: Next| async { Ok(Bytes::from_static(br#""cached""#)) };
    run(broker.worker().function("cached", handler).middleware(cache)).await;
    assert_eq!(result::<String>(&broker, job).await, "cached");
    assert_eq!(ran.load(Ordering::Relaxed), 0);
}

async fn middleware_may_stop_the_worker_and_its_job_still_ends(on: On) {
    async fn stop_after(attempt: Attempt, next: Next) -> Outcome {
        let worker = attempt.worker().clone();
        let outcome = next.run(attempt).await;
        worker.stop();
        outcome
    }
    let broker = Scene::start(on).await;
    let (first, second) = (defer(&broker, "t").await, defer(&broker, "t").await);
    let worker = broker.worker().function("t", noop).concurrency(1).middleware(stop_after);
    let status = Running::start(worker).ends().await;
    assert_eq!(status.counters.started, 1);
    let job = |id| broker.client().get(id);
    assert_eq!(job(first).await.expect("a job").state(), JobState::Succeeded);
    assert_eq!(job(second).await.expect("a job").state(), JobState::Waiting);
}

async fn middleware_sees_the_panic_of_a_handler_as_an_error(on: On) {
    async fn rename(attempt: Attempt, next: Next) -> Outcome {
        next.run(attempt).await.map_err(|error| TaskError::new(format!("after {}", error.kind().unwrap_or("")), ""))
    }
    async fn bang((): (), _: Context) -> Result<(), TaskError> {
        panic!("bang")
    }
    let broker = Scene::start(on).await;
    defer(&broker, "bang").await;
    run(broker.worker().function("bang", bang).middleware(rename)).await;
    assert_eq!(failure(&only_job(&broker).await).kind, "after panic");
}

async fn a_panic_of_middleware_is_one_of_the_attempt(on: On) {
    async fn bang(_: Attempt, _: Next) -> Outcome {
        panic!("bang")
    }
    let broker = Scene::start(on).await;
    broker.client().defer_named("t", ()).retry(RetryPolicy::attempts(2)).await.expect("a job");
    let status = run(broker.worker().function("t", noop).middleware(bang)).await;
    let job = only_job(&broker).await;
    assert_eq!((job.state(), job.attempts, status.counters.failed), (JobState::Failed, 2, 2));
    assert_eq!((failure(&job).kind.as_str(), failure(&job).message.as_str()), ("panic", "bang"));
}
