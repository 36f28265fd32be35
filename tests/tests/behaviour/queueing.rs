//! Queueing locks: at most one job of a value waits unstarted (C10).

use std::time::Duration;

use cabbage_worker::{Batch, Context, Defer, Error, NewJob, QueueingConflict, RetryPolicy, TaskError, v1::JobState};
use futures::future::join_all;

use crate::{
    both::on_both_stores,
    office::Office,
    scene::{On, Scene, noop, only_job, result, run, states},
};

on_both_stores! {
    a_second_defer_is_refused_and_names_the_first_job,
    of_many_defers_at_once_one_is_taken,
    a_second_defer_may_move_the_first_or_give_it_its_arguments,
    one_taken_queueing_lock_in_a_batch_creates_no_job_of_it,
    one_taken_queueing_lock_among_independent_jobs_stops_only_its_own,
    a_queueing_lock_is_free_once_its_job_has_started,
    a_queueing_lock_is_free_once_its_job_is_cancelled,
    a_retry_is_never_refused_by_its_queueing_lock,
}

fn locked(broker: &Scene, task: &str) -> Defer {
    broker.client().defer_named(task, ()).queueing_lock("houston")
}

async fn a_second_defer_is_refused_and_names_the_first_job(on: On) {
    let broker = Scene::start(on).await;
    let first = locked(&broker, "noop").await.expect("a job").job_id;
    let error = locked(&broker, "noop").await.expect_err("it is taken");
    assert!(matches!(error, Error::AlreadyExists(_)), "{error}");
    assert_eq!((error.reason(), error.job_id()), (Some("QUEUEING_LOCK_TAKEN"), Some(first)));
    assert_eq!(only_job(&broker).await.id, first);
}

async fn of_many_defers_at_once_one_is_taken(on: On) {
    let broker = Scene::start(on).await;
    let answers = join_all((0..20).map(|_| locked(&broker, "noop").send())).await;
    let first = only_job(&broker).await.id;
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((taken.len(), refused.len()), (1, 19));
    assert!(refused.into_iter().all(|answer| answer.is_err_and(|error| error.job_id() == Some(first))));
}

async fn a_second_defer_may_move_the_first_or_give_it_its_arguments(on: On) {
    let broker = Scene::start(on).await;
    let hour = Duration::from_hours(1);
    let defer = async |args: i32, conflict| {
        let defer = broker.client().defer_named("tell", args).queueing_lock("houston").schedule_in(hour);
        defer.on_queueing_conflict(conflict).await.expect("no conflict").job_id
    };
    let first = broker.client().defer_named("tell", 1).queueing_lock("houston").await.expect("a job").job_id;
    // It waits, and is put off without its arguments.
    assert_eq!(defer(2, QueueingConflict::Reschedule).await, first);
    let moved = only_job(&broker).await;
    assert_eq!((moved.state(), moved.spec.expect("what was asked for").args), (JobState::Scheduled, "1".into()));
    // Again and again, by an hour from each defer, also while it is not in memory.
    broker.advance(hour / 2).await;
    assert_eq!(defer(3, QueueingConflict::Replace).await, first);
    broker.advance(hour / 2).await;
    let tell = |args: i32, _: Context| async move { Ok::<_, TaskError>(args) };
    run(broker.worker().function("tell", tell)).await;
    assert_eq!(only_job(&broker).await.state(), JobState::Scheduled, "the hour began anew");
    broker.advance(hour).await;
    run(broker.worker().function("tell", tell)).await;
    assert_eq!(result::<i32>(&broker, first).await, 3);
}

async fn one_taken_queueing_lock_in_a_batch_creates_no_job_of_it(on: On) {
    let broker = Scene::start(on).await;
    let job = |lock: &str| NewJob::named("noop").queueing_lock(lock);
    // Two of the batch want the same one; then one wants what a job outside of it has.
    let twice = Batch::from_iter([job("a"), job("b"), job("a")]);
    let error = broker.client().defer_all(twice).await.expect_err("both want it");
    assert_eq!(error.reason(), Some("QUEUEING_LOCK_TWICE"), "{error}");
    assert!(broker.jobs().await.is_empty());
    broker.client().defer_job(job("b")).await.expect("a job");
    let taken = Batch::from_iter([job("a"), job("b"), job("c")]);
    let error = broker.client().defer_all(taken).await.expect_err("it is taken");
    assert_eq!(error.reason(), Some("QUEUEING_LOCK_TAKEN"), "{error}");
    assert_eq!(only_job(&broker).await.spec.expect("what was asked for").queueing_lock, "b");
}

async fn one_taken_queueing_lock_among_independent_jobs_stops_only_its_own(on: On) {
    let broker = Scene::start(on).await;
    let job = |lock: &str| NewJob::named("noop").queueing_lock(lock);
    let batch = Batch::from_iter([job("a"), job("b"), job("a")]);
    let answers = broker.client().defer_each(batch).await.expect("answers");
    let created: Vec<_> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(created, [true, true, false]);
    assert_eq!(states(&broker).await, [JobState::Waiting; 2]);
}

async fn a_queueing_lock_is_free_once_its_job_has_started(on: On) {
    let broker = Scene::start(on).await;
    let first = locked(&broker, "hold").await.expect("a job").job_id;
    let mut office = Office::new();
    let worker = office.at_work(&broker, first).await;
    // One runs and one waits; there is no room for a third.
    broker.client().defer_named("elsewhere", ()).queueing_lock("houston").await.expect("a job");
    locked(&broker, "elsewhere").await.expect_err("it is taken again");
    office.open();
    worker.stop().await;
    assert_eq!(states(&broker).await, [JobState::Succeeded, JobState::Waiting]);
}

async fn a_queueing_lock_is_free_once_its_job_is_cancelled(on: On) {
    let broker = Scene::start(on).await;
    let first = locked(&broker, "noop").await.expect("a job").job_id;
    broker.client().cancel(first, "").await.expect("the broker takes it");
    locked(&broker, "noop").await.expect("a job");
    assert_eq!(states(&broker).await, [JobState::Cancelled, JobState::Waiting]);
}

async fn a_retry_is_never_refused_by_its_queueing_lock(on: On) {
    let broker = Scene::start(on).await;
    let policy = RetryPolicy::attempts(2).wait(Duration::from_mins(1));
    locked(&broker, "fail").retry(policy).await.expect("a job");
    // A twin waits when the first one fails.
    let fail = |(): (), ctx: Context<cabbage_worker::Client>| async move {
        if ctx.attempt() == 1 {
            ctx.state().defer_named("noop", ()).queueing_lock("houston").await?;
        }
        Err::<(), _>(TaskError::new("Wrong", "wrong"))
    };
    let client = broker.client().clone();
    run(broker.worker().state(client.clone()).function("fail", fail)).await;
    assert_eq!(states(&broker).await, [JobState::Scheduled, JobState::Waiting]);
    broker.advance(Duration::from_mins(2)).await;
    run(broker.worker().state(client).function("fail", fail).function("noop", noop)).await;
    assert_eq!(states(&broker).await, [JobState::Failed, JobState::Succeeded]);
}
