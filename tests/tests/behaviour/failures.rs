//! What is kept of attempts, and who counts them (C8).

use std::time::Duration;

use cabbage_worker::{
    Context, RetryDecision, RetryPolicy, TaskError,
    v1::{self, JobState, Verdict},
};

use crate::{
    both::on_both_stores,
    log,
    scene::{On, Scene, defer, failure, only_job, result, run},
};

on_both_stores! {
    an_attempt_counts_when_it_ends,
    a_job_without_a_policy_has_one_attempt,
    two_attempts_are_two_runs_whether_the_second_ends_well_or_not,
    two_failures_and_a_success_are_all_kept,
    a_failure_that_is_tried_again_is_logged_as_information_and_the_last_one_as_an_error,
    a_panic_is_tried_again_as_any_failure,
    arguments_that_cannot_be_read_fail_the_attempt,
    a_retry_keeps_the_id_and_what_it_does_not_change,
    an_error_may_say_that_there_is_no_hope,
}

/// Fails as often as the arguments say.
async fn fail(times: u32, ctx: Context) -> Result<u32, TaskError> {
    if ctx.attempt() > times {
        return Ok(ctx.attempt());
    }
    Err(TaskError::new("Wrong", format!("attempt {}", ctx.attempt())))
}

fn verdicts(job: &v1::Job) -> Vec<Verdict> {
    job.history.iter().map(v1::Attempt::verdict).collect()
}

async fn an_attempt_counts_when_it_ends(on: On) {
    let broker = Scene::start(on).await;
    broker.client().defer_named("fail", 0).await.expect("a job");
    let before = only_job(&broker).await;
    assert_eq!((before.attempts, before.deliveries), (0, 0));
    run(broker.worker().function("fail", fail)).await;
    let after = only_job(&broker).await;
    assert_eq!((after.state(), after.attempts, after.deliveries), (JobState::Succeeded, 1, 1));
}

async fn a_job_without_a_policy_has_one_attempt(on: On) {
    let broker = Scene::start(on).await;
    broker.client().defer_named("fail", 9).await.expect("a job");
    run(broker.worker().function("fail", fail)).await;
    let job = only_job(&broker).await;
    assert_eq!((job.state(), job.attempts), (JobState::Failed, 1));
}

async fn two_attempts_are_two_runs_whether_the_second_ends_well_or_not(on: On) {
    let broker = Scene::start(on).await;
    for fails in [1, 9] {
        broker.client().defer_named("fail", fails).retry(2).await.expect("a job");
    }
    let status = run(broker.worker().function("fail", fail)).await;
    let ends: Vec<_> = broker.jobs().await.iter().map(|job| (job.state(), job.attempts)).collect();
    assert_eq!(ends, [(JobState::Succeeded, 2), (JobState::Failed, 2)]);
    assert_eq!(status.counters.started, 4);
}

async fn two_failures_and_a_success_are_all_kept(on: On) {
    let broker = Scene::start(on).await;
    let job = broker.client().defer_named("fail", 2).retry(RetryPolicy::forever()).await.expect("a job").job_id;
    run(broker.worker().function("fail", fail)).await;
    assert_eq!(result::<u32>(&broker, job).await, 3);
    let job = only_job(&broker).await;
    assert_eq!(verdicts(&job), [Verdict::Retried, Verdict::Retried, Verdict::Succeeded]);
    let told: Vec<_> = job.history.iter().map(|end| end.failure.clone().unwrap_or_default().message).collect();
    assert_eq!(told, ["attempt 1", "attempt 2", ""]);
    assert!(job.history.iter().all(|end| end.started_at.is_some() && end.finished_at.is_some()), "{job:?}");
}

async fn a_failure_that_is_tried_again_is_logged_as_information_and_the_last_one_as_an_error(on: On) {
    let broker = Scene::start(on).await;
    for fails in [1, 9] {
        broker.client().defer_named("fail", fails).retry(2).await.expect("a job");
    }
    // Neither the policy nor the attempts that are left say it, but the owner, by the kind of the error.
    broker.client().defer_named("fail", 9).retry(RetryPolicy::forever().never_kind("Wrong")).await.expect("a job");
    let lines = log::keep();
    run(broker.worker().function("fail", fail)).await;
    let all: Vec<_> = lines.try_iter().filter(|line| line.contains("kind=\"Wrong\"")).collect();
    let at = |level: &str| all.iter().filter(|line| line.contains(level)).count();
    assert_eq!((at(" INFO "), at(" ERROR ")), (2, 2), "{all:#?}");
}

async fn a_panic_is_tried_again_as_any_failure(on: On) {
    async fn bang((): (), ctx: Context) -> Result<(), TaskError> {
        assert!(ctx.attempt() > 1, "bang");
        Ok(())
    }
    let broker = Scene::start(on).await;
    broker.client().defer_named("bang", ()).retry(2).await.expect("a job");
    run(broker.worker().function("bang", bang)).await;
    let job = only_job(&broker).await;
    assert_eq!((job.state(), verdicts(&job)), (JobState::Succeeded, vec![Verdict::Retried, Verdict::Succeeded]));
    assert_eq!(job.history[0].failure.clone().unwrap_or_default().kind, "panic");
}

async fn arguments_that_cannot_be_read_fail_the_attempt(on: On) {
    let broker = Scene::start(on).await;
    broker.client().defer_named("fail", "no number").await.expect("a job");
    run(broker.worker().function("fail", fail)).await;
    let job = only_job(&broker).await;
    assert_eq!((job.state(), failure(&job).kind.as_str()), (JobState::Failed, "InvalidArguments"));
}

async fn a_retry_keeps_the_id_and_what_it_does_not_change(on: On) {
    let broker = Scene::start(on).await;
    let job = broker.client().defer_named("again", ()).queue("q").priority(7).lock("l").retry(3);
    let id = job.await.expect("a job").job_id;
    let again = |(): (), ctx: Context| async move {
        let decision = match ctx.attempt() {
            1 => RetryDecision::now(),
            2 => RetryDecision::after(Duration::from_hours(1)).priority(9),
            _ => return Ok(()),
        };
        Err(TaskError::new("Wrong", "").retry(decision))
    };
    run(broker.worker().function("again", again)).await;
    let job = only_job(&broker).await;
    let spec = job.spec.clone().expect("what was asked for");
    assert_eq!((job.id, job.state(), job.attempts), (id, JobState::Scheduled, 2));
    assert_eq!((spec.queue.as_str(), spec.priority, spec.lock.as_str()), ("q", 9, "l"));
}

async fn an_error_may_say_that_there_is_no_hope(on: On) {
    let broker = Scene::start(on).await;
    broker.client().defer_named("hopeless", ()).retry(RetryPolicy::forever()).await.expect("a job");
    defer(&broker, "hopeless").await;
    let hopeless = |(): (), _: Context| async { Err::<(), _>(TaskError::new("Hopeless", "").never_retry()) };
    run(broker.worker().function("hopeless", hopeless)).await;
    for job in broker.jobs().await {
        assert_eq!((job.state(), job.attempts), (JobState::Failed, 1));
    }
}
