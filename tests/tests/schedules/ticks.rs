//! What workers and clients see of ticks.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use cabbage_broker::Broker;
use cabbage_worker::{
    Client, Context, JobFilter, MissedTicks, NewJob, NewSchedule, TaskError, Worker, WorkerHandle, v1::TickOutcome,
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{memory, postgres};

/// Nothing is waited for longer than this; a test that gets here has failed.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often something is asked again that comes by itself.
const PACE: Duration = Duration::from_millis(50);

macro_rules! on_both_stores {
    ($($behaviour:ident),* $(,)?) => {
        mod on_memory {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(super::memory::start(|_| {}).await).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test]
            async fn $behaviour() {
                let (broker, _database) = super::postgres::start(|_| {}).await;
                super::$behaviour(broker).await;
            })*
        }
    };
}

on_both_stores!(
    every_second_cron_gives_consecutive_ticks,
    same_tick_is_deferred_once_with_several_workers_that_register_it,
    same_task_with_two_schedules_is_deferred_by_each,
    taken_queueing_lock_skips_the_tick_and_is_told,
    paused_schedule_runs_by_hand_without_a_tick,
);

/// A job that ran: its schedule, its tick in seconds since 1970, and its id.
type Seen = (String, Option<u64>, i64);

fn client(broker: &Broker) -> Client {
    Client::new(broker.grpc_address().to_string()).expect("an address")
}

/// A worker that tells what it ran, and brings these schedules along.
fn start_worker(
    broker: &Broker,
    seen: &mpsc::UnboundedSender<Seen>,
    schedules: impl IntoIterator<Item = NewSchedule>,
) -> WorkerHandle {
    let seen = seen.clone();
    let builder = Worker::builder(broker.grpc_address().to_string()).function("tick", move |(): (), ctx: Context| {
        let seconds = |tick: SystemTime| tick.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let ran = (ctx.schedule().unwrap_or_default().to_owned(), ctx.tick().map(seconds), ctx.id());
        // The test may have seen enough.
        let _ = seen.send(ran);
        async { Ok::<(), TaskError>(()) }
    });
    let worker =
        schedules.into_iter().fold(builder, cabbage_worker::WorkerBuilder::schedule).build().expect("a worker");
    let handle = worker.handle();
    tokio::spawn(worker.run());
    handle
}

fn each_second(name: &str) -> NewSchedule {
    NewSchedule::new(name, "* * * * * *", NewJob::named("tick").priority(7)).missed_ticks(MissedTicks::All)
}

async fn next(seen: &mut mpsc::UnboundedReceiver<Seen>) -> Seen {
    timeout(PATIENCE, seen.recv()).await.expect("a tick in time").expect("a worker")
}

async fn every_second_cron_gives_consecutive_ticks(broker: Broker) {
    let (to, mut seen) = mpsc::unbounded_channel();
    let worker = start_worker(&broker, &to, [each_second("s")]);
    let mut ticks = Vec::new();
    while ticks.len() < 3 {
        let (schedule, tick, id) = next(&mut seen).await;
        assert_eq!(schedule, "s");
        ticks.push(tick.expect("a tick"));
        assert_eq!(client(&broker).get(id).await.expect("the job").spec.expect("a spec").priority, 7);
    }
    // In whatever order the handlers told of them.
    ticks.sort_unstable();
    assert!(ticks.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{ticks:?}");
    worker.stop();
}

async fn same_tick_is_deferred_once_with_several_workers_that_register_it(broker: Broker) {
    let (to, mut seen) = mpsc::unbounded_channel();
    let workers: Vec<_> = (0..3).map(|_| start_worker(&broker, &to, [each_second("s")])).collect();
    let mut jobs: BTreeMap<u64, i64> = BTreeMap::new();
    while jobs.len() < 4 {
        let (_, tick, id) = next(&mut seen).await;
        let tick = tick.expect("a tick");
        let first = *jobs.entry(tick).or_insert(id);
        assert_eq!(first, id, "tick {tick} is deferred once");
        // More workers come and go, and bring the same.
        start_worker(&broker, &to, [each_second("s")]).stop();
    }
    workers.iter().for_each(WorkerHandle::stop);
}

async fn same_task_with_two_schedules_is_deferred_by_each(broker: Broker) {
    let (to, mut seen) = mpsc::unbounded_channel();
    let worker = start_worker(&broker, &to, [each_second("one"), each_second("two")]);
    let mut ticks: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    // Some tick is deferred by both.
    while !ticks.values().any(|schedules| schedules.len() == 2) {
        let (schedule, tick, _) = next(&mut seen).await;
        let schedules = ticks.entry(tick.expect("a tick")).or_default();
        assert!(!schedules.contains(&schedule), "{schedule} twice");
        schedules.push(schedule);
    }
    worker.stop();
}

async fn taken_queueing_lock_skips_the_tick_and_is_told(broker: Broker) {
    let client = client(&broker);
    // No worker serves the task, so the first job never starts.
    let job = NewJob::named("nobody").queueing_lock("q");
    client.put_schedule(NewSchedule::new("s", "* * * * * *", job)).await.expect("a schedule");
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let skipped = timeout(PATIENCE, async {
        loop {
            let schedule = client.get_schedule("s").await.expect("the schedule");
            if schedule.decided_outcome() == TickOutcome::QueueingLockTaken {
                return schedule;
            }
            pace.tick().await;
        }
    });
    let skipped = skipped.await.expect("a tick meets the lock in time");
    assert!(skipped.decided_tick.expect("a tick").seconds > skipped.last_tick.expect("a tick").seconds);
    let jobs = client.list_page(&JobFilter::new().task("nobody")).await.expect("a page").jobs;
    assert_eq!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [skipped.last_job_id]);
}

async fn paused_schedule_runs_by_hand_without_a_tick(broker: Broker) {
    let client = client(&broker);
    let put = client.put_schedule(each_second("s").paused()).await.expect("a schedule");
    assert!(put.paused && put.next_ticks.is_empty());
    let (to, mut seen) = mpsc::unbounded_channel();
    // A worker that brings the same schedule does not resume it.
    let worker = start_worker(&broker, &to, [each_second("s")]);
    let ran = client.run_schedule("s", "by hand").await.expect("a job");
    assert_eq!(next(&mut seen).await, ("s".to_owned(), None, ran.job_id));
    let resumed = client.resume_schedule("s", "").await.expect("the schedule");
    assert!(!resumed.paused && resumed.last_tick.is_none() && resumed.next_ticks.len() == 10);
    assert!(next(&mut seen).await.1.is_some());
    client.delete_schedule("s", "done").await.expect("it is there");
    assert!(client.get_schedule("s").await.is_err());
    assert_eq!(client.list_schedules().await.expect("a list"), []);
    worker.stop();
}

#[tokio::test]
async fn ticks_go_on_without_a_gap_over_a_takeover() {
    let mut second = None;
    let (first, _database) = postgres::start(|args| second = Some(args.clone())).await;
    let (to, mut seen) = mpsc::unbounded_channel();
    let worker = start_worker(&first, &to, [each_second("s")]);
    let mut ticks = vec![next(&mut seen).await.1.expect("a tick")];
    worker.stop();
    first.shutdown().await.expect("it stops in order");
    let args = second.expect("the settings");
    let second = Broker::start(&args).await.expect("another broker");
    let worker = start_worker(&second, &to, []);
    while ticks.len() < 5 {
        ticks.push(next(&mut seen).await.1.expect("a tick"));
    }
    ticks.sort_unstable();
    assert!(ticks.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{ticks:?}");
    worker.stop();
}
