//! Looking at jobs.

use cabbage_worker::{Error, JobFilter, v1::JobState};

use crate::{
    both::on_both_stores,
    scene::{On, Scene, noop, run},
};

on_both_stores! {
    lists_are_filtered_by_queue_task_state_lock_and_queueing_lock,
    a_list_goes_on_page_by_page_newest_first,
    a_job_that_is_not_there_is_not_found,
}

async fn ids(broker: &Scene, filter: JobFilter) -> Vec<i64> {
    let mut page = broker.client().list(filter);
    let mut ids = Vec::new();
    while let Some(job) = page.next().await.expect("a list") {
        ids.push(job.id);
    }
    ids
}

async fn lists_are_filtered_by_queue_task_state_lock_and_queueing_lock(on: On) {
    let broker = Scene::start(on).await;
    let client = broker.client();
    let one = client.defer_named("a", ()).queue("x").lock("l").await.expect("a job").job_id;
    let two = client.defer_named("a", ()).queue("y").queueing_lock("l").await.expect("a job").job_id;
    let three = client.defer_named("b", ()).queue("x").await.expect("a job").job_id;
    let four = client.defer_named("b", ()).queue("y").lock("l").await.expect("a job").job_id;
    client.cancel(four, "").await.expect("the broker takes it");
    run(broker.worker().queues(["x"]).function("a", noop)).await;
    let filter = JobFilter::new;
    for (filter, expected) in [
        (filter(), vec![four, three, two, one]),
        (filter().queue("x"), vec![three, one]),
        (filter().task("a"), vec![two, one]),
        (filter().lock("l"), vec![four, one]),
        (filter().queueing_lock("l"), vec![two]),
        (filter().state(JobState::Succeeded), vec![one]),
        (filter().state(JobState::Waiting), vec![three, two]),
        (filter().state(JobState::Cancelled).state(JobState::Succeeded), vec![four, one]),
        (filter().queue("y").task("a").state(JobState::Waiting), vec![two]),
        (filter().queue("nothing"), vec![]),
    ] {
        let said = format!("{filter:?}");
        assert_eq!(ids(&broker, filter).await, expected, "{said}");
    }
}

async fn a_list_goes_on_page_by_page_newest_first(on: On) {
    let broker = Scene::start(on).await;
    let mut created = Vec::new();
    for _ in 0..5 {
        created.push(broker.client().defer_named("noop", ()).await.expect("a job").job_id);
    }
    created.reverse();
    assert_eq!(ids(&broker, JobFilter::new().page_size(2)).await, created);
    let first = broker.client().list_page(&JobFilter::new().page_size(2)).await.expect("a page");
    assert_eq!((first.jobs.len(), first.next_page_token.is_empty()), (2, false));
}

async fn a_job_that_is_not_there_is_not_found(on: On) {
    let broker = Scene::start(on).await;
    let error = broker.client().get(42).await.expect_err("there is none");
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    assert_eq!(error.reason(), Some("JOB_NOT_FOUND"));
}
