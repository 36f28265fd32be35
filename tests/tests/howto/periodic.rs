//! `periodic.md`: schedules of operators and of workers.

use std::time::Duration;

use cabbage_worker::{
    Context, JobFilter, MissedTicks, NewJob, NewSchedule, TaskError, Worker, testing::TestBroker, v1::JobState,
};

use crate::{page::Page, scene::Serving};

/// More than a day, and less than two: one tick at least is over then.
const A_NIGHT: Duration = Duration::from_hours(25);

async fn clean_up((): (), ctx: Context) -> Result<(), TaskError> {
    println!("the tick of {:?}", ctx.tick());
    Ok(())
}

#[tokio::test]
async fn a_schedule_of_a_worker_defers_its_job_each_night() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let (client, address) = (broker.client(), broker.address());
    let nightly = NewSchedule::new("nightly", "30 2 * * *", NewJob::named("clean_up"))
        .time_zone("Europe/Berlin")
        .missed_ticks(MissedTicks::Latest);
    let worker = Worker::builder(address).function("clean_up", clean_up).schedule(nightly);
    let worker = Serving::start(worker);
    tokio::time::timeout(Duration::from_mins(1), async {
        while client.list_schedules().await?.is_empty() {
            tokio::task::yield_now().await;
        }
        broker.advance(A_NIGHT).await;
        while client.list(JobFilter::new().state(JobState::Succeeded)).next().await?.is_none() {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    })
    .await??;
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_the_page_on_periodic_jobs_says_can_be_typed() {
    Page::open("periodic").code_is_in(include_str!("periodic.rs")).run().await;
}
