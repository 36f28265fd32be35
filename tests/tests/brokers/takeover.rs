//! The owner loses the cell without a word.

use cabbage_proto::v1;
use cabbage_worker::{Client, Context, TaskError, Worker};
use tokio::sync::Semaphore;

use crate::scene::{Brokers, PATIENCE, defer, soon};

async fn wait((): (), ctx: Context<Semaphore>) -> Result<(), TaskError> {
    ctx.state().acquire().await?.forget();
    Ok(())
}

#[tokio::test]
async fn calls_are_held_back_and_workers_keep_their_jobs() {
    let brokers = Brokers::in_memory(3).await;
    let gate = std::sync::Arc::new(Semaphore::new(0));
    // One at the owner, and one at a relay that will stay one or become the owner.
    let mut workers = Vec::new();
    for number in [0, 1] {
        let worker = Worker::builder(brokers.address(number)).shared_state(gate.clone()).concurrency(1);
        let worker = worker.prefetch(0).function("wait", wait).build().expect("a worker");
        workers.push((worker.handle(), tokio::spawn(worker.run())));
    }
    let client = Client::new(brokers.address(2)).expect("an address");
    let ids = [
        client.defer_named("wait", ()).await.expect("a job").job_id,
        client.defer_named("wait", ()).await.expect("a job").job_id,
    ];
    for (handle, _) in &workers {
        soon(handle.wait_for(|status| status.running == 1)).await.expect("it lives");
    }
    brokers.depose();
    // The owner learns of it by its next commit; these calls are made while nobody knows.
    let owner = brokers.owner();
    for number in 0..3 {
        let mut call = defer("wait");
        // A relay names those that come without an id.
        call.request_id = if number == owner { "4711".into() } else { String::new() };
        soon(brokers.jobs(number).await.defer_job(call)).await.expect("it is held back, and done");
    }
    brokers.settle().await;
    gate.add_permits(10);
    for id in ids {
        let job = client.wait_at_most(id, PATIENCE).await.expect("a final job");
        assert_eq!((job.state(), job.attempts, job.deliveries), (v1::JobState::Succeeded, 1, 1));
    }
    for (handle, task) in workers {
        handle.stop();
        assert_eq!(soon(task).await.expect("no panic").counters.lost, 0);
    }
}
