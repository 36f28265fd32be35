//! Locks: jobs that carry the same one never run at the same time (C9).

use std::{sync::Arc, time::Duration};

use cabbage_worker::{
    Context, Defer, LockMode, RetryPolicy, TaskError,
    v1::{JobState, WaitingFor},
};
use tokio::sync::{Barrier, Mutex, mpsc};

use crate::{
    both::on_both_stores,
    office::Office,
    scene::{On, Running, Scene, end_of, noop, run, soon, states},
};

on_both_stores! {
    a_job_does_not_start_while_its_lock_is_held_whatever_its_priority,
    jobs_of_a_lock_run_one_after_the_other_in_order_of_creation,
    jobs_without_a_lock_run_at_the_same_time,
    a_job_that_was_told_to_stop_still_holds_its_lock,
    a_failure_frees_the_lock,
    a_retry_at_once_goes_before_later_jobs_of_its_lock,
    a_job_that_waits_for_its_retry_does_not_hold_its_lock,
    a_job_that_is_due_later_does_not_hold_its_lock,
    a_job_that_nobody_serves_does_not_hold_its_lock,
    a_strict_job_waits_until_all_earlier_jobs_of_its_lock_are_final,
    a_cancelled_job_lets_the_next_of_its_lock_go,
    a_freed_lock_wakes_an_idle_worker,
}

fn locked(broker: &Scene, task: &str) -> Defer {
    broker.client().defer_named(task, ()).lock("alphabet")
}

async fn a_job_does_not_start_while_its_lock_is_held_whatever_its_priority(on: On) {
    let broker = Scene::start(on).await;
    let first = locked(&broker, "hold").await.expect("a job").job_id;
    let mut office = Office::new();
    let worker = office.at_work(&broker, first).await;
    // In another queue, of another task, more urgent.
    let second = locked(&broker, "noop").queue("other").priority(100).await.expect("a job").job_id;
    let other = run(broker.worker().function("noop", noop)).await;
    assert_eq!(other.counters.started, 0);
    let waits = broker.client().get(second).await.expect("a job");
    assert_eq!((waits.state(), waits.waiting_for()), (JobState::Waiting, WaitingFor::Blocked));
    office.open();
    let (first, second) = (end_of(&broker, first).await, end_of(&broker, second).await);
    worker.stop().await;
    let micros = |at: Option<prost_types::Timestamp>| at.map(|at| (at.seconds, at.nanos));
    assert!(micros(second.started_at) >= micros(first.finished_at), "{first:?} {second:?}");
}

/// A file that nobody may have to themselves, and what was written into it.
#[derive(Default)]
struct File {
    lock: Mutex<()>,
    letters: std::sync::Mutex<String>,
}

/// Writes a letter in two steps; whoever comes between them fails.
async fn write(letter: String, ctx: Context<File>) -> Result<(), TaskError> {
    let _alone = ctx.state().lock.try_lock()?;
    tokio::task::yield_now().await;
    ctx.state().letters.lock().expect("no panic").push_str(&letter);
    Ok(())
}

async fn jobs_of_a_lock_run_one_after_the_other_in_order_of_creation(on: On) {
    let broker = Scene::start(on).await;
    // Priorities decide between locks, not within one.
    for (letter, priority) in [("a", 0), ("b", 5), ("c", -5), ("d", 100), ("e", 0)] {
        let job = broker.client().defer_named("write", letter).lock("alphabet").priority(priority);
        job.await.expect("a job");
    }
    let file = Arc::new(File::default());
    let worker = || broker.worker().shared_state(file.clone()).function("write", write);
    tokio::join!(run(worker()), run(worker()), run(worker()));
    run(worker()).await;
    assert_eq!(states(&broker).await, [JobState::Succeeded; 5]);
    assert_eq!(*file.letters.lock().expect("no panic"), "abcde");
}

async fn jobs_without_a_lock_run_at_the_same_time(on: On) {
    let broker = Scene::start(on).await;
    for _ in 0..2 {
        broker.client().defer_named("meet", ()).await.expect("a job");
        broker.client().defer_named("meet", ()).lock("").await.expect("a job");
    }
    // Nobody ends before all four run.
    let meet = |(): (), ctx: Context<Barrier>| async move {
        ctx.state().wait().await;
        Ok::<_, TaskError>(())
    };
    run(broker.worker().state(Barrier::new(4)).function("meet", meet)).await;
    assert_eq!(states(&broker).await, [JobState::Succeeded; 4]);
}

async fn a_job_that_was_told_to_stop_still_holds_its_lock(on: On) {
    let broker = Scene::start(on).await;
    let first = locked(&broker, "hold").await.expect("a job").job_id;
    let mut office = Office::new();
    let worker = office.at_work(&broker, first).await;
    let second = locked(&broker, "noop").await.expect("a job").job_id;
    assert_eq!(broker.client().cancel(first, "").await.expect("the broker takes it"), JobState::Running);
    assert!(broker.client().get(first).await.expect("a job").cancel_requested);
    assert_eq!(run(broker.worker().function("noop", noop)).await.counters.started, 0);
    office.open();
    assert_eq!(end_of(&broker, second).await.state(), JobState::Succeeded);
    worker.stop().await;
}

/// Where handlers say which job runs.
type Desk = mpsc::UnboundedSender<i64>;

/// Fails at the first attempt.
async fn fail_once((): (), ctx: Context<Desk>) -> Result<(), TaskError> {
    ctx.state().send(ctx.id())?;
    if ctx.attempt() == 1 { Err(TaskError::new("Wrong", "wrong")) } else { Ok(()) }
}

async fn note((): (), ctx: Context<Desk>) -> Result<(), TaskError> {
    Ok(ctx.state().send(ctx.id())?)
}

/// The jobs that ran, in their order.
async fn order(broker: &Scene) -> Vec<i64> {
    let (desk, mut runs) = mpsc::unbounded_channel::<i64>();
    run(broker.worker().state(desk).function("fail once", fail_once).function("note", note)).await;
    std::iter::from_fn(|| runs.try_recv().ok()).collect()
}

async fn a_failure_frees_the_lock(on: On) {
    let broker = Scene::start(on).await;
    locked(&broker, "fail once").await.expect("a job");
    locked(&broker, "note").await.expect("a job");
    order(&broker).await;
    assert_eq!(states(&broker).await, [JobState::Failed, JobState::Succeeded]);
}

async fn a_retry_at_once_goes_before_later_jobs_of_its_lock(on: On) {
    let broker = Scene::start(on).await;
    let first = locked(&broker, "fail once").retry(2).await.expect("a job").job_id;
    let second = locked(&broker, "note").await.expect("a job").job_id;
    assert_eq!(order(&broker).await, [first, first, second]);
}

async fn a_job_that_waits_for_its_retry_does_not_hold_its_lock(on: On) {
    let broker = Scene::start(on).await;
    let policy = RetryPolicy::attempts(2).wait(Duration::from_secs(20));
    let first = locked(&broker, "fail once").retry(policy).await.expect("a job").job_id;
    let second = locked(&broker, "note").await.expect("a job").job_id;
    assert_eq!(order(&broker).await, [first, second]);
    // It takes its old place once it is due.
    let third = locked(&broker, "note").await.expect("a job").job_id;
    broker.advance(Duration::from_secs(25)).await;
    assert_eq!(order(&broker).await, [first, third]);
}

async fn a_job_that_is_due_later_does_not_hold_its_lock(on: On) {
    let broker = Scene::start(on).await;
    let later = locked(&broker, "note").schedule_in(Duration::from_mins(1)).await.expect("a job").job_id;
    let now = locked(&broker, "note").await.expect("a job").job_id;
    assert_eq!(order(&broker).await, [now]);
    broker.advance(Duration::from_mins(2)).await;
    assert_eq!(order(&broker).await, [later]);
}

async fn a_job_that_nobody_serves_does_not_hold_its_lock(on: On) {
    let broker = Scene::start(on).await;
    locked(&broker, "of nobody").await.expect("a job");
    let served = locked(&broker, "note").await.expect("a job").job_id;
    assert_eq!(order(&broker).await, [served]);
}

async fn a_strict_job_waits_until_all_earlier_jobs_of_its_lock_are_final(on: On) {
    let broker = Scene::start(on).await;
    let strict = |task: &str| locked(&broker, task).lock_mode(LockMode::Strict);
    let later = locked(&broker, "note").schedule_in(Duration::from_mins(1)).await.expect("a job").job_id;
    let last = strict("note").await.expect("a job").job_id;
    assert_eq!(order(&broker).await, [0; 0]);
    broker.advance(Duration::from_mins(2)).await;
    assert_eq!(order(&broker).await, [later, last]);
}

async fn a_cancelled_job_lets_the_next_of_its_lock_go(on: On) {
    let broker = Scene::start(on).await;
    let first = locked(&broker, "note").await.expect("a job").job_id;
    let second = locked(&broker, "note").lock_mode(LockMode::Strict).await.expect("a job").job_id;
    broker.client().cancel(first, "").await.expect("the broker takes it");
    assert_eq!(order(&broker).await, [second]);
}

async fn a_freed_lock_wakes_an_idle_worker(on: On) {
    let broker = Scene::start(on).await;
    let first = locked(&broker, "hold").queue("one").await.expect("a job").job_id;
    let (mut one, mut two) = (Office::new(), Office::new());
    let holder = Running::start(one.worker(&broker).queues(["one"]));
    assert_eq!(one.next().await, first);
    let second = locked(&broker, "hold").queue("two").await.expect("a job").job_id;
    let waiter = Running::start(two.worker(&broker).queues(["two"]));
    soon(waiter.handle.wait_for(|status| status.connected)).await.expect("a worker");
    assert_eq!(two.rest(), [0; 0]);
    one.let_one_go();
    assert_eq!(two.next().await, second);
    two.open();
    holder.stop().await;
    waiter.stop().await;
}
