//! `schedule.md`: instants with zones, and delays.

use std::time::Duration;

use anyhow::Context as _;
use cabbage_worker::{testing::TestBroker, v1::JobState};
use chrono::{DateTime, FixedOffset, NaiveDate, TimeZone as _};
use serde_json::json;

use crate::{
    page::Page,
    scene::{noop, states},
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
