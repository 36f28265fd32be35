//! Which job goes next, to which worker, and when.

use std::time::{Duration, SystemTime};

use cabbage_worker::{Context, v1::JobState};
use tokio::sync::mpsc;

use crate::{
    both::on_both_stores,
    office::Office,
    scene::{On, Running, Scene, defer, end_of, noop, run, soon, states},
};

on_both_stores! {
    higher_priorities_run_first_and_then_the_oldest,
    a_job_that_cannot_start_holds_up_no_other,
    a_worker_of_a_queue_leaves_other_queues_alone,
    a_worker_without_queues_serves_all,
    a_running_job_is_not_given_to_another_worker,
    a_job_whose_due_time_has_passed_runs_at_once,
    a_job_of_2038_runs_after_its_time_and_not_before,
    a_delay_counts_from_the_creation,
    a_job_names_the_session_that_ran_it,
    an_idle_worker_is_given_a_new_job_without_asking,
    a_due_time_wakes_an_idle_worker,
}

/// 2038-01-19 03:14:07 UTC.
const END_OF_32_BITS: Duration = Duration::from_secs(2_147_483_647);

async fn higher_priorities_run_first_and_then_the_oldest(on: On) {
    let broker = Scene::start(on).await;
    let mut ids = Vec::new();
    for priority in [3, 5, 7, 0, 5] {
        let job = broker.client().defer_named("note", ()).priority(priority);
        ids.push(job.await.expect("a job").job_id);
    }
    let (desk, mut runs) = mpsc::unbounded_channel::<i64>();
    let note = |(): (), ctx: Context<mpsc::UnboundedSender<i64>>| async move { ctx.state().send(ctx.id()) };
    run(broker.worker().state(desk).function("note", note).concurrency(1)).await;
    let ran: Vec<_> = std::iter::from_fn(|| runs.try_recv().ok()).collect();
    assert_eq!(ran, [ids[2], ids[1], ids[4], ids[0], ids[3]]);
}

async fn a_job_that_cannot_start_holds_up_no_other(on: On) {
    let broker = Scene::start(on).await;
    let first = broker.client().defer_named("hold", ()).lock("l").await.expect("a job").job_id;
    let mut office = Office::new();
    let worker = office.at_work(&broker, first).await;
    let urgent = |task: &str| broker.client().defer_named(task, ()).priority(100);
    let blocked = urgent("noop").lock("l").await.expect("a job").job_id;
    let unserved = urgent("unserved").await.expect("a job").job_id;
    let later = urgent("noop").schedule_in(Duration::from_hours(1)).await.expect("a job").job_id;
    let free = defer(&broker, "noop").await;
    run(broker.worker().function("noop", noop).concurrency(1)).await;
    let state = |id| broker.client().get(id);
    for (job, expected) in [
        (blocked, JobState::Waiting),
        (unserved, JobState::Waiting),
        (later, JobState::Scheduled),
        (free, JobState::Succeeded),
    ] {
        assert_eq!(state(job).await.expect("a job").state(), expected);
    }
    office.open();
    worker.stop().await;
}

async fn a_worker_of_a_queue_leaves_other_queues_alone(on: On) {
    let broker = Scene::start(on).await;
    for queue in ["mail", "products", "mail"] {
        broker.client().defer_named("noop", ()).queue(queue).await.expect("a job");
    }
    run(broker.worker().function("noop", noop).queues(["mail", "others"])).await;
    assert_eq!(states(&broker).await, [JobState::Succeeded, JobState::Waiting, JobState::Succeeded]);
}

async fn a_worker_without_queues_serves_all(on: On) {
    let broker = Scene::start(on).await;
    for queue in ["mail", "products", ""] {
        broker.client().defer_named("noop", ()).queue(queue).await.expect("a job");
    }
    run(broker.worker().function("noop", noop)).await;
    assert_eq!(states(&broker).await, [JobState::Succeeded; 3]);
}

async fn a_running_job_is_not_given_to_another_worker(on: On) {
    let broker = Scene::start(on).await;
    let job = defer(&broker, "hold").await;
    let mut office = Office::new();
    let worker = office.at_work(&broker, job).await;
    assert_eq!(run(office.worker(&broker)).await.counters.started, 0);
    office.open();
    worker.stop().await;
    assert_eq!(end_of(&broker, job).await.deliveries, 1);
}

async fn a_job_whose_due_time_has_passed_runs_at_once(on: On) {
    let broker = Scene::start(on).await;
    broker.client().defer_named("noop", ()).schedule_at(SystemTime::UNIX_EPOCH).await.expect("a job");
    run(broker.worker().function("noop", noop)).await;
    assert_eq!(states(&broker).await, [JobState::Succeeded]);
}

async fn a_job_of_2038_runs_after_its_time_and_not_before(on: On) {
    let broker = Scene::start(on).await;
    let at = SystemTime::UNIX_EPOCH + END_OF_32_BITS;
    let job = broker.client().defer_named("create_bug", ()).schedule_at(at).await.expect("a job").job_id;
    let run_it = || run(broker.worker().function("create_bug", noop));
    let created = broker.client().get(job).await.expect("a job").created_at.expect("a time");
    let created = SystemTime::try_from(created).expect("a time");
    let hour = Duration::from_hours(1);
    broker.advance(at.duration_since(created + hour).expect("a test of before 2038")).await;
    run_it().await;
    assert_eq!(states(&broker).await, [JobState::Scheduled]);
    broker.advance(hour).await;
    run_it().await;
    let job = end_of(&broker, job).await;
    let started = SystemTime::try_from(job.started_at.expect("a time")).expect("a time");
    assert!(job.state() == JobState::Succeeded && started >= at, "{job:?}");
}

async fn a_delay_counts_from_the_creation(on: On) {
    let broker = Scene::start(on).await;
    let delay = Duration::from_mins(90);
    let job = broker.client().defer_named("clean", ()).schedule_in(delay).await.expect("a job").job_id;
    let job = broker.client().get(job).await.expect("a job");
    let micros = |at: Option<prost_types::Timestamp>| {
        let at = at.expect("a time");
        at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000
    };
    let waits = micros(job.due_at) - micros(job.created_at);
    // Never shorter, and longer only by what the broker does not know of the clock, on a machine that stalls.
    assert!((5_400_000_000..5_430_000_000).contains(&waits), "{waits} µs");
}

async fn a_job_names_the_session_that_ran_it(on: On) {
    let broker = Scene::start(on).await;
    let mut sessions = Vec::new();
    for jobs in [2, 1] {
        let mut ids = Vec::new();
        for _ in 0..jobs {
            ids.push(defer(&broker, "noop").await);
        }
        run(broker.worker().function("noop", noop)).await;
        for id in ids {
            sessions.push(end_of(&broker, id).await.last_attempt.expect("an end").session_id);
        }
    }
    assert!(!sessions[0].is_empty() && sessions[0] == sessions[1] && sessions[1] != sessions[2], "{sessions:?}");
}

async fn an_idle_worker_is_given_a_new_job_without_asking(on: On) {
    let broker = Scene::start(on).await;
    let worker = Running::start(broker.worker().function("noop", noop));
    soon(worker.handle.wait_for(|status| status.connected)).await.expect("a worker");
    for _ in 0..3 {
        let job = defer(&broker, "noop").await;
        assert_eq!(end_of(&broker, job).await.state(), JobState::Succeeded);
    }
    assert_eq!(worker.stop().await.counters.welcomed, 1);
}

async fn a_due_time_wakes_an_idle_worker(on: On) {
    let broker = Scene::start(on).await;
    let worker = Running::start(broker.worker().function("noop", noop));
    soon(worker.handle.wait_for(|status| status.connected)).await.expect("a worker");
    let soon_due = broker.client().defer_named("noop", ()).schedule_in(Duration::from_millis(30));
    let soon_due = soon_due.await.expect("a job").job_id;
    let later = broker.client().defer_named("noop", ()).schedule_in(Duration::from_hours(24)).await.expect("a job");
    assert_eq!(end_of(&broker, soon_due).await.state(), JobState::Succeeded);
    broker.advance(Duration::from_hours(24)).await;
    assert_eq!(end_of(&broker, later.job_id).await.state(), JobState::Succeeded);
    worker.stop().await;
}
