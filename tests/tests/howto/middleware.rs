//! `middleware.md`: what runs around attempts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cabbage_worker::{
    Attempt, Context, Middleware, Next, Outcome, TaskError, TaskOptions, Worker, testing::TestBroker, v1::JobState,
};
use tracing::Instrument as _;

use crate::{page::Page, scene::states};

async fn log(attempt: Attempt, next: Next) -> Outcome {
    let (id, task) = (attempt.id(), attempt.task().to_owned());
    println!("{task} {id} begins");
    let outcome = next.run(attempt).await;
    println!("{task} {id} ends {}", if outcome.is_ok() { "well" } else { "badly" });
    outcome
}

#[derive(Clone, Default)]
struct Timing(Arc<Mutex<BTreeMap<String, Duration>>>);

impl Middleware for Timing {
    async fn around(&self, attempt: Attempt, next: Next) -> Outcome {
        let task = attempt.task().to_owned();
        let began = Instant::now();
        let outcome = next.run(attempt).await;
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *times.entry(task).or_default() += began.elapsed();
        outcome
    }
}

async fn traced(attempt: Attempt, next: Next) -> Outcome {
    let span = tracing::info_span!(
        "attempt",
        job = attempt.id(),
        task = attempt.task(),
        number = attempt.attempt(),
        linked_to = attempt.traceparent(),
    );
    next.run(attempt).instrument(span).await
}

struct Tenant(String);

async fn tenant(mut attempt: Attempt, next: Next) -> Outcome {
    let Some(name) = attempt.metadata().get("tenant").cloned() else {
        return Err(TaskError::new("NoTenant", "the job does not say whose it is").never_retry());
    };
    attempt.insert(Tenant(name));
    next.run(attempt).await
}

async fn bake(bread: String, _: Context) -> Result<String, TaskError> {
    Ok(bread)
}

#[tokio::test]
async fn functions_and_types_run_around_attempts() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let (client, address) = (broker.client(), broker.address());
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    client.defer_named("bake", "rye").traceparent(traceparent).await?;
    client.defer_named("bake", "wheat").await?;
    let worker = Worker::builder(address).function("bake", bake).middleware(log);
    let timing = Timing::default();
    broker.run(worker.middleware(timing.clone()).middleware(traced)).await?;
    assert_eq!(states(&broker).await, [JobState::Succeeded, JobState::Succeeded]);
    assert!(timing.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key("bake"));
    Ok(())
}

#[tokio::test]
async fn a_task_may_have_its_own() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let address = broker.address();
    broker.client().defer_named("bake", "rye").await?;
    let options = TaskOptions::new().middleware(log);
    let worker = Worker::builder(address).function_with("bake", options, bake);
    broker.run(worker).await?;
    assert_eq!(states(&broker).await, [JobState::Succeeded]);
    Ok(())
}

#[tokio::test]
async fn handlers_read_what_middleware_gave() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let whose = |_: String, ctx: Context| async move {
        Ok::<_, TaskError>(ctx.extension::<Tenant>().map(|tenant| tenant.0.clone()))
    };
    let known = broker.client().defer_named("bake", "rye").metadata("tenant", "acme").await?;
    broker.client().defer_named("bake", "rye").retry(5).await?;
    broker.run(broker.worker().function("bake", whose).middleware(tenant)).await?;
    assert_eq!(broker.client().result_as::<String>(known.job_id).await?, "acme");
    assert_eq!(states(&broker).await, [JobState::Succeeded, JobState::Failed]);
    Ok(())
}

#[test]
fn what_the_page_on_middleware_shows_is_what_runs_here() {
    let _page = Page::open("middleware").code_is_in(include_str!("middleware.rs"));
}
