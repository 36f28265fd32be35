//! Names of tasks, and what handlers know.

use cabbage_worker::{Context, Task, TaskError, TaskOptions, Tasks, testing::TestBroker, v1::JobState};
use tokio::sync::Barrier;

use crate::scene::{defer, noop, only_job, soon, states};

/// What a handler is called.
async fn name((): (), ctx: Context) -> Result<String, TaskError> {
    Ok(ctx.task().to_owned())
}

struct Renamed;

impl Task for Renamed {
    const NAME: &'static str = "new";
    const ALIASES: &'static [&'static str] = &["old", "older"];
    type Args = ();
    type Output = String;
    type Error = TaskError;
    type State = ();

    async fn run((): (), ctx: Context) -> Result<String, TaskError> {
        name((), ctx).await
    }
}

#[tokio::test]
async fn a_renamed_task_runs_jobs_under_its_old_names() {
    let broker = TestBroker::start().await;
    for task in ["older", "old", "new", "other"] {
        defer(&broker, task).await;
    }
    let other = TaskOptions::new().alias("other");
    broker.run(broker.worker().task::<Renamed>().function_with("function", other, name)).await.expect("a worker");
    for (job, name) in (1..).zip(["older", "old", "new", "other"]) {
        assert_eq!(broker.client().result_as::<String>(job).await.expect("a result"), name);
    }
}

#[tokio::test]
async fn a_limit_of_a_task_holds_over_all_its_names() {
    let broker = TestBroker::start().await;
    for task in ["a", "b", "a", "b"] {
        defer(&broker, task).await;
    }
    static RUNNING: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(1);
    let alone = |(): (), _: Context| async {
        let _alone = RUNNING.try_acquire().map_err(|_| TaskError::new("Crowd", "not alone"))?;
        // The others would start now if they could.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        Ok::<_, TaskError>(())
    };
    let options = TaskOptions::new().alias("b").max_concurrent(1);
    broker.run(broker.worker().function_with("a", options, alone)).await.expect("a worker");
    assert_eq!(states(&broker).await, [JobState::Succeeded; 4]);
}

#[tokio::test]
async fn namespaces_nest_and_producers_use_the_same_names() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    client.defer_named("mail:send", ()).await.expect("a job");
    client.defer_named("old", ()).namespace("mail").await.expect("a job");
    client.defer::<Renamed>(()).namespace("mail").namespace("shop").await.expect("a job");
    client.defer_named("send", ()).namespace("shop:mail").await.expect("a job");
    let mail = || Tasks::new().function("send", name).task::<Renamed>();
    let shop = Tasks::new().namespace("mail", mail());
    broker.run(broker.worker().namespace("mail", mail()).namespace("shop", shop)).await.expect("a worker");
    for (job, name) in (1..).zip(["mail:send", "mail:old", "shop:mail:new", "shop:mail:send"]) {
        assert_eq!(client.result_as::<String>(job).await.expect("a result"), name);
    }
}

#[tokio::test]
async fn a_job_of_an_unknown_task_waits_and_does_not_fail() {
    let broker = TestBroker::start().await;
    defer(&broker, "unknown").await;
    broker.run(broker.worker().function("known", noop)).await.expect("a worker");
    assert_eq!(only_job(&broker).await.state(), JobState::Waiting);
}

#[tokio::test]
async fn a_handler_sees_its_worker_and_what_the_worker_was_given() {
    struct Greeting(&'static str);
    async fn greet((): (), ctx: Context<u32>) -> Result<String, TaskError> {
        let greeting = ctx.extension::<Greeting>().map_or("", |greeting| greeting.0);
        Ok(format!("{greeting} from {} with {}, queue {}", ctx.worker_name(), ctx.state(), ctx.queue()))
    }
    let broker = TestBroker::start().await;
    let job = defer(&broker, "greet").await;
    let worker = broker.worker().name("worker 7").state(7_u32).extension(Greeting("hello"));
    broker.run(worker.function("greet", greet)).await.expect("a worker");
    let greeting: String = broker.client().result_as(job).await.expect("a result");
    assert_eq!(greeting, "hello from worker 7 with 7, queue default");
}

#[tokio::test]
async fn async_and_blocking_tasks_share_a_queue_and_run_in_order() {
    let broker = TestBroker::start().await;
    type Order = tokio::sync::mpsc::UnboundedSender<String>;
    let (order, mut ran) = tokio::sync::mpsc::unbounded_channel::<String>();
    for task in ["async", "blocking", "blocking", "async"] {
        defer(&broker, task).await;
    }
    let wait = |(): (), ctx: Context<Order>| async move { ctx.state().send(format!("{} {}", ctx.task(), ctx.id())) };
    let block = |(): (), ctx: Context<Order>| ctx.state().send(format!("{} {}", ctx.task(), ctx.id()));
    let worker = broker.worker().state(order).function("async", wait).blocking("blocking", block);
    broker.run(worker.concurrency(1)).await.expect("a worker");
    for expected in ["async 1", "blocking 2", "blocking 3", "async 4"] {
        assert_eq!(ran.recv().await.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn a_blocking_task_may_run_an_event_loop_of_its_own() {
    let broker = TestBroker::start().await;
    let job = defer(&broker, "loop").await;
    let own_loop = |(): (), _: Context| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok::<u32, std::io::Error>(runtime.block_on(async {
            let barrier = std::sync::Arc::new(Barrier::new(2));
            let other = tokio::spawn({
                let barrier = barrier.clone();
                async move { barrier.wait().await.is_leader() }
            });
            let leads = barrier.wait().await.is_leader();
            u32::from(leads) + u32::from(other.await.expect("no panic"))
        }))
    };
    broker.run(broker.worker().blocking("loop", own_loop)).await.expect("a worker");
    assert_eq!(soon(broker.client().result_as::<u32>(job)).await.expect("a result"), 1);
}
