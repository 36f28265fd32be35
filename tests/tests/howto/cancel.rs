//! `cancel.md`: how jobs are stopped, and put off.

use std::time::{Duration, SystemTime};

use cabbage_worker::{Context, TaskError, Worker, testing::TestBroker, v1::JobState};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::{
    page::Page,
    scene::{Serving, noop, states},
};

const HOUR: Duration = Duration::from_hours(1);

struct Oven(UnboundedSender<i64>);

async fn finished(_bread: &str) {
    std::future::pending::<()>().await;
}

async fn bake(bread: String, ctx: Context<Oven>) -> Result<String, TaskError> {
    ctx.state().0.send(ctx.id())?;
    tokio::select! {
        () = finished(&bread) => Ok(bread),
        cause = ctx.cancelled() => Err(TaskError::cancelled(format!("taken out of the oven: {cause:?}"))),
    }
}

async fn call(number: u32, ctx: Context) -> Result<u32, TaskError> {
    if ctx.delivery() == 1 { Err(TaskError::snooze(HOUR)) } else { Ok(number) }
}

#[tokio::test]
async fn a_running_handler_is_told_and_decides() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let client = broker.client();
    let (oven, mut baking) = unbounded_channel();
    let worker = Serving::start(broker.worker().state(Oven(oven)).function("bake", bake));
    client.defer_named("bake", "rye").await?;
    let job_id = baking.recv().await.expect("it runs");
    let state = client.cancel(job_id, "ordered by mistake").await?;
    assert_eq!(state, JobState::Running);
    let job = client.wait(job_id).await?;
    let said = job.last_attempt.clone().and_then(|attempt| attempt.failure).unwrap_or_default().message;
    assert_eq!((job.state(), said.as_str()), (JobState::Cancelled, "taken out of the oven: Requested"));
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_blocking_handler_looks_by_itself() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let (client, address) = (broker.client(), broker.address());
    let knead = |rounds: u32, ctx: Context| {
        for round in 0..rounds {
            if ctx.is_cancelled() {
                return Err(TaskError::cancelled(format!("after {round} rounds")));
            }
            std::thread::yield_now();
        }
        Ok(())
    };
    let worker = Worker::builder(address).blocking("knead", knead);
    let worker = worker.build()?;
    let handle = worker.handle();
    let running = tokio::spawn(worker.run());
    let job = client.defer_named("knead", u32::MAX).await?;
    handle.wait_for(|status| status.running == 1).await.expect("a worker");
    client.cancel(job.job_id, "").await?;
    assert_eq!(client.wait(job.job_id).await?.state(), JobState::Cancelled);
    handle.stop();
    running.await?;
    Ok(())
}

#[tokio::test]
async fn timeouts_and_deadlines_end_jobs() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let client = broker.client();
    client.defer_named("wait", ()).attempt_timeout(Duration::from_millis(50)).await?;
    client.defer_named("remind", ()).deadline(SystemTime::now() + HOUR).await?;
    let wait = |(): (), ctx: Context| async move {
        ctx.cancelled().await;
        Ok::<_, TaskError>(())
    };
    broker.run(broker.worker().function("wait", wait)).await?;
    // A minute more, in case the clocks of this test and of the broker differ.
    broker.advance(HOUR + Duration::from_mins(1)).await;
    broker.run(broker.worker().function("remind", noop)).await?;
    let jobs = broker.jobs().await;
    let ends: Vec<_> = jobs.iter().map(|job| job.last_attempt.clone().unwrap_or_default()).collect();
    assert_eq!(states(&broker).await, [JobState::Failed, JobState::Failed]);
    assert_eq!(ends[0].failure.clone().unwrap_or_default().kind, "Timeout");
    assert_eq!(ends[1].reason, "DEADLINE");
    Ok(())
}

#[tokio::test]
async fn a_handler_may_put_its_job_off() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let job = broker.client().defer_named("call", 110).await?;
    broker.run(broker.worker().function("call", call)).await?;
    assert_eq!(states(&broker).await, [JobState::Scheduled]);
    broker.advance(HOUR).await;
    broker.run(broker.worker().function("call", call)).await?;
    assert_eq!(broker.client().result_as::<u32>(job.job_id).await?, 110);
    Ok(())
}

#[tokio::test]
async fn what_the_page_on_cancelling_says_can_be_typed() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    broker.client().defer_named("bake", "wheat").await?;
    Page::open("cancel").code_is_in(include_str!("cancel.rs")).on(&broker).run().await;
    Ok(())
}
