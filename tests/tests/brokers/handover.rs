//! The cell goes from one broker to another as planned: no call fails, no attempt is used up, no handler is cancelled.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use cabbage_proto::v1;
use cabbage_worker::{Client, Context, Status, TaskError, Worker, WorkerHandle};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::scene::{Brokers, PATIENCE, defer, page, soon};

/// How often each job ran.
pub(crate) type Runs = Arc<Mutex<HashMap<i64, u32>>>;

async fn count((): (), ctx: Context<Mutex<HashMap<i64, u32>>>) -> Result<(), TaskError> {
    *ctx.state().lock().expect("no panic").entry(ctx.id()).or_default() += 1;
    // Long enough that some run whenever the owner changes.
    tokio::select! {
        () = tokio::time::sleep(std::time::Duration::from_millis(20)) => Ok(()),
        cause = ctx.cancelled() => Err(TaskError::new("Cancelled", format!("{cause:?}"))),
    }
}

pub(crate) fn worker(addresses: Vec<String>, runs: &Runs) -> (WorkerHandle, JoinHandle<Status>) {
    let worker = Worker::builder(addresses).shared_state(runs.clone()).concurrency(8).function("count", count);
    let worker = worker.build().expect("a worker");
    (worker.handle(), tokio::spawn(worker.run()))
}

/// Defers jobs one after the other at each broker, without a second try and without ids, until told to stop. Gives the
/// jobs; any error is a failure.
pub(crate) fn callers(brokers: &Brokers, at: &[usize], stop: &CancellationToken) -> Vec<JoinHandle<Vec<i64>>> {
    let mut callers = Vec::new();
    for &number in at {
        let (address, stop) = (brokers.address(number), stop.clone());
        callers.push(tokio::spawn(async move {
            let endpoint = tonic::transport::Channel::from_shared(format!("http://{address}")).expect("an address");
            let channel = endpoint.connect().await.expect("it listens");
            let mut jobs = v1::job_service_client::JobServiceClient::new(channel);
            let mut ids = Vec::new();
            while !stop.is_cancelled() {
                let deferred = soon(jobs.defer_job(defer("count"))).await.expect("no call fails");
                ids.push(deferred.into_inner().job_id);
            }
            ids
        }));
    }
    callers
}

pub(crate) async fn check(brokers: &Brokers, runs: &Runs, ids: &[i64]) {
    let client = Client::new(vec![brokers.address(0), brokers.address(brokers.all.len() - 1)]).expect("addresses");
    for &id in ids {
        let job = client.wait_at_most(id, PATIENCE).await.expect("a final job");
        assert_eq!((job.state(), job.attempts), (v1::JobState::Succeeded, 1), "job {id}");
    }
    let runs = runs.lock().expect("no panic");
    let twice: Vec<_> = ids.iter().filter(|id| runs.get(id) != Some(&1)).collect();
    assert!(twice.is_empty(), "jobs that did not run exactly once: {twice:?}");
}

/// Stops the workers: no handler failed, and no lease was lost.
pub(crate) async fn end_well(workers: impl IntoIterator<Item = (WorkerHandle, JoinHandle<Status>)>) {
    for (handle, task) in workers {
        handle.stop();
        let status = soon(task).await.expect("no panic");
        assert_eq!((status.counters.failed, status.counters.lost), (0, 0));
    }
}

async fn the_cell_goes_round_under_load(brokers: Brokers) {
    let runs = Runs::default();
    let workers = [worker(vec![brokers.address(0)], &runs), worker(vec![brokers.address(1)], &runs)];
    let stop = CancellationToken::new();
    let callers = callers(&brokers, &[0, 1, 2, 2], &stop);
    let mut term = 1;
    for round in 0..6 {
        let handed = brokers.admin(round % 3).await.hand_over(v1::HandOverRequest::default()).await;
        let next = handed.expect("another owner").into_inner().term;
        assert!(next > term, "term {next} after {term}");
        term = next;
        brokers.settle().await;
    }
    stop.cancel();
    let mut ids = Vec::new();
    for caller in callers {
        ids.extend(caller.await.expect("no call failed"));
    }
    check(&brokers, &runs, &ids).await;
    // Streams go on under the next owner: to open another takes a worker up to a second.
    for broker in &brokers.all {
        let metrics = page(broker, "/metrics").await;
        let ended =
            metrics.lines().find(|line| line.starts_with("cabbage_streams_ended_total") && line.contains("refused"));
        assert_eq!(ended, None);
    }
    end_well(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cell_goes_round_under_load_in_memory() {
    the_cell_goes_round_under_load(Brokers::in_memory(3).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cell_goes_round_under_load_in_postgres() {
    the_cell_goes_round_under_load(Brokers::in_postgres(3).await).await;
}

#[tokio::test]
async fn brokers_are_replaced_one_by_one_under_load() {
    let mut brokers = Brokers::in_postgres(3).await;
    let runs = Runs::default();
    let everywhere: Vec<_> = (0..3).map(|number| brokers.address(number)).collect();
    let workers: Vec<_> = (0..2).map(|_| worker(everywhere.clone(), &runs)).collect();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.extend(replace_the_first(&mut brokers).await);
    }
    check(&brokers, &runs, &ids).await;
    end_well(workers).await;
}

/// Stops the first of three brokers under load, and starts its successor, with the settings that brokers have now. Gives
/// the jobs that were deferred meanwhile.
pub(crate) async fn replace_the_first(brokers: &mut Brokers) -> Vec<i64> {
    // Callers of those that stay for now; whoever goes finishes what it has, and takes nothing new.
    let stop = CancellationToken::new();
    let callers = callers(brokers, &[1, 2], &stop);
    let goes = brokers.all.remove(0);
    let (listen, admin_listen) = (goes.grpc_address(), goes.admin_address());
    soon(goes.shutdown()).await.expect("it stops in order");
    brokers.settle().await;
    // Its successor has its addresses.
    let any = brokers.args.clone();
    (brokers.args.listen, brokers.args.admin_listen) = (listen, admin_listen);
    brokers.add().await;
    brokers.args = any;
    stop.cancel();
    let mut ids = Vec::new();
    for caller in callers {
        ids.extend(caller.await.expect("no call failed"));
    }
    ids
}

#[tokio::test]
async fn the_cell_goes_to_the_broker_that_is_named() {
    let brokers = Brokers::in_postgres(3).await;
    for (asked, next) in [(0, 2), (1, 1), (2, 0)] {
        let to = v1::HandOverRequest { address: brokers.address(next), ..v1::HandOverRequest::default() };
        brokers.admin(asked).await.hand_over(to).await.expect("another owner");
        brokers.settle().await;
        assert_eq!(brokers.owner(), next);
    }
}

#[tokio::test]
async fn a_handover_is_recorded_with_who_wished_it_and_why() {
    let mut brokers = Brokers::in_postgres(2).await;
    // By a call that a relay passes on; then since the owner stops; and one that comes to nothing.
    let wish = v1::HandOverRequest { reason: "an upgrade".into(), ..v1::HandOverRequest::default() };
    let mut named = tonic::Request::new(wish.clone());
    named.metadata_mut().insert("cabbage-actor", "ann".parse().expect("a name"));
    brokers.admin(1).await.hand_over(named).await.expect("another owner");
    brokers.settle().await;
    let stops = brokers.address(1);
    soon(brokers.all.remove(1).shutdown()).await.expect("it stops in order");
    brokers.settle().await;
    brokers.admin(0).await.hand_over(wish).await.expect_err("there is nobody");
    let list = brokers.admin(0).await.list_audit(v1::ListAuditRequest::default()).await;
    let entries = list.expect("the record").into_inner().entries;
    let said: Vec<_> = entries.iter().map(|entry| (&*entry.verb, &*entry.actor, &*entry.reason)).collect();
    assert_eq!(said, [("hand over", &*stops, "this broker stops"), ("hand over", "ann", "an upgrade")]);
}

#[tokio::test]
async fn a_handover_whose_reason_is_too_long_is_refused_and_not_done() {
    let brokers = Brokers::in_memory(2).await;
    let wish = v1::HandOverRequest { reason: "x".repeat(1_025), ..v1::HandOverRequest::default() };
    let status = brokers.admin(0).await.hand_over(wish).await.expect_err("it is too long");
    assert_eq!((status.code(), status.message().starts_with("reason")), (Code::InvalidArgument, true), "{status:?}");
    assert_eq!(brokers.owner(), 0);
}

/// Defers jobs over one connection until it is closed. Any answer of a broker that is an error is a failure.
async fn until_closed(address: String) -> usize {
    let endpoint = tonic::transport::Channel::from_shared(format!("http://{address}")).expect("an address");
    let mut jobs = v1::job_service_client::JobServiceClient::new(endpoint.connect().await.expect("it listens"));
    let mut done = 0;
    loop {
        match soon(jobs.defer_job(defer("count"))).await {
            Ok(_) => done += 1,
            Err(status) => {
                let said = status.get_details_error_info();
                assert!(said.is_none(), "a broker that stops answered: {status:?}");
                return done;
            }
        }
    }
}

#[tokio::test]
async fn a_broker_that_stops_passes_on_what_still_comes() {
    let mut brokers = Brokers::in_postgres(3).await;
    // The owner first, and then a relay.
    for goes in [0, 1] {
        let callers: Vec<_> = (0..8).map(|_| tokio::spawn(until_closed(brokers.address(goes)))).collect();
        brokers.jobs(goes).await.defer_job(defer("count")).await.expect("it serves");
        soon(brokers.all.remove(goes).shutdown()).await.expect("it stops in order");
        for caller in callers {
            assert!(caller.await.expect("no error of a broker") > 0);
        }
        brokers.settle().await;
        brokers.add().await;
    }
}

#[tokio::test]
async fn a_broker_that_stops_is_no_heir() {
    let mut brokers = Brokers::in_memory(3).await;
    let (mut stays, goes) = (brokers.jobs(2).await, brokers.address(2));
    // A call that lasts keeps the connection, and with it the broker, for a while.
    let job_id = stays.defer_job(defer("count")).await.expect("a job").into_inner().job_id;
    let wait = tokio::spawn(async move {
        let max_wait = Some(prost_types::Duration { seconds: 5, nanos: 0 });
        stays.wait_job(v1::WaitJobRequest { job_id, max_wait }).await
    });
    let leaves = tokio::spawn(brokers.all.remove(2).shutdown());
    let refused = soon(async {
        loop {
            let to = v1::HandOverRequest { address: goes.clone(), ..v1::HandOverRequest::default() };
            match brokers.admin(brokers.owner()).await.hand_over(to).await {
                // It had not said yet that it goes, and took nothing.
                Ok(_) => brokers.settle().await,
                Err(status) => return status,
            }
        }
    });
    let refused = refused.await;
    assert_eq!(refused.get_details_error_info().expect("an ErrorInfo").reason, "NO_FOLLOWER");
    let mut admin = brokers.admin(brokers.owner()).await;
    soon(admin.hand_over(v1::HandOverRequest::default())).await.expect("the other one takes it");
    // What it has under way is answered, and it ends.
    assert!(!wait.await.expect("no panic").expect("an answer").into_inner().is_final);
    soon(leaves).await.expect("no panic").expect("it stops in order");
}

#[tokio::test]
async fn a_cell_is_not_given_to_nobody() {
    let brokers = Brokers::in_memory(1).await;
    let mut admin = brokers.admin(0).await;
    for address in [String::new(), "127.0.0.1:9".to_owned()] {
        let to = v1::HandOverRequest { address, ..v1::HandOverRequest::default() };
        let status = admin.hand_over(to).await.expect_err("there is nobody");
        let reason = status.get_details_error_info().expect("an ErrorInfo").reason;
        assert_eq!((status.code(), reason.as_str()), (Code::FailedPrecondition, "NO_FOLLOWER"));
    }
    brokers.jobs(0).await.defer_job(defer("count")).await.expect("it still owns the cell");
}
