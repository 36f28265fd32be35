//! Results: tokens that are none or no longer count, and ends that cannot be recorded as they are.

use bytes::Bytes;
use cabbage_broker::core::types::{JobId, Lease};
use cabbage_proto::v1::{self, SettleCode, job_result::Outcome};
use prost_types::Duration;

use crate::{scene::Scene, worker::job};

fn succeeded(result: impl Into<Bytes>) -> Outcome {
    Outcome::Succeeded(v1::Succeeded { result: result.into() })
}

fn token(lease: Lease) -> Bytes {
    Bytes::copy_from_slice(&lease.token())
}

#[tokio::test]
async fn tokens_that_are_none_or_of_others_change_nothing() {
    let scene = Scene::start().await;
    let mut worker = scene.worker("results", 10).await;
    let id = scene.defer(job("results")).await;
    let good = worker.job().await.lease_token;
    let lease = Lease::parse(&good).expect("a token");

    let token_of_another_term = token(Lease { nonce: !lease.nonce, ..lease });
    let mut longer = good.to_vec();
    longer.push(0);
    let bad = [
        (Bytes::new(), SettleCode::InvalidToken),
        (Bytes::from_static(b"no token"), SettleCode::InvalidToken),
        (good.slice(1..), SettleCode::InvalidToken),
        (longer.into(), SettleCode::InvalidToken),
        (vec![0; good.len()].into(), SettleCode::InvalidToken),
        (vec![0xff; good.len()].into(), SettleCode::InvalidToken),
        (vec![0; 1 << 20].into(), SettleCode::InvalidToken),
        // Of another cell, or term.
        (token_of_another_term.clone(), SettleCode::LeaseLost),
        (token(Lease { delivery: lease.delivery + 1, ..lease }), SettleCode::LeaseLost),
        (token(Lease { delivery: u32::MAX >> 1, ..lease }), SettleCode::LeaseLost),
        (token(Lease { job: JobId(id + 1_000_000_000), ..lease }), SettleCode::NotFound),
        (token(Lease { job: JobId(i64::MAX), ..lease }), SettleCode::NotFound),
    ];
    for (bad, code) in &bad {
        // On the stream: as a plain success, and with more to say.
        assert_eq!(worker.settle(vec![bad.clone()], Vec::new()).await, [(bad.clone(), *code)], "{bad:?}");
        let outcome = Outcome::Failed(v1::Failed::default());
        assert_eq!(worker.settle_one(bad, outcome.clone()).await, *code, "{bad:?}");
        // As a call.
        let result = v1::JobResult { lease_token: bad.clone(), outcome: Some(outcome) };
        let answer = scene.workers().settle_jobs(v1::SettleJobsRequest { results: vec![result] }).await;
        let answer = answer.expect("an answer").into_inner().results.remove(0);
        assert_eq!((answer.lease_token.clone(), answer.code()), (bad.clone(), *code));
        assert_eq!(scene.shown(id).await.state(), v1::JobState::Running);
    }

    // All at once, and the good one among them: it is recorded.
    // (Of a delivery that has ended, only its number is kept, so a token of another term may then be known too.)
    let bad: Vec<_> = bad.into_iter().filter(|(token, _)| token[..] != token_of_another_term[..]).collect();
    let mut all: Vec<_> = bad.iter().map(|(token, _)| token.clone()).collect();
    all.insert(5, good);
    let mut exceptions = worker.settle(all, Vec::new()).await;
    let mut expected = bad;
    let order = |(token, _): &(Bytes, SettleCode)| token.clone();
    exceptions.sort_by_key(order);
    expected.sort_by_key(order);
    assert_eq!(exceptions, expected);
    assert_eq!(scene.shown(id).await.state(), v1::JobState::Succeeded);
    scene.stays_well().await;
}

#[tokio::test]
async fn a_result_that_comes_twice_is_known_and_another_verdict_is_a_conflict() {
    let scene = Scene::start().await;
    let mut worker = scene.worker("results", 10).await;
    let id = scene.defer(job("results")).await;
    let token = worker.job().await.lease_token;
    assert_eq!(worker.settle(vec![token.clone()], Vec::new()).await, []);
    assert_eq!(worker.settle_one(&token, succeeded("[1]")).await, SettleCode::AlreadyRecorded);
    assert_eq!(worker.settle_one(&token, Outcome::Failed(v1::Failed::default())).await, SettleCode::VerdictConflict);
    let shown = scene.shown(id).await;
    assert_eq!((shown.state(), shown.attempts), (v1::JobState::Succeeded, 1));
    assert!(shown.last_attempt.expect("an attempt").result.is_empty());
    scene.stays_well().await;
}

#[tokio::test]
async fn a_result_that_comes_twice_in_one_message_is_known() {
    let scene = Scene::start().await;
    let mut worker = scene.worker("results", 10).await;
    scene.defer(job("results")).await;
    let token = worker.job().await.lease_token;
    let exceptions = worker.settle(vec![token.clone(), token.clone()], Vec::new()).await;
    assert_eq!(exceptions, [(token, SettleCode::AlreadyRecorded)]);
    scene.stays_well().await;
}

#[tokio::test]
async fn texts_of_a_failure_are_cut_with_a_mark_and_freed_of_nul() {
    let scene = Scene::start().await;
    let mut worker = scene.worker("results", 1).await;
    let id = scene.defer(job("results")).await;
    let failure = v1::Failure {
        kind: "Kind\0".into(),
        message: format!("a\0b{}", "ä".repeat(16 << 10)),
        trace: "x".repeat(16 << 10),
    };
    let failed = Outcome::Failed(v1::Failed { failure: Some(failure), ..Default::default() });
    let token = worker.job().await.lease_token;
    assert_eq!(worker.settle_one(&token, failed).await, SettleCode::Recorded);
    let attempt = scene.shown(id).await.last_attempt.expect("an attempt");
    let failure = attempt.failure.expect("a failure");
    assert_eq!(failure.kind, "Kind\u{fffd}");
    assert!(failure.message.starts_with("a\u{fffd}bä") && failure.message.ends_with("ä… (cut)"));
    assert!(failure.message.len() <= 16 << 10 && failure.message.len() > (16 << 10) - 4);
    assert_eq!(failure.trace.len(), 16 << 10, "at the limit it is whole");
    assert!(!failure.trace.contains("cut"));
    scene.stays_well().await;
}

#[tokio::test]
async fn a_result_is_json_of_up_to_256_kib_and_comes_back_byte_for_byte() {
    let scene = Scene::start().await;
    let mut worker = scene.worker("results", 1).await;
    let longest = format!("\"{}\"", "x".repeat((256 << 10) - 2));
    for good in ["null", " [1, 12345678901234567890123] ", r#""\u0000""#, &longest] {
        let id = scene.defer(job("results")).await;
        let token = worker.job().await.lease_token;
        assert_eq!(worker.settle_one(&token, succeeded(good.to_owned())).await, SettleCode::Recorded);
        let shown = scene.shown(id).await;
        assert_eq!(shown.state(), v1::JobState::Succeeded);
        assert_eq!(shown.last_attempt.expect("an attempt").result, good);
    }
    scene.stays_well().await;
}

#[tokio::test]
async fn an_end_that_cannot_be_recorded_fails_its_job_and_says_why() {
    let scene = Scene::start().await;
    let mut worker = scene.worker("results", 1).await;
    let negative = Some(Duration { seconds: -1, nanos: 0 });
    let endless = Some(Duration { seconds: i64::MAX, nanos: 0 });
    let decision = |decision| Outcome::Failed(v1::Failed { retry: Some(decision), ..Default::default() });
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    let bad = [
        ("outcome", None),
        ("succeeded.result", Some(succeeded("not json"))),
        ("succeeded.result", Some(succeeded("\"\0\""))),
        ("succeeded.result", Some(succeeded(&b"\"\xff\""[..]))),
        ("succeeded.result", Some(succeeded(format!("\"{}\"", "x".repeat((256 << 10) - 1))))),
        ("succeeded.result", Some(succeeded(deep))),
        ("released.delay", Some(Outcome::Released(v1::Released { reason: String::new(), delay: negative }))),
        ("released.delay", Some(Outcome::Released(v1::Released { reason: String::new(), delay: endless }))),
        ("snoozed.delay", Some(Outcome::Snoozed(v1::Snoozed { delay: negative }))),
        ("snoozed.delay", Some(Outcome::Snoozed(v1::Snoozed { delay: endless }))),
        ("failed.retry.delay", Some(decision(v1::RetryDecision { delay: negative, ..Default::default() }))),
        ("failed.retry.queue", Some(decision(v1::RetryDecision { queue: "\0".into(), ..Default::default() }))),
        ("failed.retry.queue", Some(decision(v1::RetryDecision { queue: "q".repeat(129), ..Default::default() }))),
        ("failed.retry.lock", Some(decision(v1::RetryDecision { lock: Some("l".repeat(256)), ..Default::default() }))),
        ("failed.retry.priority", Some(decision(v1::RetryDecision { priority: Some(101), ..Default::default() }))),
    ];
    for (field, outcome) in bad {
        let id = scene.defer(job("results")).await;
        let token = worker.job().await.lease_token;
        let result = v1::JobResult { lease_token: token.clone(), outcome };
        let exceptions = worker.settle(Vec::new(), vec![result]).await;
        assert_eq!(exceptions, [(token, SettleCode::Unrecordable)], "{field}");
        let shown = scene.shown(id).await;
        assert_eq!(shown.state(), v1::JobState::Failed, "{field}");
        let attempt = shown.last_attempt.expect("an attempt");
        assert_eq!(attempt.reason, "UNRECORDABLE");
        let message = attempt.failure.expect("a failure").message;
        assert!(message.starts_with(field), "{message:?} does not name {field}");
    }
    scene.stays_well().await;
}
