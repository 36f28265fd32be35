//! `queueing-locks.md`: one waiting job, debounce, calls that are repeated, priorities.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use cabbage_worker::{Context, QueueingConflict, TaskError, testing::TestBroker};

use crate::page::Page;

#[tokio::test]
async fn a_second_job_is_refused_and_names_the_first() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let client = broker.client();
    let first = client.defer_named("sync_shop", ()).queueing_lock("sync shop 7").await?;
    match client.defer_named("sync_shop", ()).queueing_lock("sync shop 7").await {
        Err(error) if error.reason() == Some("QUEUEING_LOCK_TAKEN") => assert_eq!(error.job_id(), Some(first.job_id)),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn the_last_of_many_changes_is_what_waits() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let client = broker.client();
    for change in 1..=5 {
        client
            .defer_named("index_page", change)
            .queueing_lock("page 7")
            .on_queueing_conflict(QueueingConflict::Replace)
            .schedule_in(Duration::from_secs(10))
            .await?;
    }
    let jobs = broker.jobs().await;
    let args = jobs[0].spec.as_ref().map(|spec| &spec.args[..]);
    assert_eq!((jobs.len(), args), (1, Some(&b"5"[..])));
    Ok(())
}

#[tokio::test]
async fn a_call_may_be_repeated_by_its_id() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let client = broker.client();
    let once = client.defer_named("charge", 995).request_id("webhook 4711").await?;
    let again = client.defer_named("charge", 995).request_id("webhook 4711").await?;
    assert_eq!((again.job_id, again.repeated_call), (once.job_id, true));
    Ok(())
}

#[derive(Default)]
struct Paper(Mutex<String>);

async fn write(letter: String, ctx: Context<Paper>) -> Result<String, TaskError> {
    let mut paper = ctx.state().0.lock().unwrap_or_else(PoisonError::into_inner);
    paper.push_str(&letter);
    Ok(paper.clone())
}

#[tokio::test]
async fn higher_priorities_run_first() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let client = broker.client();
    for (letter, priority) in [("c", 3), ("a", 7), ("b", 5)] {
        client.defer_named("write", letter).priority(priority).await?;
    }
    broker.run(broker.worker().state(Paper::default()).function("write", write).concurrency(1)).await?;
    // The job of the lowest priority, which was created first, found the others' letters.
    assert_eq!(client.result_as::<String>(1).await?, "abc");
    Ok(())
}

#[tokio::test]
async fn what_the_page_on_queueing_locks_says_can_be_typed() {
    let broker = TestBroker::start().await;
    Page::open("queueing-locks").code_is_in(include_str!("queueing_locks.rs")).on(&broker).run().await;
    assert_eq!(broker.jobs().await.len(), 2);
}
