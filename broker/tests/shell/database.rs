//! The shell on PostgreSQL: what needs a real store, and two brokers on one.

use std::time::{Duration, Instant};

use cabbage_broker::{
    Broker, BrokerArgs,
    args::{DatabaseArgs, Secret},
    cell::Role,
};
use cabbage_dev_postgres::{TestDatabase, TestServer};
use cabbage_proto::v1;
use tokio::time::timeout;

use crate::peer::{PATIENCE, Peer, hello, job};

/// Settings for a database of its own, and that.
async fn args() -> (BrokerArgs, TestDatabase) {
    let server = TestServer::shared(None).await.expect("a server");
    let kept = server.database().await.expect("a database");
    let any = "127.0.0.1:0".parse().expect("an address");
    let Ok(url) = kept.url().parse::<Secret>();
    let database = DatabaseArgs { database_url: Some(url), ..DatabaseArgs::default() };
    (BrokerArgs { listen: any, admin_listen: any, database, ..BrokerArgs::default() }, kept)
}

async fn start(args: &BrokerArgs) -> Peer {
    Peer::of(Broker::start(args).await.expect("the broker starts")).await
}

/// A broker that owns a cell in a database of its own.
pub(crate) async fn owner() -> Peer {
    let (args, database) = args().await;
    let mut peer = start(&args).await;
    peer.database = Some(database);
    assert!(timeout(PATIENCE, peer.broker.owns()).await.expect("in time"));
    peer
}

#[tokio::test]
async fn a_paused_queue_stays_paused_under_the_next_owner() {
    let (args, _database) = args().await;
    let first = start(&args).await;
    assert!(timeout(PATIENCE, first.broker.owns()).await.expect("in time"));
    let mut queues = v1::queue_service_client::QueueServiceClient::new(first.channel.clone());
    let request = v1::PauseQueueRequest { queue: "mail".into(), request_id: String::new(), reason: "later".into() };
    let paused = queues.pause_queue(request).await.expect("an answer").into_inner().queue.expect("a queue");
    drop((first.channel, queues));
    first.broker.shutdown().await.expect("it stops in order");

    let second = start(&args).await;
    assert!(timeout(PATIENCE, second.broker.owns()).await.expect("in time"));
    let mut queues = v1::queue_service_client::QueueServiceClient::new(second.channel.clone());
    let request = v1::GetQueueRequest { queue: "mail".into() };
    let shown = queues.get_queue(request).await.expect("it exists").into_inner().queue.expect("a queue");
    assert_eq!(shown, paused);
    assert!(shown.paused && shown.pause_reason == "later" && !shown.paused_by.is_empty(), "{shown:?}");
    let id = second.defer(v1::JobSpec { queue: "mail".into(), ..job("send", "{}") }).await;
    assert_eq!(second.job(id).await.waiting_for(), v1::WaitingFor::Paused);
}

#[tokio::test]
async fn a_job_is_deferred_run_and_kept() {
    let peer = owner().await;
    let (mut worker, _) = peer.worker(hello("send", 2)).await;
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(peer.defer(job("send", &number.to_string())).await);
    }
    for (round, ids) in ids.chunks(2).enumerate() {
        let jobs = worker.jobs(2).await;
        assert_eq!(jobs.iter().map(|(_, delivery)| delivery.job_id).collect::<Vec<_>>(), ids);
        let tokens = jobs.into_iter().map(|(_, delivery)| delivery.lease_token).collect();
        assert_eq!(worker.succeed(round as u64 + 1, tokens).await.recorded_through, round as u64 + 1);
    }
    for id in ids {
        let shown = peer.job(id).await;
        assert_eq!((shown.state(), shown.attempts), (v1::JobState::Succeeded, 1));
    }
}

#[tokio::test]
async fn a_broker_that_stands_by_serves_through_the_owner_and_takes_over_when_it_stops() {
    let (args, _database) = args().await;
    let owner = start(&args).await;
    assert!(timeout(PATIENCE, owner.broker.owns()).await.expect("in time"));
    let (mut worker, welcome) = owner.worker(hello("send", 10)).await;
    let id = owner.defer(job("send", "{}")).await;
    let token = worker.jobs(1).await[0].1.lease_token.clone();

    let standby = start(&args).await;
    let mut role = standby.broker.cell().watch();
    let follows = role.wait_for(|role| matches!(role, Role::Following(Some(_))));
    drop(timeout(PATIENCE, follows).await.expect("in time").expect("it runs"));
    // It passes on what is asked of it.
    assert_eq!(standby.job(id).await.state(), v1::JobState::Running);

    let Peer { broker, channel, .. } = owner;
    let began = Instant::now();
    drop((channel, worker));
    broker.shutdown().await.expect("it stops in order");
    assert!(timeout(PATIENCE, standby.broker.owns()).await.expect("in time"));
    assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
    let resume = v1::Resume {
        session_id: welcome.session_id,
        resume_token: welcome.resume_token,
        lease_tokens: vec![token.clone()],
    };
    let (mut worker, again) = standby.worker(v1::Hello { resume: Some(resume), ..hello("send", 10) }).await;
    assert!(again.resumed && again.lost_lease_tokens.is_empty());
    assert_eq!(worker.succeed(1, vec![token]).await.recorded_through, 1);
    assert_eq!(standby.job(id).await.state(), v1::JobState::Succeeded);
}
