//! What applications ask for by SQL, in their own transactions (C11, C17).

use std::time::Duration;

use cabbage_broker::core::{
    ask::Verb,
    types::{JobId, Timestamp},
};
use cabbage_worker::{
    NewJob,
    v1::{JobState, WaitingFor},
};
use tokio::time::sleep;

use crate::{
    both::on_both_stores,
    scene::{On, Scene, once_it_is, soon},
};

on_both_stores! {
    verbs_of_a_transaction_move_end_and_open_jobs_and_pause_their_queue,
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

    let audit = broker.client().audit(0, "").await.expect("a page").entries;
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
