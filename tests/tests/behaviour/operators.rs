//! What operators do with jobs and queues, by the client (C11, C17).

use std::time::{Duration, SystemTime};

use cabbage_worker::{
    Client, Context, Error, NewJob, QueueingConflict, TaskError,
    v1::{JobState, Queue, WaitingFor},
};

use crate::{
    both::on_both_stores,
    office::Office,
    scene::{On, Scene, defer, end_of, noop, run, states},
};

on_both_stores! {
    an_operator_moves_opens_and_erases_jobs_and_pauses_their_queue,
    a_retry_by_hand_gives_a_new_budget_of_attempts,
    a_succeeded_job_can_be_run_again,
    a_queue_counts_its_jobs_by_state_and_what_they_wait_for,
}

fn is_refused<T: std::fmt::Debug>(answer: Result<T, Error>, reason: &str) {
    let error = answer.expect_err("it is refused");
    assert!(matches!(error, Error::Refused(_)), "{error:?}");
    assert_eq!(error.reason(), Some(reason));
}

async fn an_operator_moves_opens_and_erases_jobs_and_pauses_their_queue(on: On) {
    let broker = Scene::start(on).await;
    let client = Client::builder(broker.address()).actor("ada").build().expect("an address");
    let job = NewJob::named("send").queue("mail").queueing_lock("one").schedule_in(Duration::from_hours(1));
    let id = client.defer_job(job).await.expect("a valid job").job_id;
    is_refused(client.retry(id, "").await, "JOB_NOT_FINAL");
    assert_eq!(client.run_now(id, "at once").await.expect("it waits"), JobState::Waiting);
    let later = SystemTime::now() + Duration::from_hours(2);
    assert_eq!(client.reschedule(id, later, "not now").await.expect("it waits"), JobState::Scheduled);
    let again = NewJob::named("send").args("new").queue("mail").queueing_lock("one");
    let again = client.defer_job(again).on_queueing_conflict(QueueingConflict::Replace).await.expect("it is moved");
    assert_eq!(again.job_id, id);
    let shown = client.get_full(id).await.expect("it exists");
    assert_eq!((shown.state(), &shown.spec.expect("a spec").args[..]), (JobState::Waiting, &b"\"new\""[..]));

    let paused = client.pause_queue("mail", "no mail today").await.expect("an answer");
    assert!(paused.paused && paused.paused_by == "ada" && paused.pause_reason == "no mail today", "{paused:?}");
    assert_eq!(client.queues("").await.expect("a page").queues, [client.queue("mail").await.expect("it exists")]);
    assert!(!client.resume_queue("mail", "").await.expect("an answer").paused);

    client.cancel(id, "").await.expect("an answer");
    is_refused(client.reschedule(id, later, "").await, "JOB_FINAL");
    assert_eq!(client.retry_at(id, later, "").await.expect("it is final"), JobState::Scheduled);
    client.cancel(id, "").await.expect("an answer");
    client.delete(id, "gone").await.expect("it is final");
    assert!(matches!(client.get(id).await, Err(Error::NotFound(_))));
    let audit = client.audit(id, "").await.expect("a page").entries;
    let verbs: Vec<_> = audit.iter().map(|entry| entry.verb.as_str()).collect();
    assert_eq!(verbs, ["delete", "cancel", "retry", "cancel", "reschedule", "reschedule"]);
    assert!(audit.iter().all(|entry| entry.actor == "ada") && audit[0].reason == "gone");
}

async fn a_retry_by_hand_gives_a_new_budget_of_attempts(on: On) {
    let broker = Scene::start(on).await;
    let job = broker.client().defer_named("fail", ()).retry(2).await.expect("a job").job_id;
    let fail = |(): (), _: Context| async { Err::<(), _>(TaskError::new("Wrong", "wrong")) };
    let mut started = 0;
    for _ in 0..2 {
        started += run(broker.worker().function("fail", fail)).await.counters.started;
        assert_eq!(end_of(&broker, job).await.state(), JobState::Failed);
        assert_eq!(broker.client().retry(job, "mended").await.expect("it is final"), JobState::Waiting);
    }
    assert_eq!(started, 4);
    run(broker.worker().function("fail", noop)).await;
    let job = end_of(&broker, job).await;
    assert_eq!((job.state(), job.attempts), (JobState::Succeeded, 1));
}

async fn a_succeeded_job_can_be_run_again(on: On) {
    let broker = Scene::start(on).await;
    let job = defer(&broker, "noop").await;
    for _ in 0..2 {
        assert_eq!(run(broker.worker().function("noop", noop)).await.counters.succeeded, 1);
        assert_eq!(end_of(&broker, job).await.state(), JobState::Succeeded);
        broker.client().retry(job, "once more").await.expect("it is final");
    }
    assert_eq!(states(&broker).await, [JobState::Waiting]);
}

fn count(queue: &Queue, state: JobState, waiting_for: WaitingFor) -> u64 {
    let fits = |count: &&cabbage_worker::v1::StateCount| (count.state(), count.waiting_for()) == (state, waiting_for);
    queue.counts.iter().find(fits).map_or(0, |count| count.count)
}

async fn a_queue_counts_its_jobs_by_state_and_what_they_wait_for(on: On) {
    let broker = Scene::start(on).await;
    let job = |task: &str| broker.client().defer_named(task, ()).queue("mail");
    let held = job("hold").lock("l").await.expect("a job").job_id;
    let mut office = Office::new();
    let worker = office.at_work(&broker, held).await;
    job("noop").lock("l").await.expect("a job");
    job("of nobody").await.expect("a job");
    job("noop").schedule_in(Duration::from_hours(1)).await.expect("a job");
    let done = job("noop").await.expect("a job").job_id;
    end_of(&broker, done).await;
    let mail = broker.client().queue("mail").await.expect("it exists");
    let none = WaitingFor::Unspecified;
    let counted = [
        (JobState::Running, none),
        (JobState::Waiting, WaitingFor::Blocked),
        (JobState::Waiting, WaitingFor::Unserved),
        (JobState::Scheduled, none),
        (JobState::Succeeded, none),
    ];
    assert_eq!(counted.map(|(state, waiting_for)| count(&mail, state, waiting_for)), [1; 5], "{mail:?}");
    assert_eq!(count(&mail, JobState::Failed, none), 0);
    office.open();
    worker.stop().await;
}
