//! A request id that is new costs the database no look-up, and one that was used is known whoever owns the cell (C2).

#[path = "broker/metrics.rs"]
mod metrics;
#[path = "broker/postgres.rs"]
mod postgres;

use cabbage_broker::{
    Broker,
    args::{DatabaseArgs, Secret},
};
use cabbage_proto::v1::{self, job_service_client::JobServiceClient};
use tonic::transport::Channel;

use metrics::metric;

/// Calls that are counted together, one after the other. Each takes a commit; one that is looked up takes another
/// statement.
const CALLS: u32 = 100;
/// How many times so many calls are made at most, until the owner knows what was used before.
const ROUNDS_MAX: u32 = 100;

async fn client(broker: &Broker) -> JobServiceClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{}", broker.grpc_address())).expect("an address");
    JobServiceClient::new(endpoint.connect().await.expect("the broker answers"))
}

async fn defer(client: &mut JobServiceClient<Channel>, request_id: String) -> v1::DeferJobResponse {
    let job = v1::JobSpec { queue: "mail".into(), task: "send".into(), ..v1::JobSpec::default() };
    let call = v1::DeferJobRequest { job: Some(job), request_id };
    client.defer_job(call).await.expect("it is deferred").into_inner()
}

/// Makes calls with new request ids until none of them is looked up.
async fn until_new_ids_are_known_to_be_new(broker: &Broker, client: &mut JobServiceClient<Channel>, name: &str) {
    for round in 0..ROUNDS_MAX {
        let before = metric(broker, "cabbage_statements_total").await;
        for call in 0..CALLS {
            assert!(!defer(client, format!("{name} {round} {call}")).await.repeated_call);
        }
        let statements = metric(broker, "cabbage_statements_total").await - before;
        if statements < 1.5 * f64::from(CALLS) {
            return;
        }
    }
    panic!("request ids are looked up for ever");
}

#[tokio::test]
async fn a_new_request_id_is_not_looked_up_and_an_old_one_is_known_over_a_restart() {
    let (broker, kept) = postgres::start(|_| {}).await;
    let mut first_client = client(&broker).await;
    let first = defer(&mut first_client, "the first".into()).await;
    until_new_ids_are_known_to_be_new(&broker, &mut first_client, "before").await;
    let second = defer(&mut first_client, "the second".into()).await;
    let again = defer(&mut first_client, "the first".into()).await;
    assert_eq!((again.job_id, again.repeated_call), (first.job_id, true));
    broker.shutdown().await.expect("it stops in order");

    let (broker, _database) = postgres::start(|args| {
        let Ok(secret) = kept.url().parse::<Secret>();
        args.database = DatabaseArgs { database_url: Some(secret), ..DatabaseArgs::default() };
    })
    .await;
    let mut second_client = client(&broker).await;
    // Whether it is loaded by now or not.
    let again = defer(&mut second_client, "the first".into()).await;
    assert_eq!((again.job_id, again.repeated_call), (first.job_id, true));
    until_new_ids_are_known_to_be_new(&broker, &mut second_client, "after").await;
    for (id, job) in [("the first", first.job_id), ("the second", second.job_id)] {
        let again = defer(&mut second_client, id.into()).await;
        assert_eq!((again.job_id, again.repeated_call), (job, true), "{id}");
    }
    broker.shutdown().await.expect("it stops in order");
}
