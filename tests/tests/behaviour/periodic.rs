//! Jobs by the clock (C12).

use std::time::{Duration, SystemTime};

use cabbage_worker::{Context, MissedTicks, NewJob, NewSchedule, TaskError};
use chrono::{DateTime, Utc};

use crate::{
    both::on_both_stores,
    scene::{On, Scene, only_job, result, run},
};

on_both_stores! {
    missed_ticks_follow_the_rule_of_their_schedule,
    a_job_knows_the_time_of_its_tick_however_late_it_starts,
    a_schedule_ticks_by_the_clocks_of_its_time_zone,
}

const HOUR: Duration = Duration::from_hours(1);

/// An expression that ticks once a day, twelve hours from now and so far from any tick's grace; and its first tick.
fn daily() -> (String, DateTime<Utc>) {
    let minute = 60 * 1_000;
    let first = (Utc::now() + HOUR * 12).timestamp_millis() / minute * minute;
    let first = DateTime::from_timestamp_millis(first).expect("a time");
    (first.format("%M %H * * *").to_string(), first)
}

async fn missed_ticks_follow_the_rule_of_their_schedule(on: On) {
    let broker = Scene::start(on).await;
    let client = broker.client();
    let (cron, _) = daily();
    let rules = [("all", MissedTicks::All), ("latest", MissedTicks::Latest), ("skip", MissedTicks::Skip)];
    for (name, rule) in rules {
        let schedule = NewSchedule::new(name, &cron, NewJob::named(name)).missed_ticks(rule);
        client.put_schedule(schedule).await.expect("a schedule");
    }
    assert!(broker.jobs().await.is_empty());
    // Five days in no time.
    broker.advance(HOUR * 24 * 5).await;
    for (name, _) in rules {
        // Ticks that have come are decided before what is asked of their schedule.
        client.pause_schedule(name, "").await.expect("it is there");
    }
    let jobs = broker.jobs().await;
    let count = |(task, _)| jobs.iter().filter(|job| job.spec.as_ref().is_some_and(|spec| spec.task == task)).count();
    assert_eq!(rules.map(count), [5, 1, 0]);
}

async fn a_job_knows_the_time_of_its_tick_however_late_it_starts(on: On) {
    let broker = Scene::start(on).await;
    let (cron, first) = daily();
    let job = NewJob::named("tell").queue("clocks").priority(7);
    broker.client().put_schedule(NewSchedule::new("daily", cron, job)).await.expect("a schedule");
    broker.advance(HOUR * 20).await;
    broker.client().pause_schedule("daily", "").await.expect("it is there");
    let tell = |(): (), ctx: Context| async move {
        let tick = ctx.tick().map(|tick| tick.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs());
        Ok::<_, TaskError>((ctx.schedule().map(str::to_owned), tick))
    };
    run(broker.worker().function("tell", tell)).await;
    let job = only_job(&broker).await;
    let spec = job.spec.expect("what was asked for");
    assert_eq!((spec.queue.as_str(), spec.priority), ("clocks", 7));
    let told: (Option<String>, Option<i64>) = result(&broker, job.id).await;
    assert_eq!(told, (Some("daily".to_owned()), Some(first.timestamp())));
}

async fn a_schedule_ticks_by_the_clocks_of_its_time_zone(on: On) {
    let broker = Scene::start(on).await;
    let (_, first) = daily();
    // In Nepal, where the clocks are never changed, it is 5 h 45 min later than in UTC.
    let there = (first + Duration::from_mins(5 * 60 + 45)).format("%M %H * * *").to_string();
    for (name, zone) in [("nepal", "Asia/Kathmandu"), ("utc", "UTC")] {
        let schedule = NewSchedule::new(name, &there, NewJob::named(name)).time_zone(zone);
        broker.client().put_schedule(schedule).await.expect("a schedule");
    }
    broker.advance(HOUR * 15).await;
    for name in ["nepal", "utc"] {
        broker.client().pause_schedule(name, "").await.expect("it is there");
    }
    let job = only_job(&broker).await;
    assert_eq!(job.spec.expect("what was asked for").task, "nepal");
    let tick = broker.client().get_schedule("nepal").await.expect("it is there").last_tick.expect("a tick");
    assert_eq!(tick.seconds, first.timestamp());
}
