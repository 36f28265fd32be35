//! Operators' verbs, asked of a real broker, on both stores (C10, C11, C17).

use cabbage_proto::v1::{self, admin_service_client::AdminServiceClient, queue_service_client::QueueServiceClient};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::peer::{Peer, Worker, hello, job};

/// Runs each behaviour, a function of a fresh broker, as one test per store.
macro_rules! on_both_stores {
    ($($behaviour:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::peer::Peer::start().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::database::owner().await).await;
            })*
        }
    };
}

on_both_stores!(
    a_final_job_that_is_retried_runs_again_under_its_id,
    what_is_not_final_is_neither_retried_nor_erased,
    a_retry_takes_the_queueing_lock_again_or_names_who_has_it,
    a_retry_keeps_what_earlier_retries_changed,
    a_job_is_moved_in_time_unless_it_runs_or_is_final,
    an_erased_job_is_gone_with_its_outcomes,
    a_paused_queue_starts_nothing_until_it_is_resumed,
    queues_are_listed_by_name_with_their_counts,
    a_second_defer_moves_the_waiting_job_or_replaces_its_arguments,
    a_started_job_is_no_conflict,
    a_second_defer_replaces_no_job_of_another_task_and_says_whether_it_found_one,
    the_same_request_id_gives_the_same_answer_to_every_verb,
    every_verb_is_recorded_with_who_and_why,
    how_long_jobs_are_kept_is_told,
);

async fn how_long_jobs_are_kept_is_told(peer: Peer) {
    let mut admin = AdminServiceClient::new(peer.channel.clone());
    let told = admin.get_retention(v1::GetRetentionRequest {}).await.expect("told").into_inner();
    let keep = told.keep.expect("it is said");
    let days = |time: Option<prost_types::Duration>| time.map(|time| time.seconds / 86_400);
    assert_eq!([keep.succeeded, keep.failed, keep.cancelled, keep.audit].map(days), [7, 30, 30, 365].map(Some));
    assert_eq!((told.kept_below, told.moved_below), (0, 0));
    assert!(told.partitions.first().is_none_or(|first| first.state() == v1::PartitionState::Open));
}

fn queues(peer: &Peer) -> QueueServiceClient<Channel> {
    QueueServiceClient::new(peer.channel.clone())
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("every status has an ErrorInfo").reason
}

fn is_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, word: &str) {
    let status = answer.expect_err("it is refused");
    assert_eq!((status.code(), reason(&status).as_str()), (code, word), "{status:?}");
}

fn hour_from_now() -> prost_types::Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    prost_types::Timestamp { seconds: now.as_secs() as i64 + 3_600, nanos: 0 }
}

fn at(schedule_at: Option<prost_types::Timestamp>) -> v1::JobSpec {
    let due = schedule_at.map(v1::job_spec::Due::ScheduleAt);
    v1::JobSpec { due, ..job("send", "{}") }
}

async fn retry(peer: &Peer, job_id: i64) -> Result<v1::JobState, Status> {
    let request = v1::RetryJobRequest { job_id, ..Default::default() };
    peer.jobs().retry_job(request).await.map(|answer| answer.into_inner().state())
}

async fn move_to(peer: &Peer, job_id: i64, at: Option<prost_types::Timestamp>) -> Result<v1::JobState, Status> {
    let request = v1::RescheduleJobRequest { job_id, schedule_at: at, ..Default::default() };
    peer.jobs().reschedule_job(request).await.map(|answer| answer.into_inner().state())
}

async fn delete(peer: &Peer, job_id: i64) -> Result<(), Status> {
    let request = v1::DeleteJobRequest { job_id, ..Default::default() };
    peer.jobs().delete_job(request).await.map(drop)
}

async fn cancel(peer: &Peer, job_id: i64) {
    let request = v1::CancelJobRequest { job_id, ..Default::default() };
    peer.jobs().cancel_job(request).await.expect("an answer");
}

async fn pause(peer: &Peer, queue: &str) -> v1::Queue {
    let request = v1::PauseQueueRequest { queue: queue.into(), ..Default::default() };
    queues(peer).pause_queue(request).await.expect("an answer").into_inner().queue.expect("a queue")
}

async fn resume(peer: &Peer, queue: &str) -> v1::Queue {
    let request = v1::ResumeQueueRequest { queue: queue.into(), ..Default::default() };
    queues(peer).resume_queue(request).await.expect("an answer").into_inner().queue.expect("a queue")
}

async fn queue(peer: &Peer, queue: &str) -> v1::Queue {
    let request = v1::GetQueueRequest { queue: queue.into() };
    queues(peer).get_queue(request).await.expect("it exists").into_inner().queue.expect("a queue")
}

fn count(queue: &v1::Queue, state: v1::JobState, waiting_for: v1::WaitingFor) -> u64 {
    let fits = |count: &&v1::StateCount| (count.state(), count.waiting_for()) == (state, waiting_for);
    queue.counts.iter().find(fits).map_or(0, |count| count.count)
}

/// The worker's next job, which it fails or ends well.
async fn run_one(worker: &mut Worker, frame: u64, fails: bool) -> i64 {
    let (_, delivery) = worker.jobs(1).await.remove(0);
    if fails {
        worker.fail(frame, delivery.lease_token, None).await;
    } else {
        worker.succeed(frame, vec![delivery.lease_token]).await;
    }
    delivery.job_id
}

async fn a_final_job_that_is_retried_runs_again_under_its_id(peer: Peer) {
    let (mut worker, _) = peer.worker(hello("send", 1)).await;
    let id = peer.defer(job("send", "{}")).await;
    assert_eq!(run_one(&mut worker, 1, true).await, id);
    assert_eq!(peer.job(id).await.state(), v1::JobState::Failed);
    assert_eq!(retry(&peer, id).await.expect("it is final"), v1::JobState::Waiting);
    assert_eq!(run_one(&mut worker, 2, false).await, id);
    let shown = peer.job(id).await;
    assert_eq!((shown.state(), shown.attempts, shown.deliveries), (v1::JobState::Succeeded, 1, 2));
    let verdicts: Vec<_> = shown.history.iter().map(|attempt| (attempt.delivery, attempt.verdict())).collect();
    let expected = [(1, v1::Verdict::Failed), (2, v1::Verdict::Reopened), (3, v1::Verdict::Succeeded)];
    assert_eq!(verdicts, expected);
    // A job can be retried for later, too.
    let request = v1::RetryJobRequest { job_id: id, schedule_at: Some(hour_from_now()), ..Default::default() };
    let answer = peer.jobs().retry_job(request.clone()).await.expect("it is final").into_inner();
    assert_eq!(answer.state(), v1::JobState::Scheduled);
    let shown = peer.job(id).await;
    assert_eq!((shown.state(), shown.due_at), (v1::JobState::Scheduled, request.schedule_at));
    is_refused(retry(&peer, 4_711).await, Code::NotFound, "JOB_NOT_FOUND");
}

async fn what_is_not_final_is_neither_retried_nor_erased(peer: Peer) {
    // One in memory, and one that is due so late that it is parked.
    for spec in [job("send", "{}"), at(Some(hour_from_now()))] {
        let id = peer.defer(spec).await;
        is_refused(retry(&peer, id).await, Code::FailedPrecondition, "JOB_NOT_FINAL");
        is_refused(delete(&peer, id).await, Code::FailedPrecondition, "JOB_NOT_FINAL");
    }
}

async fn a_retry_takes_the_queueing_lock_again_or_names_who_has_it(peer: Peer) {
    let spec = v1::JobSpec { queueing_lock: "one".into(), ..at(Some(hour_from_now())) };
    let first = peer.defer(spec.clone()).await;
    cancel(&peer, first).await;
    let second = peer.defer(spec.clone()).await;
    let status = retry(&peer, first).await.expect_err("it is taken");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "QUEUEING_LOCK_TAKEN"));
    let details = status.get_details_error_info().expect("details").metadata;
    assert_eq!(details["job_id"], second.to_string());
    cancel(&peer, second).await;
    retry(&peer, first).await.expect("it is free");
    let third = peer.jobs().defer_job(v1::DeferJobRequest { job: Some(spec), request_id: String::new() }).await;
    is_refused(third, Code::AlreadyExists, "QUEUEING_LOCK_TAKEN");
}

async fn a_retry_keeps_what_earlier_retries_changed(peer: Peer) {
    let (mut worker, _) = peer.worker(hello("send", 1)).await;
    let retries = v1::RetryPolicy { max_attempts: 2, ..Default::default() };
    let id = peer.defer(v1::JobSpec { retry: Some(retries), ..job("send", "{}") }).await;
    let (_, delivery) = worker.jobs(1).await.remove(0);
    let decision = v1::RetryDecision { queue: "slow".into(), priority: Some(7), ..Default::default() };
    worker.fail(1, delivery.lease_token, Some(decision)).await;
    assert_eq!(run_one(&mut worker, 2, false).await, id);
    assert_eq!(count(&queue(&peer, "slow").await, v1::JobState::Succeeded, v1::WaitingFor::Unspecified), 1);
    pause(&peer, "slow").await;
    retry(&peer, id).await.expect("it is final");
    let slow = queue(&peer, "slow").await;
    assert_eq!(count(&slow, v1::JobState::Succeeded, v1::WaitingFor::Unspecified), 0);
    assert_eq!(count(&slow, v1::JobState::Waiting, v1::WaitingFor::Paused), 1);
    let spec = peer.job(id).await.spec.expect("a spec");
    assert_eq!((spec.queue.as_str(), spec.priority), ("slow", 7));
}

async fn a_job_is_moved_in_time_unless_it_runs_or_is_final(peer: Peer) {
    let (mut worker, _) = peer.worker(hello("send", 1)).await;
    let later = peer.defer(at(Some(hour_from_now()))).await;
    assert_eq!(peer.job(later).await.state(), v1::JobState::Scheduled);
    assert_eq!(move_to(&peer, later, None).await.expect("it is parked"), v1::JobState::Waiting);
    let (_, delivery) = worker.jobs(1).await.remove(0);
    assert_eq!(delivery.job_id, later);
    is_refused(move_to(&peer, later, None).await, Code::FailedPrecondition, "JOB_RUNNING");
    // The worker is full, so this one waits.
    let waits = peer.defer(job("send", "{}")).await;
    let moved = Some(hour_from_now());
    assert_eq!(move_to(&peer, waits, moved).await.expect("it waits"), v1::JobState::Scheduled);
    let shown = peer.job(waits).await;
    assert_eq!((shown.state(), shown.due_at), (v1::JobState::Scheduled, moved));
    worker.succeed(1, vec![delivery.lease_token]).await;
    is_refused(move_to(&peer, later, None).await, Code::FailedPrecondition, "JOB_FINAL");
    is_refused(move_to(&peer, 4_711, None).await, Code::NotFound, "JOB_NOT_FOUND");
}

async fn an_erased_job_is_gone_with_its_outcomes(peer: Peer) {
    let id = peer.defer(job("send", "{}")).await;
    cancel(&peer, id).await;
    assert_eq!(count(&queue(&peer, "default").await, v1::JobState::Cancelled, v1::WaitingFor::Unspecified), 1);
    delete(&peer, id).await.expect("it is final");
    let request = v1::GetJobRequest { job_id: id, ..Default::default() };
    is_refused(peer.jobs().get_job(request).await, Code::NotFound, "JOB_NOT_FOUND");
    is_refused(delete(&peer, id).await, Code::NotFound, "JOB_NOT_FOUND");
    is_refused(retry(&peer, id).await, Code::NotFound, "JOB_NOT_FOUND");
    let listed = peer.jobs().list_jobs(v1::ListJobsRequest::default()).await.expect("a page").into_inner();
    assert_eq!(listed.jobs, []);
    assert_eq!(queue(&peer, "default").await.counts, []);
}

async fn a_paused_queue_starts_nothing_until_it_is_resumed(peer: Peer) {
    // It need not have had a job.
    let paused = pause(&peer, "default").await;
    assert!(paused.paused && paused.paused_at.is_some(), "{paused:?}");
    let (mut worker, _) = peer.worker(hello("send", 10)).await;
    let first = peer.defer(job("send", "{}")).await;
    let shown = peer.job(first).await;
    assert_eq!((shown.state(), shown.waiting_for()), (v1::JobState::Waiting, v1::WaitingFor::Paused));
    // Another queue goes on: what comes first on the stream is its job, and nothing of the paused queue.
    let other = peer.defer(v1::JobSpec { queue: "other".into(), ..job("send", "{}") }).await;
    assert_eq!(worker.jobs(1).await[0].1.job_id, other);
    let resumed = resume(&peer, "default").await;
    assert!(!resumed.paused && resumed.paused_at.is_none(), "{resumed:?}");
    assert_eq!(worker.jobs(1).await[0].1.job_id, first);
    let request = v1::ResumeQueueRequest { queue: "nowhere".into(), ..Default::default() };
    is_refused(queues(&peer).resume_queue(request).await, Code::NotFound, "QUEUE_NOT_FOUND");
    let request = v1::GetQueueRequest { queue: "nowhere".into() };
    is_refused(queues(&peer).get_queue(request).await, Code::NotFound, "QUEUE_NOT_FOUND");
}

async fn queues_are_listed_by_name_with_their_counts(peer: Peer) {
    let in_queue = |queue: &str, spec: v1::JobSpec| v1::JobSpec { queue: queue.into(), ..spec };
    for queue in ["c", "a", "b"] {
        peer.defer(in_queue(queue, job("send", "{}"))).await;
    }
    peer.defer(in_queue("a", at(Some(hour_from_now())))).await;
    let locked = |task: &str| v1::JobSpec { lock: "l".into(), ..in_queue("b", job(task, "{}")) };
    peer.defer(locked("locked")).await;
    peer.defer(locked("locked")).await;
    let (mut worker, _) = peer.worker(v1::Hello { queues: vec!["b".into()], ..hello("locked", 10) }).await;
    worker.jobs(1).await;
    let mut request = v1::ListQueuesRequest { page_size: 2, ..Default::default() };
    let mut listed = Vec::new();
    loop {
        let page = queues(&peer).list_queues(request.clone()).await.expect("a page").into_inner();
        listed.extend(page.queues);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(listed.iter().map(|queue| queue.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    let unspecified = v1::WaitingFor::Unspecified;
    assert_eq!(count(&listed[0], v1::JobState::Scheduled, unspecified), 1);
    assert_eq!(count(&listed[0], v1::JobState::Waiting, v1::WaitingFor::Unserved), 1);
    assert_eq!(count(&listed[1], v1::JobState::Running, unspecified), 1);
    assert_eq!(count(&listed[1], v1::JobState::Waiting, v1::WaitingFor::Blocked), 1);
    assert_eq!((listed[0].sessions, listed[1].sessions), (0, 1));
    assert_eq!(listed[1].oldest_startable_at, None);
    let (_more, _) = peer.worker(hello("send", 0)).await;
    assert!(queue(&peer, "c").await.oldest_startable_at.is_some());
    request.page_size = 1_001;
    is_refused(queues(&peer).list_queues(request).await, Code::InvalidArgument, "INVALID_FIELD");
}

async fn a_second_defer_moves_the_waiting_job_or_replaces_its_arguments(peer: Peer) {
    let spec = |args: &str, conflict: v1::QueueingConflict, due| v1::JobSpec {
        args: bytes::Bytes::copy_from_slice(args.as_bytes()),
        queueing_lock: "one".into(),
        queueing_conflict: conflict.into(),
        ..at(due)
    };
    let moved = Some(hour_from_now());
    // Once while it is in memory, once while it is parked.
    let id = peer.defer(spec("1", v1::QueueingConflict::Reject, None)).await;
    assert_eq!(peer.defer(spec("2", v1::QueueingConflict::Reschedule, moved)).await, id);
    let shown = peer.job(id).await;
    assert_eq!((shown.state(), shown.due_at), (v1::JobState::Scheduled, moved));
    assert_eq!(&shown.spec.expect("a spec").args[..], b"1");
    assert_eq!(peer.defer(spec("[3 ]", v1::QueueingConflict::Replace, moved)).await, id);
    assert_eq!(&peer.job(id).await.spec.expect("a spec").args[..], b"[3 ]");

    // In one batch: the first creates a job, the second gives it its arguments.
    let item = |spec| v1::BatchItem { job: Some(spec), request_id: String::new() };
    for independent in [false, true] {
        let lock = format!("batch {independent}");
        let of_batch =
            |args| v1::JobSpec { queueing_lock: lock.clone(), ..spec(args, v1::QueueingConflict::Replace, None) };
        let items = vec![item(of_batch("4")), item(of_batch("5"))];
        let request = v1::BatchDeferJobsRequest { items, independent, ..Default::default() };
        let ids = peer.jobs().batch_defer_jobs(request).await.expect("no conflict").into_inner().job_ids;
        assert_eq!(ids.len(), 2);
        assert_eq!(ids[0], ids[1]);
        assert_eq!(&peer.job(ids[0]).await.spec.expect("a spec").args[..], b"5");
    }

    // It starts with what it has now.
    assert_eq!(peer.defer(spec("6", v1::QueueingConflict::Replace, None)).await, id);
    let (mut worker, _) = peer.worker(hello("send", 10)).await;
    let jobs = worker.jobs(3).await;
    let args = |id| jobs.iter().find(|(_, delivery)| delivery.job_id == id).map(|(_, delivery)| delivery.args.clone());
    assert_eq!(args(id).expect("it was delivered"), "6");
}

async fn a_second_defer_replaces_no_job_of_another_task_and_says_whether_it_found_one(peer: Peer) {
    let of = |task, args, conflict: v1::QueueingConflict| v1::JobSpec {
        queueing_lock: "one".into(),
        queueing_conflict: conflict.into(),
        ..job(task, args)
    };
    let replace = |task, args| of(task, args, v1::QueueingConflict::Replace);
    let defer = async |job, request_id: &str| {
        let request = v1::DeferJobRequest { job: Some(job), request_id: request_id.into() };
        peer.jobs().defer_job(request).await.map(tonic::Response::into_inner)
    };
    let first = defer(replace("send", "1"), "").await.expect("a job");
    assert!(!first.existing_job);
    for round in 0..2 {
        let second = defer(replace("send", "2"), "again").await.expect("no conflict");
        assert_eq!((second.job_id, second.existing_job, second.repeated_call), (first.job_id, true, round == 1));
    }
    is_refused(defer(replace("receive", "3"), "").await, Code::AlreadyExists, "QUEUEING_LOCK_TAKEN");
    for independent in [false, true] {
        let item = |task, args| v1::BatchItem { job: Some(replace(task, args)), request_id: String::new() };
        let items = vec![item("send", "4"), item("receive", "5")];
        let request = v1::BatchDeferJobsRequest { items, independent, ..Default::default() };
        let answer = peer.jobs().batch_defer_jobs(request).await;
        if independent {
            let [sent, received] = &answer.expect("an answer for each").into_inner().results[..] else { panic!("two") };
            let id = Some(v1::batch_item_result::Result::JobId(first.job_id));
            assert_eq!((&sent.result, sent.existing_job), (&id, true));
            assert!(matches!(received.result, Some(v1::batch_item_result::Result::Error(_))), "{received:?}");
        } else {
            is_refused(answer, Code::AlreadyExists, "QUEUEING_LOCK_TAKEN");
        }
    }
    let shown = peer.job(first.job_id).await.spec.expect("a spec");
    assert_eq!((shown.task.as_str(), &shown.args[..]), ("send", &b"4"[..]));
    // Its due time means the same for every task.
    let moved = defer(of("receive", "6", v1::QueueingConflict::Reschedule), "").await.expect("no conflict");
    assert_eq!((moved.job_id, moved.existing_job), (first.job_id, true));
}

async fn a_started_job_is_no_conflict(peer: Peer) {
    let spec = v1::JobSpec {
        queueing_lock: "one".into(),
        queueing_conflict: v1::QueueingConflict::Replace.into(),
        ..job("send", "{}")
    };
    let (mut worker, _) = peer.worker(hello("send", 1)).await;
    let first = peer.defer(spec.clone()).await;
    worker.jobs(1).await;
    let second = peer.defer(spec).await;
    assert_ne!(first, second);
}

async fn the_same_request_id_gives_the_same_answer_to_every_verb(peer: Peer) {
    let id = peer.defer(job("send", "{}")).await;
    cancel(&peer, id).await;
    let named = |name: &str| (name.to_owned(), "why".to_owned());
    for round in 0..2 {
        let (request_id, reason) = named("retry");
        let request = v1::RetryJobRequest { job_id: id, request_id, reason, schedule_at: None };
        let answer = peer.jobs().retry_job(request).await.expect("the same answer").into_inner();
        assert_eq!(answer.state(), v1::JobState::Waiting, "round {round}");
        let (request_id, reason) = named("reschedule");
        let schedule_at = Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 });
        let request = v1::RescheduleJobRequest { job_id: id, request_id, reason, schedule_at };
        let answer = peer.jobs().reschedule_job(request).await.expect("the same answer").into_inner();
        assert_eq!(answer.state(), v1::JobState::Scheduled, "round {round}");
    }
    let mut answers = Vec::new();
    for _ in 0..2 {
        let (request_id, reason) = named("pause");
        let request = v1::PauseQueueRequest { queue: "default".into(), request_id, reason };
        let answer = queues(&peer).pause_queue(request).await.expect("the same answer").into_inner();
        answers.push(answer.queue.expect("a queue").paused_at);
        let (request_id, reason) = named("resume");
        let request = v1::ResumeQueueRequest { queue: "default".into(), request_id, reason };
        queues(&peer).resume_queue(request).await.expect("the same answer");
    }
    assert!(answers[0].is_some() && answers[0] == answers[1], "{answers:?}");
    assert!(!queue(&peer, "default").await.paused, "what is repeated changes nothing");
    cancel(&peer, id).await;
    for _ in 0..2 {
        let (request_id, reason) = named("delete");
        let request = v1::DeleteJobRequest { job_id: id, request_id, reason };
        peer.jobs().delete_job(request).await.expect("the same answer");
    }
    let (request_id, reason) = named("delete");
    let other = v1::DeleteJobRequest { job_id: id + 1, request_id, reason };
    is_refused(peer.jobs().delete_job(other).await, Code::AlreadyExists, "REQUEST_ID_REUSED");
}

async fn every_verb_is_recorded_with_who_and_why(peer: Peer) {
    let id = peer.defer(job("send", "{}")).await;
    let mut request =
        Request::new(v1::CancelJobRequest { job_id: id, reason: "not needed".into(), ..Default::default() });
    request.metadata_mut().insert("cabbage-actor", "ada".parse().expect("a header"));
    peer.jobs().cancel_job(request).await.expect("an answer");
    retry(&peer, id).await.expect("it is final");
    move_to(&peer, id, Some(hour_from_now())).await.expect("it waits");
    pause(&peer, "default").await;
    resume(&peer, "default").await;
    cancel(&peer, id).await;
    delete(&peer, id).await.expect("it is final");
    // What is refused is not done, and not recorded.
    is_refused(delete(&peer, id).await, Code::NotFound, "JOB_NOT_FOUND");
    let mut admin = AdminServiceClient::new(peer.channel.clone());
    let mut request = v1::ListAuditRequest { page_size: 3, ..Default::default() };
    let mut entries = Vec::new();
    loop {
        let page = admin.list_audit(request.clone()).await.expect("a page").into_inner();
        entries.extend(page.entries);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let verbs: Vec<_> = entries.iter().map(|entry| entry.verb.as_str()).collect();
    assert_eq!(verbs, ["delete", "cancel", "resume", "pause", "reschedule", "retry", "cancel"]);
    let first = entries.last().expect("an entry");
    assert_eq!((first.actor.as_str(), first.reason.as_str(), first.job_id), ("ada", "not needed", id));
    assert_eq!((entries[3].queue.as_str(), entries[3].actor.as_str()), ("default", "127.0.0.1"));
    let of_job = v1::ListAuditRequest { job_id: id, ..Default::default() };
    let page = admin.list_audit(of_job).await.expect("a page").into_inner();
    assert_eq!(page.entries.len(), 5);
    request.job_id = id;
    is_refused(admin.list_audit(request).await, Code::InvalidArgument, "INVALID_FIELD");
}
