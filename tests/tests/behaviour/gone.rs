//! Workers that go away in the middle of a job (C8, C13).

use cabbage_broker::BrokerArgs;
use cabbage_worker::{
    Context, JobFilter, TaskError,
    v1::{self, JobState, Verdict},
};
use tokio::sync::mpsc;

use crate::{
    both::on_both_stores,
    office::Office,
    scene::{On, Running, Scene, defer, end_of, noop, soon},
};

on_both_stores! {
    the_job_of_a_worker_that_went_away_runs_again_by_itself,
    a_job_whose_workers_die_fails_in_the_end,
    the_lock_of_a_worker_that_went_away_is_freed,
    only_the_jobs_of_workers_that_went_away_are_given_to_others,
}

/// A short grace of broken streams, for tests that wait for a session to end. Silence has its time, so that a machine
/// that stalls ends no other session.
fn short(args: &mut BrokerArgs) {
    args.intervals.beat_ms = 50;
    args.intervals.watchdog_ms = 1_000;
    args.intervals.grace_ms = 1_500;
    args.intervals.session_ms = 20_000;
}

/// Starts a worker, and lets it go away without a word once it runs this job, and the broker knows that it received it:
/// from the worker's results of a later one.
async fn goes_away_with(broker: &Scene, job: i64) {
    let mut office = Office::new();
    let worker = tokio::spawn(office.worker(broker).build().expect("a worker").run());
    assert_eq!(office.next().await, job);
    let later = defer(broker, "noop").await;
    assert_eq!(end_of(broker, later).await.state(), JobState::Succeeded);
    worker.abort();
    assert!(soon(worker).await.is_err_and(|end| end.is_cancelled()));
}

fn verdicts(job: &v1::Job) -> Vec<Verdict> {
    job.history.iter().map(v1::Attempt::verdict).collect()
}

async fn the_job_of_a_worker_that_went_away_runs_again_by_itself(on: On) {
    let broker = Scene::start_with(on, short).await;
    let job = defer(&broker, "hold").await;
    goes_away_with(&broker, job).await;
    let mut office = Office::new();
    office.open();
    let worker = office.at_work(&broker, job).await;
    let end = end_of(&broker, job).await;
    worker.stop().await;
    assert_eq!(verdicts(&end), [Verdict::Crashed, Verdict::Succeeded]);
    assert_eq!((end.state(), end.attempts, end.deliveries, end.crashes), (JobState::Succeeded, 1, 2, 1));
    // A list counts as the job itself does, though it shows no history.
    let listed = broker.client().list(JobFilter::new().task("hold")).next().await.expect("a page").expect("a job");
    assert_eq!((listed.id, listed.crashes, listed.history.len()), (job, 1, 0));
}

async fn a_job_whose_workers_die_fails_in_the_end(on: On) {
    let broker = Scene::start_with(on, short).await;
    // It never has an attempt, so this does not count.
    let job = broker.client().defer_named("hold", ()).retry(100).await.expect("a job").job_id;
    for _ in 0..3 {
        goes_away_with(&broker, job).await;
    }
    let end = end_of(&broker, job).await;
    assert_eq!((end.state(), end.attempts, end.deliveries), (JobState::Failed, 0, 3));
    assert_eq!(end.last_attempt.expect("an end").reason, "CRASHED");
}

async fn the_lock_of_a_worker_that_went_away_is_freed(on: On) {
    let broker = Scene::start_with(on, short).await;
    let lock = |task: &str| broker.client().defer_named(task, ()).lock("l");
    let first = lock("hold").await.expect("a job").job_id;
    goes_away_with(&broker, first).await;
    let second = lock("noop").await.expect("a job").job_id;
    let (desk, mut runs) = mpsc::unbounded_channel::<i64>();
    let hold = |(): (), ctx: Context<mpsc::UnboundedSender<i64>>| async move {
        ctx.state().send(ctx.id())?;
        Ok::<_, TaskError>(())
    };
    let worker = broker.worker().state(desk).function("hold", hold).function("noop", noop);
    let worker = Running::start(worker);
    assert_eq!(end_of(&broker, second).await.state(), JobState::Succeeded);
    assert_eq!(soon(runs.recv()).await, Some(first));
    worker.stop().await;
}

async fn only_the_jobs_of_workers_that_went_away_are_given_to_others(on: On) {
    let broker = Scene::start_with(on, short).await;
    let kept = broker.client().defer_named("hold", ()).queue("kept").await.expect("a job").job_id;
    let mut stays = Office::new();
    let staying = Running::start(stays.worker(&broker).queues(["kept"]));
    assert_eq!(stays.next().await, kept);
    let lost = defer(&broker, "hold").await;
    goes_away_with(&broker, lost).await;
    // Another worker starts, and would take both.
    let mut office = Office::new();
    office.open();
    let worker = office.at_work(&broker, lost).await;
    assert_eq!(verdicts(&end_of(&broker, lost).await), [Verdict::Crashed, Verdict::Succeeded]);
    stays.open();
    assert_eq!(verdicts(&end_of(&broker, kept).await), [Verdict::Succeeded]);
    assert!(office.rest().is_empty(), "it was given no other job");
    worker.stop().await;
    staying.stop().await;
}
