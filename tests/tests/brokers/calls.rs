//! Calls at a broker that does not own the cell.

use cabbage_broker::{Broker, BrokerArgs};
use cabbage_proto::v1;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use crate::scene::{Brokers, defer, soon};

#[tokio::test]
async fn the_record_names_who_called_and_not_the_relay() {
    let brokers = Brokers::in_memory(2).await;
    let (mut jobs, mut queues) = (brokers.jobs(1).await, brokers.queues(1).await);
    jobs.defer_job(defer("send")).await.expect("a job, and with it the queue");
    let pause = v1::PauseQueueRequest { queue: "default".into(), ..v1::PauseQueueRequest::default() };
    let mut named = Request::new(pause.clone());
    named.metadata_mut().insert("cabbage-actor", "ann".parse().expect("a name"));
    queues.pause_queue(named).await.expect("it is paused");
    let resume = v1::ResumeQueueRequest { queue: "default".into(), ..v1::ResumeQueueRequest::default() };
    queues.resume_queue(resume).await.expect("it goes on");
    for number in [0, 1] {
        let list = brokers.admin(number).await.list_audit(v1::ListAuditRequest::default()).await;
        let entries = list.expect("the record").into_inner().entries;
        let actors: Vec<_> = entries.iter().map(|entry| entry.actor.as_str()).collect();
        assert_eq!(actors, ["127.0.0.1", "ann"]);
    }
}

#[tokio::test]
async fn errors_come_through_with_all_their_details() {
    let brokers = Brokers::in_memory(2).await;
    let mut said = Vec::new();
    for number in [0, 1] {
        let mut call = defer("send");
        call.job.as_mut().expect("a job").priority = 101;
        let status = brokers.jobs(number).await.defer_job(call).await.expect_err("the priority is too high");
        let details = status.get_error_details();
        said.push(format!("{:?} {} {details:?}", status.code(), status.message()));
    }
    assert!(said[0].contains("job.priority"), "{}", said[0]);
    assert_eq!(said[0], said[1]);
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_in_the_same_words() {
    let brokers = Brokers::in_memory(2).await;
    let mut said = Vec::new();
    for number in [0, 1] {
        let mut call = defer("send");
        call.request_id = "x".repeat(5 << 20);
        let status = brokers.jobs(number).await.defer_job(call).await.expect_err("it is too large");
        assert_eq!(status.code(), Code::InvalidArgument);
        said.push(status.get_details_error_info().expect("an ErrorInfo").metadata["value"].clone());
    }
    assert_eq!(said[0], said[1]);
}

#[tokio::test]
async fn a_call_is_held_back_for_as_long_as_it_may_and_no_longer() {
    let nobody = Brokers::in_memory(0).await;
    // The term belongs to somebody who does not answer.
    let store = nobody.store();
    let _tenure = store.take_term("127.0.0.1:9").await.expect("a store").expect("nobody has it");
    let mut args: BrokerArgs = nobody.args.clone();
    args.intervals.relay_hold_ms = 300;
    let broker = Broker::start_on(&args, store).await.expect("it starts");
    let mut role = broker.cell().watch();
    let follows = role.wait_for(|role| matches!(role, cabbage_broker::cell::Role::Following(Some(_))));
    drop(soon(follows).await.expect("it runs"));
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", broker.grpc_address()));
    let channel = channel.expect("an address").connect().await.expect("it listens");
    let mut jobs = v1::job_service_client::JobServiceClient::new(channel);
    let began = std::time::Instant::now();
    let status = soon(jobs.defer_job(defer("send"))).await.expect_err("nobody can answer");
    assert!(began.elapsed().as_millis() >= 300, "it was held back for {:?} only", began.elapsed());
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!((status.code(), info.reason.as_str()), (Code::Unavailable, "NOT_OWNER"));
    assert_eq!(info.metadata["owner"], "127.0.0.1:9");
    // Whoever says how long it waits is not held back beyond that.
    let mut hurried = Request::new(defer("send"));
    hurried.set_timeout(std::time::Duration::from_millis(50));
    let status = soon(jobs.defer_job(hurried)).await.expect_err("nobody can answer");
    assert!(matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
}

#[tokio::test]
async fn a_call_that_is_given_up_is_given_up_at_the_owner() {
    let brokers = Brokers::in_memory(2).await;
    let mut jobs = brokers.jobs(1).await;
    let id = jobs.defer_job(defer("send")).await.expect("a job").into_inner().job_id;
    // Many more calls than a link carries at once, all of which wait for a job that nobody runs, and are given up.
    for _ in 0..40 {
        let mut waiting = Vec::new();
        for _ in 0..500 {
            let mut jobs = jobs.clone();
            let wait = v1::WaitJobRequest { job_id: id, ..v1::WaitJobRequest::default() };
            waiting.push(tokio::spawn(async move { jobs.wait_job(wait).await }));
        }
        // They have reached the owner when a later call has.
        jobs.get_job(v1::GetJobRequest { job_id: id, ..v1::GetJobRequest::default() }).await.expect("the job");
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    }
    jobs.defer_job(defer("send")).await.expect("there is room for more");
}

#[tokio::test]
async fn a_call_that_waits_for_a_job_waits_on_under_the_next_owner() {
    let brokers = Brokers::in_memory(3).await;
    let job_id = brokers.jobs(0).await.defer_job(defer("send")).await.expect("a job").into_inner().job_id;
    for number in [0, 1] {
        let mut waiting = Vec::new();
        for _ in 0..20 {
            let mut jobs = brokers.jobs(number).await;
            let max_wait = Some(prost_types::Duration { seconds: 1, nanos: 0 });
            let wait = v1::WaitJobRequest { job_id, max_wait };
            waiting.push(tokio::spawn(async move { jobs.wait_job(wait).await }));
        }
        brokers.jobs(number).await.get_job(v1::GetJobRequest { job_id, ..Default::default() }).await.expect("the job");
        let handed = brokers.admin(number).await.hand_over(v1::HandOverRequest::default()).await;
        handed.expect("another owner");
        for wait in waiting {
            assert!(!soon(wait).await.expect("no panic").expect("an answer").into_inner().is_final);
        }
        brokers.settle().await;
    }
}
