//! What outlives a broker: everything.

use std::time::Duration;

use cabbage_worker::{
    Context, RetryPolicy, TaskError,
    v1::{
        JobState::{self, Scheduled, Succeeded, Waiting},
        WaitingFor,
    },
};

use crate::{
    both::on_both_stores,
    office::Office,
    scene::{On, Scene, defer, end_of, noop, run, states},
};

on_both_stores! {
    jobs_that_wait_and_a_retry_are_there_after_a_restart,
    a_running_job_goes_on_over_a_restart,
}

async fn jobs_that_wait_and_a_retry_are_there_after_a_restart(on: On) {
    let broker = Scene::start(on).await;
    let fail = |(): (), _: Context| async { Err::<(), _>(TaskError::new("Wrong", "wrong")) };
    let policy = RetryPolicy::attempts(2).wait(Duration::from_mins(10));
    broker.client().defer_named("fails", ()).retry(policy).await.expect("a job");
    run(broker.worker().function("fails", fail)).await;
    let client = broker.client();
    client.defer_named("noop", ()).schedule_in(Duration::from_mins(10)).await.expect("a job");
    client.defer_named("noop", ()).queueing_lock("one").await.expect("a job");
    client.pause_queue("quiet", "").await.expect("an answer");
    let quiet = client.defer_named("noop", ()).queue("quiet").await.expect("a job").job_id;

    let broker = broker.restart().await;
    assert_eq!(states(&broker).await, [Scheduled, Scheduled, Waiting, Waiting]);
    assert_eq!(broker.client().get(quiet).await.expect("a job").waiting_for(), WaitingFor::Paused);
    broker.client().defer_named("noop", ()).queueing_lock("one").await.expect_err("it is still taken");
    run(broker.worker().function("noop", noop)).await;
    assert_eq!(states(&broker).await, [Scheduled, Scheduled, Succeeded, Waiting]);
    broker.advance(Duration::from_mins(15)).await;
    broker.client().resume_queue("quiet", "").await.expect("it exists");
    run(broker.worker().function("noop", noop).function("fails", noop)).await;
    let jobs = broker.jobs().await;
    assert!(jobs.iter().all(|job| job.state() == Succeeded), "{jobs:?}");
    assert_eq!(jobs[0].attempts, 2);
}

async fn a_running_job_goes_on_over_a_restart(on: On) {
    let broker = Scene::start(on).await;
    let job = defer(&broker, "hold").await;
    let mut office = Office::new();
    let worker = office.at_work(&broker, job).await;
    let broker = broker.restart().await;
    assert_eq!(broker.client().get(job).await.expect("a job").state(), JobState::Running);
    office.open();
    let end = end_of(&broker, job).await;
    assert_eq!((end.state(), end.attempts, end.deliveries, end.crashes), (JobState::Succeeded, 1, 1, 0));
    // No other worker was given it meanwhile.
    assert_eq!(worker.stop().await.counters.started, 1);
}
