//! `testing.md`: code that uses cabbage, tested.

use std::time::Duration;

use cabbage_worker::{Client, Context, Error, TaskError, testing::TestBroker, v1::JobState};

use crate::page::Page;

const WEEK: Duration = Duration::from_hours(7 * 24);

async fn sign_up(client: &Client, address: &str) -> Result<(), Error> {
    client.defer_named("welcome", address).await?;
    client.defer_named("remind", address).schedule_in(WEEK).await?;
    Ok(())
}

async fn welcome(_address: String, _: Context) -> Result<(), TaskError> {
    Ok(())
}

async fn remind(_address: String, _: Context) -> Result<(), TaskError> {
    Ok(())
}

#[tokio::test]
async fn a_week_passes_within_a_test() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    sign_up(broker.client(), "ada@example.com").await?;

    // Run the jobs that your code created, and those that they create, then stop the worker.
    broker.run(broker.worker().function("welcome", welcome).function("remind", remind)).await?;

    // See the jobs, with arguments, results and history.
    let jobs = broker.jobs().await;
    assert_eq!(jobs[0].state(), JobState::Succeeded);
    assert_eq!(jobs[1].state(), JobState::Scheduled);

    // What is due later need not be waited for.
    broker.advance(WEEK).await;
    broker.run(broker.worker().function("welcome", welcome).function("remind", remind)).await?;
    assert_eq!(broker.jobs().await[1].state(), JobState::Succeeded);

    // Forget everything, for the next test.
    broker.reset().await;
    assert!(broker.jobs().await.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_handler_is_tested_alone() {
    let ctx = Context::for_test("remind", ());
    assert!(remind("ada@example.com".to_owned(), ctx).await.is_ok());
}

#[tokio::test]
async fn what_the_page_on_testing_says_can_be_typed() {
    Page::open("testing").code_is_in(include_str!("testing.rs")).run().await;
}
