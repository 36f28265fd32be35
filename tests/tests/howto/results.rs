//! `results.md`: results, errors and history.

use std::time::Duration;

use cabbage_worker::{
    Context, Error, JobFilter, Task, TaskError,
    testing::TestBroker,
    v1::{JobState, Verdict},
};

use crate::{page::Page, scene::Serving};

struct Add;

impl Task for Add {
    const NAME: &'static str = "add";
    type Args = (u8, u8);
    type Output = u8;
    type Error = TaskError;
    type State = ();

    async fn run((a, b): (u8, u8), _: Context) -> Result<u8, TaskError> {
        a.checked_add(b)
            .ok_or_else(|| TaskError::new("TooMuch", format!("{} does not fit", u16::from(a) + u16::from(b))))
    }
}

#[tokio::test]
async fn results_are_waited_for_and_told() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let client = broker.client();
    let worker = Serving::start(broker.worker().task::<Add>());
    let job = client.defer::<Add>((2, 3)).await?;
    let sum = client.result::<Add>(job.job_id).await?;
    assert_eq!(sum, 5);
    match client.wait_at_most(job.job_id, Duration::from_secs(30)).await {
        Ok(job) => println!("it is {:?}", job.state()),
        Err(Error::NotFinal { job_id }) => println!("job {job_id} still has something to do"),
        Err(error) => return Err(error.into()),
    }

    let too_much = client.defer::<Add>((200, 100)).await?;
    match client.result::<Add>(too_much.job_id).await {
        Err(Error::JobFailed(job)) => println!("job {} failed", job.id),
        Err(Error::JobCancelled(job)) => println!("job {} was cancelled", job.id),
        other => println!("{other:?}"),
    }
    let job = client.get_full(too_much.job_id).await?;
    for attempt in &job.history {
        let failure = attempt.failure.clone().unwrap_or_default();
        println!("{:?} {} {}", attempt.verdict(), failure.kind, failure.message);
    }
    assert_eq!((job.history.len(), job.history[0].verdict()), (1, Verdict::Failed));
    let mut failed = client.list(JobFilter::new().state(JobState::Failed).task("add"));
    while let Some(job) = failed.next().await? {
        println!("job {}", job.id);
    }

    // The page goes on with the third job.
    Page::open("results").code_is_in(include_str!("results.rs")).on(&broker).run().await;
    worker.stop().await;
    Ok(())
}
