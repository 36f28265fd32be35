//! Many jobs through a relay, also while it dies.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use cabbage_broker::Broker;
use cabbage_proto::v1;
use cabbage_worker::{Batch, Client, Context, NewJob, TaskError, Worker};
use tokio::sync::{Semaphore, watch};

use crate::scene::{Brokers, PATIENCE, soon};

/// How often each job ran, and how many runs have ended in all.
struct Runs {
    of: Mutex<HashMap<i64, u32>>,
    ended: watch::Sender<usize>,
    /// Handlers beyond the first few wait here.
    gate: Semaphore,
}

async fn count((): (), ctx: Context<Runs>) -> Result<(), TaskError> {
    drop(ctx.state().gate.acquire().await?);
    *ctx.state().of.lock().expect("no panic").entry(ctx.id()).or_default() += 1;
    ctx.state().ended.send_modify(|ended| *ended += 1);
    Ok(())
}

fn runs(open: usize) -> Arc<Runs> {
    Arc::new(Runs { of: Mutex::default(), ended: watch::Sender::new(0), gate: Semaphore::new(open) })
}

async fn defer_all(client: &Client, jobs: usize) -> Vec<i64> {
    let mut ids = Vec::new();
    while ids.len() < jobs {
        let batch: Batch = (0..1_000.min(jobs - ids.len())).map(|_| NewJob::named("count")).collect();
        ids.extend(client.defer_all(batch).await.expect("jobs"));
    }
    ids
}

#[tokio::test]
async fn twenty_thousand_jobs_go_through_a_relay_once_each() {
    let brokers = Brokers::in_postgres(2).await;
    let runs = runs(64);
    let ids = defer_all(&Client::new(brokers.address(1)).expect("an address"), 20_000).await;
    let worker =
        Worker::builder(brokers.address(1)).shared_state(runs.clone()).concurrency(64).function("count", count);
    let worker = worker.build().expect("a worker");
    let (handle, task) = (worker.handle(), tokio::spawn(worker.run()));
    let mut ended = runs.ended.subscribe();
    soon(ended.wait_for(|ended| *ended >= ids.len())).await.expect("it runs");
    handle.stop();
    let counters = soon(task).await.expect("no panic").counters;
    assert_eq!((counters.recorded, counters.refused, counters.lost), (20_000, 0, 0));
    let of = runs.of.lock().expect("no panic");
    assert!(of.len() == ids.len() && ids.iter().all(|id| of[id] == 1));
}

#[test]
fn a_relay_that_is_killed_costs_its_workers_no_job_and_no_second_run() {
    let stays = tokio::runtime::Runtime::new().expect("a runtime");
    // Dropped, it is gone with all that it holds, and says nothing.
    let dies = tokio::runtime::Runtime::new().expect("a runtime");
    let brokers = stays.block_on(Brokers::in_memory(1));
    let relay = dies.block_on(Broker::start_on(&brokers.args, brokers.store())).expect("it starts");
    stays.block_on(soon(async {
        while relay.relays_to().is_none() {
            tokio::task::yield_now().await;
        }
    }));
    let addresses = vec![relay.grpc_address().to_string(), brokers.address(0)];
    stays.block_on(async {
        let runs = runs(0);
        let worker =
            Worker::builder(addresses.clone()).shared_state(runs.clone()).concurrency(8).function("count", count);
        let worker = worker.build().expect("a worker");
        let (handle, task) = (worker.handle(), tokio::spawn(worker.run()));
        let client = Client::new(addresses).expect("addresses");
        let ids = defer_all(&client, 500).await;
        soon(handle.wait_for(|status| status.running == 8)).await.expect("it lives");
        dies.shutdown_background();
        drop(relay);
        // Deferred while the client does not know yet.
        let later = defer_all(&client, 500).await;
        runs.gate.add_permits(8);
        for id in ids.iter().chain(&later) {
            let job = client.wait_at_most(*id, PATIENCE).await.expect("a final job");
            assert_eq!((job.state(), job.attempts), (v1::JobState::Succeeded, 1));
        }
        handle.stop();
        assert_eq!(soon(task).await.expect("no panic").counters.lost, 0);
        let of = runs.of.lock().expect("no panic");
        assert!(of.len() == 1_000 && of.values().all(|runs| *runs == 1));
    });
}
