//! The link between two brokers is cut while calls are on it.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use cabbage_proto::v1;
use cabbage_worker::{Context, TaskError, Worker};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::scene::{Brokers, defer, soon};

/// How often the link is cut.
const CUTS: usize = 20;

/// Passes bytes on, until it is told to cut every connection that it has.
#[derive(Clone)]
struct Cable {
    address: SocketAddr,
    to: watch::Sender<Option<SocketAddr>>,
    cut: watch::Sender<CancellationToken>,
}

impl Cable {
    async fn lay() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let cable = Self { address, to: watch::Sender::new(None), cut: watch::Sender::new(CancellationToken::new()) };
        let laid = cable.clone();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let (cut, to) = (laid.cut.borrow().clone(), *laid.to.borrow());
                tokio::spawn(cut.run_until_cancelled_owned(async move {
                    let Some(to) = to else { return };
                    if let Ok(mut to) = TcpStream::connect(to).await {
                        // Either side may close as it likes.
                        let _ = copy_bidirectional(&mut from, &mut to).await;
                    }
                }));
            }
        });
        cable
    }

    fn cut(&self) {
        self.cut.send_replace(CancellationToken::new()).cancel();
    }
}

/// How a caller names its calls.
#[derive(Clone, Copy)]
enum Named {
    /// By an id of its own.
    Itself,
    /// Not at all: the relay does.
    ByTheRelay,
    /// Not at all, in batches of independent items.
    ItemsByTheRelay,
}

/// Defers jobs one after the other, none of which may fail; gives them.
async fn call(
    mut jobs: v1::job_service_client::JobServiceClient<tonic::transport::Channel>,
    named: Named,
    stop: CancellationToken,
) -> Vec<i64> {
    let mut done = Vec::new();
    while !stop.is_cancelled() {
        let v1::DeferJobRequest { job, .. } = defer("count");
        if let Named::ItemsByTheRelay = named {
            let items = vec![v1::BatchItem { job, ..v1::BatchItem::default() }; 2];
            let batch = v1::BatchDeferJobsRequest { items, independent: true, ..v1::BatchDeferJobsRequest::default() };
            let deferred = soon(jobs.batch_defer_jobs(batch)).await.expect("no call fails").into_inner();
            assert_eq!(deferred.job_ids.len(), 2, "no item fails: {deferred:?}");
            done.extend(deferred.job_ids);
            continue;
        }
        let request_id = if let Named::Itself = named { Uuid::new_v4().to_string() } else { String::new() };
        let deferred = soon(jobs.defer_job(v1::DeferJobRequest { job, request_id })).await;
        done.push(deferred.expect("no call fails").into_inner().job_id);
    }
    done
}

async fn count((): (), ctx: Context<Mutex<HashMap<i64, u32>>>) -> Result<(), TaskError> {
    *ctx.state().lock().expect("no panic").entry(ctx.id()).or_default() += 1;
    Ok(())
}

#[tokio::test]
async fn no_call_fails_with_an_id_or_without_and_no_job_is_lost_or_made_twice() {
    let cable = Cable::lay().await;
    let mut brokers = Brokers::in_memory(0).await;
    brokers.args.advertise = Some(cable.address.to_string());
    brokers.add().await;
    cable.to.send_replace(Some(brokers.all[0].grpc_address()));
    brokers.args.advertise = None;
    brokers.add().await;
    let runs = Arc::new(Mutex::new(HashMap::<i64, u32>::new()));
    let worker = Worker::builder(brokers.address(1)).shared_state(runs.clone()).concurrency(8).function("count", count);
    let worker = worker.build().expect("a worker");
    let (handle, task) = (worker.handle(), tokio::spawn(worker.run()));
    let stop = CancellationToken::new();
    let mut callers = Vec::new();
    for named in [Named::Itself, Named::ByTheRelay, Named::ItemsByTheRelay].into_iter().cycle().take(9) {
        callers.push(tokio::spawn(call(brokers.jobs(1).await, named, stop.clone())));
    }
    for _ in 0..CUTS {
        cable.cut();
        // Something has gone through the link that is next.
        brokers
            .jobs(1)
            .await
            .defer_job(v1::DeferJobRequest { request_id: Uuid::new_v4().to_string(), ..defer("count") })
            .await
            .expect("a job");
    }
    stop.cancel();
    let mut done = HashSet::new();
    for caller in callers {
        for id in caller.await.expect("no call fails") {
            assert!(done.insert(id), "two calls made job {id}");
        }
    }
    let client = cabbage_worker::Client::new(brokers.address(0)).expect("an address");
    for id in &done {
        let job = client.wait_at_most(*id, crate::scene::PATIENCE).await.expect("a final job");
        assert_eq!((job.state(), job.attempts), (v1::JobState::Succeeded, 1));
    }
    handle.stop();
    assert_eq!(soon(task).await.expect("no panic").counters.lost, 0);
    let runs = runs.lock().expect("no panic");
    assert!(runs.values().all(|runs| *runs == 1), "a job ran twice");
    // Each call made one job, whatever was cut: there is none that no caller knows of.
    assert!(runs.len() <= done.len() + CUTS, "{} jobs of {} calls", runs.len(), done.len());
}
