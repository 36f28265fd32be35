//! `schedule.md`: instants with zones, and delays.

use std::time::Duration;

use anyhow::Context as _;
use cabbage_worker::{Client, JobFilter, testing::TestBroker, v1::JobState};
use chrono::{DateTime, FixedOffset, NaiveDate, TimeZone as _};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, raw_sql};
use tokio::time::timeout;

use crate::{
    page::Page,
    postgres,
    scene::{PATIENCE, noop, states},
};

#[tokio::test]
async fn what_the_page_on_schedules_says_can_be_typed() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let client = broker.client();
    let at = DateTime::parse_from_rfc3339("2038-01-19T03:14:07Z")?;
    client.defer_named("create_bug", json!({ "crash_everything": true })).schedule_at(at).await?;

    let nine = NaiveDate::from_ymd_opt(2038, 1, 19).and_then(|day| day.and_hms_opt(9, 0, 0)).context("a time")?;
    let at = FixedOffset::east_opt(3600).context("an offset")?.from_local_datetime(&nine).single().context("a time")?;
    client.defer_named("open_shop", ()).schedule_at(at).await?;

    // The page defers these by hand, then this one and another.
    let page = Page::open("schedule").code_is_in(include_str!("schedule.rs"));
    client.defer_named("clean", ()).schedule_in(Duration::from_mins(90)).await?;
    page.on(&broker).run().await;
    Ok(())
}

#[tokio::test]
async fn sql_of_the_page_on_schedules_moves_a_job_in_time() -> anyhow::Result<()> {
    let (broker, kept) = postgres::start(|_| {}).await;
    let client = Client::new(broker.grpc_address().to_string())?;
    let moved = client.defer_named("clean", ()).await?.job_id;
    let mut database = PgConnection::connect(kept.url()).await?;
    let page = Page::open("schedule").stand_in("42", moved.to_string());
    for block in page.sql() {
        raw_sql(AssertSqlSafe(block)).execute(&mut database).await?;
    }
    // Once the last verb of the page is obeyed, the ones before it are.
    let audit = timeout(PATIENCE, async {
        loop {
            let audit = client.audit(moved, "").await?.entries;
            if audit.len() == 2 {
                return Ok::<_, cabbage_worker::Error>(audit);
            }
        }
    });
    assert_eq!(audit.await??[0].reason, "the customer is back");
    assert_eq!(client.get(moved).await?.state(), JobState::Waiting);
    let jobs = client.list_page(&JobFilter::default()).await?.jobs;
    assert_eq!(jobs.first().map(|newest| (newest.id > moved, newest.state())), Some((true, JobState::Scheduled)));
    broker.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_job_runs_after_its_time_and_not_before() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let worker = || broker.worker().function("clean", noop);
    broker.client().defer_named("clean", ()).schedule_in(Duration::from_mins(90)).await?;
    broker.run(worker()).await?;
    broker.advance(Duration::from_mins(90) - Duration::from_secs(10)).await;
    broker.run(worker()).await?;
    assert_eq!(states(&broker).await, [JobState::Scheduled]);
    broker.advance(Duration::from_secs(10)).await;
    broker.run(worker()).await?;
    assert_eq!(states(&broker).await, [JobState::Succeeded]);
    Ok(())
}
