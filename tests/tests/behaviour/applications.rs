//! What applications ask for by SQL, in their own transactions (C11, C17).

use std::time::Duration;

use cabbage_broker::core::{
    ask::Verb,
    types::{JobId, Timestamp},
};
use cabbage_worker::{
    NewJob,
    v1::{AuditEntry, JobState, WaitingFor},
};
use tokio::time::sleep;

use crate::{
    both::on_both_stores,
    scene::{On, Scene, once_it_is, soon},
};

on_both_stores! {
    verbs_of_a_transaction_move_end_and_open_jobs_and_pause_their_queue,
    a_verb_of_a_transaction_that_is_refused_is_recorded_with_the_reason,
}

/// How often it is looked whether the owner has taken a verb in.
const LOOK: Duration = Duration::from_millis(2);

/// Waits until the jobs of a queue wait for this.
async fn until_it_waits_for(broker: &Scene, job_id: i64, what_for: WaitingFor) {
    soon(async {
        while broker.client().get(job_id).await.expect("a job").waiting_for() != what_for {
            sleep(LOOK).await;
        }
    })
    .await;
}

/// The record, newest first, once it has so many verbs: what a job waits for is told from memory and may be known before
/// the commit that records the verb.
async fn once_recorded(broker: &Scene, verbs: usize) -> Vec<AuditEntry> {
    soon(async {
        loop {
            let audit = broker.client().audit(0, "").await.expect("a page").entries;
            if audit.len() >= verbs {
                return audit;
            }
            sleep(LOOK).await;
        }
    })
    .await
}

async fn verbs_of_a_transaction_move_end_and_open_jobs_and_pause_their_queue(on: On) {
    let broker = Scene::start(on).await;
    let job = NewJob::named("send").queue("mail").schedule_in(Duration::from_hours(1));
    let id = broker.client().defer_job(job).await.expect("a valid job").job_id;
    let job = JobId(id);
    broker.ask_by_sql(Verb::Reschedule { job, due: None }, "at once").await;
    once_it_is(&broker, id, JobState::Waiting).await;
    let due = Some(Timestamp(4_000_000_000_000_000));
    broker.ask_by_sql(Verb::Reschedule { job, due }, "in 2096").await;
    let moved = once_it_is(&broker, id, JobState::Scheduled).await;
    assert_eq!(moved.due_at.map(|at| at.seconds), Some(4_000_000_000));
    broker.ask_by_sql(Verb::Cancel(job), "a mistake").await;
    once_it_is(&broker, id, JobState::Cancelled).await;
    broker.ask_by_sql(Verb::Retry { job, due }, "none").await;
    once_it_is(&broker, id, JobState::Scheduled).await;
    broker.ask_by_sql(Verb::Cancel(job), "").await;
    once_it_is(&broker, id, JobState::Cancelled).await;
    broker.ask_by_sql(Verb::Pause("mail".into()), "too much").await;
    broker.ask_by_sql(Verb::Retry { job, due: None }, "").await;
    until_it_waits_for(&broker, id, WaitingFor::Paused).await;
    broker.ask_by_sql(Verb::Resume("mail".into()), "enough").await;
    until_it_waits_for(&broker, id, WaitingFor::Unserved).await;

    let audit = once_recorded(&broker, 8).await;
    let said: Vec<_> = audit.iter().map(|entry| (entry.verb.as_str(), entry.reason.as_str())).collect();
    let expected = [
        ("resume", "enough"),
        ("retry", ""),
        ("pause", "too much"),
        ("cancel", ""),
        ("retry", "none"),
        ("cancel", "a mistake"),
        ("reschedule", "in 2096"),
        ("reschedule", "at once"),
    ];
    assert_eq!(said, expected);
    assert!(audit.iter().all(|entry| !entry.actor.is_empty()), "{audit:?}");
}

async fn a_verb_of_a_transaction_that_is_refused_is_recorded_with_the_reason(on: On) {
    let broker = Scene::start(on).await;
    let client = broker.client();
    let new = || NewJob::named("send").queueing_lock("one");
    let first = client.defer_job(new()).await.expect("a valid job").job_id;
    client.cancel(first, "").await.expect("it waits");
    let second = client.defer_job(new()).await.expect("the value is free").job_id;
    let (first, second) = (JobId(first), JobId(second));
    let due = None;
    broker.ask_by_sql(Verb::Reschedule { job: first, due }, "sooner").await;
    broker.ask_by_sql(Verb::Retry { job: first, due }, "").await;
    broker.ask_by_sql(Verb::Retry { job: second, due }, "").await;
    broker.ask_by_sql(Verb::Resume("nowhere".into()), "").await;
    let audit = once_recorded(&broker, 5).await;
    let said: Vec<_> = audit.iter().map(|entry| (entry.verb.as_str(), entry.refused.as_str())).collect();
    let taken = format!("the queueing lock is taken by job {second}");
    let expected = [
        ("resume", "no such queue"),
        ("retry", "the job is not final: cancel it first"),
        ("retry", taken.as_str()),
        ("reschedule", "the job is final: retry it to run it again"),
        ("cancel", ""),
    ];
    assert_eq!(said, expected);
    assert_eq!((audit[3].job_id, audit[3].reason.as_str()), (first.0, "sooner"));
    assert!(audit.iter().all(|entry| !entry.actor.is_empty()), "{audit:?}");
    // What is refused over gRPC has its answer there.
    assert!(client.resume_queue("nowhere", "").await.is_err());
    assert_eq!(client.audit(0, "").await.expect("a page").entries.len(), 5);
}
