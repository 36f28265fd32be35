//! Somebody who keeps deferring jobs of several kinds, at a pace that a person can follow.

use std::{sync::Arc, time::Duration};

use cabbage_worker::{Client, Error, NewJob, RetryPolicy};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::{events::Events, tasks};

/// A job is deferred this often, some two or three lines each.
const PACE: Duration = Duration::from_millis(900);
/// Steps of one sequence.
const STEPS: u64 = 3;
/// When a reminder becomes due.
const REMINDER: Duration = Duration::from_secs(4);
/// When a flaky job is tried again.
const RETRY_WAIT: Duration = Duration::from_secs(2);

pub(crate) async fn run(client: Client, events: Arc<Events>) {
    let mut pace = interval(PACE);
    // After a broker's takeover we go on at the old pace instead of catching up.
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for turn in 0.. {
        pace.tick().await;
        if let Err(error) = defer(&client, &events, turn).await {
            tracing::warn!(%error, "the demo cannot defer a job");
        }
    }
}

async fn defer(client: &Client, events: &Events, turn: u64) -> Result<(), Error> {
    let jobs: Vec<(NewJob, String)> = match turn % 6 {
        0 => vec![(NewJob::named(tasks::GREET).args(json!({"name": name(turn)})), "greet".into())],
        1 => vec![(NewJob::named(tasks::SLOW), "slow, takes 3 s".into())],
        2 => {
            let policy = RetryPolicy::attempts(3).wait(RETRY_WAIT);
            vec![(NewJob::named(tasks::FLAKY).retry(policy), "flaky, up to 3 attempts".into())]
        }
        3 => {
            let lock = format!("sequence-{}", turn / 6 + 1);
            let step = |number| {
                let job = NewJob::named(tasks::STEP).args(json!({"step": number})).lock(lock.as_str());
                (job, format!("step {number} of {STEPS}, one at a time by lock {lock}"))
            };
            (1..=STEPS).map(step).collect()
        }
        4 => {
            let about = format!("remind, due in {} s", REMINDER.as_secs());
            vec![(NewJob::named(tasks::REMIND).schedule_in(REMINDER), about)]
        }
        _ => vec![(NewJob::named(tasks::QUICK).priority(10), "quick, priority 10".into())],
    };
    for (job, about) in jobs {
        let deferred = async { Ok(client.defer_job(job).await?.job_id) };
        events.defer::<Error>(deferred, &about).await?;
    }
    Ok(())
}

fn name(turn: u64) -> &'static str {
    const NAMES: [&str; 5] = ["Grace", "Alan", "Barbara", "Edsger", "Frances"];
    NAMES[(turn / 6) as usize % NAMES.len()]
}
