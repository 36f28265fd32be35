//! `retries.md`: policies, strategies, and what handlers say.

use std::{num::ParseIntError, time::Duration};

use cabbage_worker::{
    Context, JobInfo, NewJob, Retry, RetryDecision, RetryPolicy, RetryStrategy, Task, TaskError, TaskOptions, Worker,
    testing::TestBroker, v1::JobState,
};

use crate::{page::Page, scene::states};

const MINUTE: Duration = Duration::from_mins(1);

struct Fetch;

impl Task for Fetch {
    const NAME: &'static str = "fetch";
    type Args = String;
    type Output = usize;
    type Error = TaskError;
    type State = ();

    fn configure(job: NewJob, _: &String) -> NewJob {
        job.retry(RetryPolicy::attempts(5).exponential(Duration::from_secs(1)))
    }

    async fn run(url: String, ctx: Context) -> Result<usize, TaskError> {
        if ctx.attempt() < 3 {
            return Err(TaskError::new("Unreachable", "who could have seen this coming?"));
        }
        Ok(url.len())
    }
}

struct Growing {
    wait: Duration,
}

impl RetryStrategy for Growing {
    fn decide(&self, error: &TaskError, job: &JobInfo) -> Retry {
        if error.kind() == Some("NoSuchAccount") {
            return Retry::Never;
        }
        let decision = RetryDecision::after(self.wait * job.attempt());
        if job.attempt() < 3 { decision.into() } else { decision.queue("slow").priority(-10).into() }
    }

    fn max_attempts(&self, _: &JobInfo) -> Option<u32> {
        Some(10)
    }
}

async fn fetch(_: String, _: Context) -> Result<(), TaskError> {
    Err(TaskError::new("Unreachable", "no answer"))
}

async fn charge(account: String, ctx: Context) -> Result<(), TaskError> {
    match account.as_str() {
        // Never again, whatever the policy says.
        "gone" => Err(TaskError::new("NoSuchAccount", "it was closed").never_retry()),
        // When the bank opens.
        "closed" => Err(TaskError::new("BankClosed", "come back later").retry_after(MINUTE)),
        // Not now. That is no attempt, and no failure.
        "busy" if ctx.delivery() == 1 => Err(TaskError::snooze(MINUTE)),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn policies_of_jobs_are_kept_to() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let client = broker.client();
    client.defer_named("fetch", "https://example.com").retry(5).await?;
    client.defer_named("fetch", "https://example.com").retry(RetryPolicy::forever().wait(MINUTE)).await?;
    let policy = RetryPolicy::attempts(10)
        .wait(Duration::from_secs(5))
        .exponential(Duration::from_secs(1))
        .max_wait(Duration::from_mins(10))
        .jitter(0.2)
        .never::<ParseIntError>();
    client.defer_named("fetch", "https://example.com").retry(policy).await?;
    for _ in 0..12 {
        broker.run(broker.worker().function("fetch", fetch)).await?;
        broker.advance(Duration::from_mins(15)).await;
    }
    let ends: Vec<_> = broker.jobs().await.iter().map(|job| (job.state(), job.attempts)).collect();
    assert_eq!(ends, [(JobState::Failed, 5), (JobState::Waiting, 12), (JobState::Failed, 10)]);
    Ok(())
}

#[tokio::test]
async fn a_task_brings_its_policy_along() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    broker.client().defer::<Fetch>("https://example.com".to_owned()).await?;
    for _ in 0..3 {
        broker.run(broker.worker().task::<Fetch>()).await?;
        broker.advance(MINUTE).await;
    }
    let job = &broker.jobs().await[0];
    assert_eq!((job.state(), job.attempts), (JobState::Succeeded, 3));
    Ok(())
}

#[tokio::test]
async fn a_worker_may_bring_one_for_jobs_without() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let address = broker.address();
    broker.client().defer_named("fetch", "https://example.com").await?;
    let options = TaskOptions::new().retry(RetryPolicy::attempts(10).wait(Duration::from_secs(5)));
    let worker = Worker::builder(address).function_with("fetch", options, fetch);
    broker.run(worker).await?;
    assert_eq!(states(&broker).await, [JobState::Scheduled]);
    Ok(())
}

#[tokio::test]
async fn a_strategy_of_ones_own_moves_the_job() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let address = broker.address();
    broker.client().defer_named("fetch", "https://example.com").await?;
    for _ in 0..3 {
        let options = TaskOptions::new().retry(Growing { wait: Duration::from_secs(5) });
        let worker = Worker::builder(address).function_with("fetch", options, fetch);
        broker.run(worker).await?;
        broker.advance(MINUTE).await;
    }
    let job = broker.jobs().await.remove(0);
    let spec = job.spec.expect("what was asked for");
    assert_eq!((job.attempts, spec.queue.as_str(), spec.priority), (3, "slow", -10));
    Ok(())
}

#[tokio::test]
async fn a_handler_decides_for_itself() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    for account in ["gone", "closed", "busy", "fine"] {
        broker.client().defer_named("charge", account).retry(3).await?;
    }
    broker.run(broker.worker().function("charge", charge)).await?;
    let ends: Vec<_> = broker.jobs().await.iter().map(|job| (job.state(), job.attempts)).collect();
    let scheduled = JobState::Scheduled;
    assert_eq!(ends, [(JobState::Failed, 1), (scheduled, 1), (scheduled, 0), (JobState::Succeeded, 1)]);
    broker.advance(MINUTE).await;
    broker.run(broker.worker().function("charge", charge)).await?;
    assert_eq!(broker.jobs().await[2].state(), JobState::Succeeded);
    Ok(())
}

#[tokio::test]
async fn what_the_page_on_retries_says_can_be_typed() {
    let broker = TestBroker::start().await;
    Page::open("retries").code_is_in(include_str!("retries.rs")).on(&broker).run().await;
}
