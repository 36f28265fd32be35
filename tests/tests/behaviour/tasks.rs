//! Names of tasks, and what handlers know.

use cabbage_worker::{Context, Task, TaskError, TaskOptions, Tasks, v1::JobState};
use tokio::sync::{Barrier, Semaphore, mpsc::UnboundedSender, mpsc::unbounded_channel};

use crate::{
    both::on_both_stores,
    scene::{On, Scene, defer, noop, only_job, result, run, states},
};

on_both_stores! {
    a_renamed_task_runs_jobs_under_its_old_names,
    a_limit_of_a_task_holds_over_all_its_names,
    namespaces_nest_and_producers_use_the_same_names,
    a_job_of_an_unknown_task_waits_and_does_not_fail,
    a_handler_sees_its_worker_and_what_the_worker_was_given,
    async_and_blocking_tasks_share_a_queue_and_run_in_order,
    a_blocking_task_may_run_an_event_loop_of_its_own,
}

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

async fn a_renamed_task_runs_jobs_under_its_old_names(on: On) {
    let broker = Scene::start(on).await;
    for task in ["older", "old", "new", "other"] {
        defer(&broker, task).await;
    }
    let other = TaskOptions::new().alias("other");
    run(broker.worker().task::<Renamed>().function_with("function", other, name)).await;
    for (job, name) in (1..).zip(["older", "old", "new", "other"]) {
        assert_eq!(result::<String>(&broker, job).await, name);
    }
}

async fn a_limit_of_a_task_holds_over_all_its_names(on: On) {
    let broker = Scene::start(on).await;
    for task in ["a", "b", "a", "b"] {
        defer(&broker, task).await;
    }
    let alone = |(): (), ctx: Context<Semaphore>| async move {
        let _alone = ctx.state().try_acquire()?;
        // The others would start now if they could.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        Ok::<_, TaskError>(())
    };
    let options = TaskOptions::new().alias("b").max_concurrent(1);
    run(broker.worker().state(Semaphore::new(1)).function_with("a", options, alone)).await;
    assert_eq!(states(&broker).await, [JobState::Succeeded; 4]);
}

async fn namespaces_nest_and_producers_use_the_same_names(on: On) {
    let broker = Scene::start(on).await;
    let client = broker.client();
    client.defer_named("mail:send", ()).await.expect("a job");
    client.defer_named("old", ()).namespace("mail").await.expect("a job");
    client.defer::<Renamed>(()).namespace("mail").namespace("shop").await.expect("a job");
    client.defer_named("send", ()).namespace("shop:mail").await.expect("a job");
    let mail = || Tasks::new().function("send", name).task::<Renamed>();
    let shop = Tasks::new().namespace("mail", mail());
    run(broker.worker().namespace("mail", mail()).namespace("shop", shop)).await;
    for (job, name) in (1..).zip(["mail:send", "mail:old", "shop:mail:new", "shop:mail:send"]) {
        assert_eq!(result::<String>(&broker, job).await, name);
    }
}

async fn a_job_of_an_unknown_task_waits_and_does_not_fail(on: On) {
    let broker = Scene::start(on).await;
    defer(&broker, "unknown").await;
    run(broker.worker().function("known", noop)).await;
    assert_eq!(only_job(&broker).await.state(), JobState::Waiting);
}

async fn a_handler_sees_its_worker_and_what_the_worker_was_given(on: On) {
    struct Greeting(&'static str);
    async fn greet((): (), ctx: Context<u32>) -> Result<String, TaskError> {
        let greeting = ctx.extension::<Greeting>().map_or("", |greeting| greeting.0);
        Ok(format!("{greeting} from {} with {}, queue {}", ctx.worker_name(), ctx.state(), ctx.queue()))
    }
    let broker = Scene::start(on).await;
    let job = defer(&broker, "greet").await;
    let worker = broker.worker().name("worker 7").state(7_u32).extension(Greeting("hello"));
    run(worker.function("greet", greet)).await;
    let greeting: String = result(&broker, job).await;
    assert_eq!(greeting, "hello from worker 7 with 7, queue default");
}

async fn async_and_blocking_tasks_share_a_queue_and_run_in_order(on: On) {
    let broker = Scene::start(on).await;
    let (order, mut ran) = unbounded_channel::<String>();
    for task in ["async", "blocking", "blocking", "async"] {
        defer(&broker, task).await;
    }
    let wait = |(): (), ctx: Context<UnboundedSender<String>>| async move {
        ctx.state().send(format!("{} {}", ctx.task(), ctx.id()))
    };
    let block =
        |(): (), ctx: Context<UnboundedSender<String>>| ctx.state().send(format!("{} {}", ctx.task(), ctx.id()));
    let worker = broker.worker().state(order).function("async", wait).blocking("blocking", block);
    run(worker.concurrency(1)).await;
    for expected in ["async 1", "blocking 2", "blocking 3", "async 4"] {
        assert_eq!(ran.recv().await.as_deref(), Some(expected));
    }
}

async fn a_blocking_task_may_run_an_event_loop_of_its_own(on: On) {
    let broker = Scene::start(on).await;
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
    run(broker.worker().blocking("loop", own_loop)).await;
    assert_eq!(result::<u32>(&broker, job).await, 1);
}
