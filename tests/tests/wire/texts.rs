//! Texts: NUL and control characters, what is no UTF-8, and what is no JSON.

use bytes::Bytes;
use cabbage_proto::v1;
use tonic::Code;

use crate::{
    raw::{self, field},
    refused::refused,
    scene::Scene,
    worker::{Worker, hello, job},
};

type Put = fn(&mut v1::JobSpec, String);

const TEXTS: [(&str, Put); 9] = [
    ("job.task", |job, text| job.task = text),
    ("job.queue", |job, text| job.queue = text),
    ("job.lock", |job, text| job.lock = text),
    ("job.queueing_lock", |job, text| job.queueing_lock = text),
    ("job.traceparent", |job, text| job.traceparent = text),
    ("job.tracestate", |job, text| job.tracestate = text),
    ("job.metadata", |job, text| job.metadata = [(text, String::new())].into()),
    ("job.retry.only_kinds", |job, text| job.retry.get_or_insert_default().only_kinds = vec![text]),
    ("job.retry.never_kinds", |job, text| job.retry.get_or_insert_default().never_kinds = vec![text]),
];

#[tokio::test]
async fn names_and_locks_have_no_nul_and_no_control_characters() {
    let scene = Scene::start().await;
    for (field, put) in TEXTS {
        for bad in ["a\0b", "\0", "a\nb", "\u{1b}[2J", "\u{7f}", "\u{85}"] {
            let mut spec = job("texts");
            put(&mut spec, bad.to_owned());
            refused(scene.try_defer(spec).await).names(field, &["control character", "use letters"]);
        }
        let mut spec = job("texts");
        put(&mut spec, "größer: 日本語 🥬 '; DROP TABLE job; -- \\ %s".to_owned());
        scene.defer(spec).await;
    }
    let value = v1::JobSpec { metadata: [("key".to_owned(), "a\0b".to_owned())].into(), ..job("texts") };
    refused(scene.try_defer(value).await).names("job.metadata", &["NUL"]);

    let defer = v1::DeferJobRequest { job: Some(job("texts")), request_id: "a\0b".into() };
    refused(scene.jobs().defer_job(defer).await).names("request_id", &["control character"]);
    let cancel = v1::CancelJobRequest { job_id: 1, reason: "a\0b".into(), ..Default::default() };
    refused(scene.jobs().cancel_job(cancel).await).names("reason", &["control character"]);
    for (field, list) in [
        ("queue", v1::ListJobsRequest { queue: "\0".into(), ..Default::default() }),
        ("task", v1::ListJobsRequest { task: "\0".into(), ..Default::default() }),
        ("lock", v1::ListJobsRequest { lock: "\0".into(), ..Default::default() }),
        ("queueing_lock", v1::ListJobsRequest { queueing_lock: "\0".into(), ..Default::default() }),
        ("page_token", v1::ListJobsRequest { page_token: "\0.\0".into(), ..Default::default() }),
    ] {
        refused(scene.jobs().list_jobs(list).await).names(field, &[]);
    }
    scene.stays_well().await;
}

#[tokio::test]
async fn arguments_are_json_and_come_back_byte_for_byte() {
    let scene = Scene::start().await;
    for bad in [
        &b"{"[..],
        b"{} {}",
        b"{'a': 1}",
        b"[1,]",
        b"nul",
        b" ",
        b"NaN",
        b"01",
        b"\"a\nb\"",
        b"\"\0\"",
        b"\xef\xbb\xbf{}",
        br#""\ud8zz""#,
    ] {
        let spec = v1::JobSpec { args: Bytes::from_static(bad), ..job("texts") };
        refused(scene.try_defer(spec).await).names("job.args", &["is not JSON"]);
    }
    for bad in [&b"\"\xff\""[..], b"\x1f\x8b\x08", b"\xff\xfe{\0}\0", b"\"\xed\xa0\x80\"", b"{\"a\": \"\xc3\"}"] {
        let spec = v1::JobSpec { args: Bytes::from_static(bad), ..job("texts") };
        refused(scene.try_defer(spec).await).names("job.args", &["is not UTF-8"]);
    }
    let mut worker = scene.worker("texts", 1).await;
    for good in [
        " { \"n\" : 12345678901234567890123, \"n\": 1.0 } \n",
        r#""\u0000""#,
        r#"{"a":"[[[[\"{"}"#,
        "1e999",
        "null",
        "\"🥬\u{2028}\"",
    ] {
        let id = scene.defer(v1::JobSpec { args: good.into(), ..job("texts") }).await;
        assert_eq!(scene.shown(id).await.spec.expect("a spec").args, good);
        let delivery = worker.job().await;
        assert_eq!((delivery.job_id, &delivery.args[..]), (id, good.as_bytes()));
        assert_eq!(worker.settle(vec![delivery.lease_token], Vec::new()).await, []);
    }
    scene.stays_well().await;
}

#[tokio::test]
async fn a_text_that_is_no_utf_8_is_an_invalid_argument() {
    let scene = Scene::start().await;
    // The name of a task, field 1 of a job, field 1 of the request.
    let message = field(1, &field(1, b"\xff\xfe"));
    let answer = raw::call(&scene.channel, "/cabbage.v1.JobService/DeferJob", message).await;
    refused(answer).is(Code::InvalidArgument, "INVALID_FIELD");
    // The same in a worker's introduction: its field 4, field 2 of the frame.
    let frame = field(2, &field(4, b"\xff"));
    let mut answer = raw::stream(&scene.channel, tokio_stream::iter([Bytes::from(frame)])).await.expect("a stream");
    answer.message().await.expect("a goodbye").expect("a goodbye");
    refused(answer.message().await).is(Code::InvalidArgument, "INVALID_FIELD");
    scene.stays_well().await;
}

#[tokio::test]
async fn a_message_that_is_no_protobuf_is_an_invalid_argument() {
    let scene = Scene::start().await;
    for bad in [&b"\xff"[..], b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05a", b"\x00\x00", b"\x0b"] {
        for method in ["JobService/DeferJob", "JobService/ListJobs", "WorkerService/SettleJobs"] {
            let answer = raw::call(&scene.channel, &format!("/cabbage.v1.{method}"), Bytes::from_static(bad)).await;
            refused(answer).is(Code::InvalidArgument, "INVALID_FIELD");
        }
        let frames = tokio_stream::iter([Bytes::from_static(bad)]);
        let mut answer = raw::stream(&scene.channel, frames).await.expect("a stream");
        answer.message().await.expect("a goodbye").expect("a goodbye");
        refused(answer.message().await).is(Code::InvalidArgument, "INVALID_FIELD");
    }
    scene.stays_well().await;
}

#[tokio::test]
async fn texts_of_a_worker_have_no_nul() {
    let scene = Scene::start().await;
    let cases: [(&str, v1::Hello); 6] = [
        ("hello.instance_id", v1::Hello { instance_id: "\0".into(), ..hello("texts", 1) }),
        ("hello.worker_name", v1::Hello { worker_name: "\0".into(), ..hello("texts", 1) }),
        ("hello.sdk", v1::Hello { sdk: "\0".into(), ..hello("texts", 1) }),
        ("hello.queues", v1::Hello { queues: vec!["a\0".into()], ..hello("texts", 1) }),
        ("hello.tasks.task", hello("a\0", 1)),
        ("hello.labels", v1::Hello { labels: [("k".into(), "\0".into())].into(), ..hello("texts", 1) }),
    ];
    for (field, hello) in cases {
        let mut worker = Worker::open(&scene.channel).await;
        worker.say(v1::work_request::Frame::Hello(hello)).await;
        worker.refused().await.names(field, &["control character"]);
    }
    scene.stays_well().await;
}
