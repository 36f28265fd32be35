//! Times: instants from 1970 to 9999, durations from zero to a hundred years, and which of two holds.

use std::time::Duration;

use cabbage_proto::v1::{self, job_spec::Due};
use prost::Message as _;
use prost_types::{Duration as WireDuration, Timestamp};
use tokio::time::timeout;

use crate::{
    raw::{call_with, field},
    refused::refused,
    scene::Scene,
    worker::job,
};

/// The last second of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;

const HUNDRED_YEARS: i64 = 100 * 365 * 24 * 60 * 60;

/// What no duration of cabbage is.
const NO_DURATIONS: [(i64, i32); 7] =
    [(-1, 0), (0, -1), (-1, -1), (1, 1_000_000_000), (HUNDRED_YEARS + 1, 0), (i64::MAX, 0), (i64::MIN, i32::MIN)];

/// What no instant of cabbage is.
const NO_INSTANTS: [(i64, i32); 6] =
    [(-1, 0), (LAST_SECOND + 1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, i32::MAX), (i64::MIN, 0)];

type PutDuration = fn(&mut v1::JobSpec, WireDuration);
type PutInstant = fn(&mut v1::JobSpec, Timestamp);

const DURATIONS: [(&str, PutDuration); 6] = [
    ("job.schedule_in", |job, wait| job.due = Some(Due::ScheduleIn(wait))),
    ("job.attempt_timeout", |job, timeout| job.attempt_timeout = Some(timeout)),
    ("job.retry.wait", |job, wait| job.retry.get_or_insert_default().wait = Some(wait)),
    ("job.retry.linear_wait", |job, wait| job.retry.get_or_insert_default().linear_wait = Some(wait)),
    ("job.retry.exponential_wait", |job, wait| job.retry.get_or_insert_default().exponential_wait = Some(wait)),
    ("job.retry.max_wait", |job, wait| job.retry.get_or_insert_default().max_wait = Some(wait)),
];

const INSTANTS: [(&str, PutInstant); 2] = [
    ("job.schedule_at", |job, at| job.due = Some(Due::ScheduleAt(at))),
    ("job.deadline", |job, at| job.deadline = Some(at)),
];

#[tokio::test]
async fn durations_are_not_negative_malformed_or_longer_than_a_hundred_years() {
    let scene = Scene::start().await;
    for (name, put) in DURATIONS {
        let mut longest = job("times");
        put(&mut longest, WireDuration { seconds: HUNDRED_YEARS, nanos: 0 });
        scene.defer(longest).await;
        for (seconds, nanos) in NO_DURATIONS {
            let mut bad = job("times");
            put(&mut bad, WireDuration { seconds, nanos });
            refused(scene.try_defer(bad).await).names(name, &["give"]);
        }
    }
    let mut never = job("times");
    never.attempt_timeout = Some(WireDuration::default());
    refused(scene.try_defer(never).await).names("job.attempt_timeout", &["zero", "leave it out"]);
    scene.stays_well().await;
}

/// What the error of an instant names that is none, by its nanoseconds.
fn limit_of(nanos: i32) -> &'static str {
    if (0..1_000_000_000).contains(&nanos) { "1970 to 9999" } else { "0 to 999999999" }
}

#[tokio::test]
async fn instants_lie_within_the_years_1970_to_9999() {
    let scene = Scene::start().await;
    for (name, put) in INSTANTS {
        for edge in [0, LAST_SECOND] {
            let mut at = job("times");
            put(&mut at, Timestamp { seconds: edge, nanos: 0 });
            scene.defer(at).await;
        }
        for (seconds, nanos) in NO_INSTANTS {
            let mut bad = job("times");
            put(&mut bad, Timestamp { seconds, nanos });
            refused(scene.try_defer(bad).await).names(name, &[limit_of(nanos)]);
        }
    }
    for (seconds, nanos) in NO_INSTANTS {
        let at = Some(Timestamp { seconds, nanos });
        let from = v1::ListJobsRequest { created_from: at, ..Default::default() };
        refused(scene.jobs().list_jobs(from).await).names("created_from", &[limit_of(nanos)]);
        let until = v1::ListJobsRequest { created_until: at, ..Default::default() };
        refused(scene.jobs().list_jobs(until).await).names("created_until", &[limit_of(nanos)]);
    }
    scene.stays_well().await;
}

#[tokio::test]
async fn a_job_is_due_when_it_was_asked_to_be() {
    let scene = Scene::start().await;
    let last = Timestamp { seconds: LAST_SECOND, nanos: 0 };
    let at = scene.defer(v1::JobSpec { due: Some(Due::ScheduleAt(last)), ..job("times") }).await;
    let shown = scene.shown(at).await;
    assert_eq!((shown.state(), shown.due_at), (v1::JobState::Scheduled, Some(last)));

    let hour = WireDuration { seconds: 3_600, nanos: 0 };
    let after = scene.defer(v1::JobSpec { due: Some(Due::ScheduleIn(hour)), ..job("times") }).await;
    let shown = scene.shown(after).await;
    assert_eq!(shown.state(), v1::JobState::Scheduled);
    let (created, due) = (shown.created_at.expect("an instant"), shown.due_at.expect("an instant"));
    let micros = |at: Timestamp| at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000;
    let late = micros(due) - micros(created) - 3_600_000_000;
    assert!((0..1_000_000).contains(&late), "never before the creation and the delay: {late} us late");

    for due in [Due::ScheduleAt(Timestamp::default()), Due::ScheduleIn(WireDuration::default())] {
        let now = scene.defer(v1::JobSpec { due: Some(due), ..job("times") }).await;
        assert_eq!(scene.shown(now).await.state(), v1::JobState::Waiting);
    }
    scene.stays_well().await;
}

#[tokio::test]
async fn of_an_instant_and_a_delay_the_one_sent_last_holds() {
    let scene = Scene::start().await;
    let at = field(9, &Timestamp { seconds: LAST_SECOND, nanos: 0 }.encode_to_vec());
    let after = field(10, &WireDuration::default().encode_to_vec());
    for (due, state) in
        [([&at[..], &after].concat(), v1::JobState::Waiting), ([&after[..], &at].concat(), v1::JobState::Scheduled)]
    {
        let spec = [job("times").encode_to_vec(), due].concat();
        let method = "/cabbage.v1.JobService/DeferJob";
        let empty = v1::DeferJobRequest::default();
        let answer = call_with::<v1::DeferJobResponse>(&scene.channel, method, &empty, &field(1, &spec)).await;
        assert_eq!(scene.shown(answer.expect("a valid job").job_id).await.state(), state);
    }
    scene.stays_well().await;
}

#[tokio::test]
async fn a_wait_is_at_most_a_minute_and_ends_in_time() {
    let scene = Scene::start().await;
    let id = scene.defer(job("times")).await;
    let wait = |seconds, nanos| v1::WaitJobRequest { job_id: id, max_wait: Some(WireDuration { seconds, nanos }) };
    refused(scene.jobs().wait_job(wait(60, 1_000)).await).names("max_wait", &["60 s", "wait again"]);
    for (seconds, nanos) in NO_DURATIONS {
        refused(scene.jobs().wait_job(wait(seconds, nanos)).await).names("max_wait", &[]);
    }
    let mut jobs = scene.jobs();
    let answer = timeout(Duration::from_secs(10), jobs.wait_job(wait(0, 1_000))).await.expect("in time");
    let answer = answer.expect("an answer").into_inner();
    assert!(!answer.is_final && answer.job.is_some());
    scene.stays_well().await;
}
