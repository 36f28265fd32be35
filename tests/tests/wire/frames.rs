//! The order of frames on a worker's stream.

use cabbage_proto::v1::{self, work_request::Frame as Up, work_response::Frame as Down};
use tonic::Code;
use uuid::Uuid;

use crate::{
    scene::Scene,
    worker::{Worker, hello, job},
};

#[tokio::test]
async fn hello_is_the_first_frame() {
    let scene = Scene::start().await;
    let results = v1::JobResults { results_seq: 1, ..Default::default() };
    for early in [
        Up::Results(results),
        Up::Beat(v1::Beat::default()),
        Up::Capacity(v1::Capacity::default()),
        Up::Progress(v1::JobProgress::default()),
        Up::Drain(v1::Drain::default()),
    ] {
        let mut worker = Worker::open(&scene.channel).await;
        worker.say(early).await;
        worker.refused().await.is(Code::InvalidArgument, "HELLO_EXPECTED");
    }
    let mut worker = Worker::open(&scene.channel).await;
    worker.say_request(v1::WorkRequest::default()).await;
    worker.refused().await.is(Code::InvalidArgument, "HELLO_EXPECTED");
    scene.stays_well().await;
}

#[tokio::test]
async fn hello_comes_once() {
    let scene = Scene::start().await;
    let mut worker = scene.worker("frames", 1).await;
    worker.say(Up::Hello(hello("frames", 1))).await;
    worker.refused().await.is(Code::InvalidArgument, "HELLO_TWICE");
    scene.stays_well().await;
}

#[tokio::test]
async fn hello_comes_in_time() {
    let scene = Scene::start().await;
    let mut worker = Worker::open(&scene.channel).await;
    worker.refused().await.is(Code::DeadlineExceeded, "HELLO_TIMEOUT");
    scene.stays_well().await;
}

#[tokio::test]
async fn a_hello_that_cannot_be_is_refused_and_names_the_field() {
    let scene = Scene::start().await;
    let resume = |session_id: &str, resume_token: &'static [u8], lease: &'static [u8]| v1::Hello {
        resume: Some(v1::Resume {
            session_id: session_id.into(),
            resume_token: resume_token.into(),
            lease_tokens: vec![lease.into()],
        }),
        ..hello("frames", 1)
    };
    let session = "018f0000-0000-7000-8000-000000000000";
    let tasks = vec![v1::TaskRegistration { task: "frames".into(), max_concurrent: 0 }; 1_001];
    let labels = (0..33).map(|number| (number.to_string(), String::new())).collect();
    let cases = [
        ("hello.instance_id", v1::Hello { instance_id: String::new(), ..hello("frames", 1) }),
        ("hello.instance_id", v1::Hello { instance_id: "i".repeat(65), ..hello("frames", 1) }),
        ("hello.worker_name", v1::Hello { worker_name: "n".repeat(129), ..hello("frames", 1) }),
        ("hello.sdk", v1::Hello { sdk: "s".repeat(129), ..hello("frames", 1) }),
        ("hello.language", v1::Hello { language: "l".repeat(65), ..hello("frames", 1) }),
        ("hello.tasks", v1::Hello { tasks: Vec::new(), ..hello("frames", 1) }),
        ("hello.tasks", v1::Hello { tasks, ..hello("frames", 1) }),
        ("hello.tasks.task", hello("", 1)),
        ("hello.tasks.task", hello(&"t".repeat(129), 1)),
        ("hello.queues", v1::Hello { queues: vec![String::new()], ..hello("frames", 1) }),
        ("hello.queues", v1::Hello { queues: vec!["q".into(); 1_001], ..hello("frames", 1) }),
        ("hello.labels", v1::Hello { labels, ..hello("frames", 1) }),
        ("hello.max_receive_bytes", v1::Hello { max_receive_bytes: 1, ..hello("frames", 1) }),
        ("hello.max_receive_bytes", v1::Hello { max_receive_bytes: (512 << 10) - 1, ..hello("frames", 1) }),
        ("hello.resume.session_id", resume("no uuid", &[0; 16], &[1; 20])),
        ("hello.resume.resume_token", resume(session, b"short", &[1; 20])),
        ("hello.resume.lease_tokens", resume(session, &[0; 16], b"short")),
    ];
    for (field, hello) in cases {
        let mut worker = Worker::open(&scene.channel).await;
        worker.say(Up::Hello(hello)).await;
        worker.refused().await.names(field, &[]);
    }
    for (min_protocol, max_protocol) in [(0, 0), (2, 2), (2, 1), (u32::MAX, u32::MAX)] {
        let mut worker = Worker::open(&scene.channel).await;
        worker.say(Up::Hello(v1::Hello { min_protocol, max_protocol, ..hello("frames", 1) })).await;
        let refused = worker.refused().await;
        refused.is(Code::FailedPrecondition, "PROTOCOL_UNSUPPORTED");
        assert_eq!(refused.metadata["max_protocol"], "1");
    }
    let wide = v1::Hello { min_protocol: 0, max_protocol: u32::MAX, ..hello("frames", 1) };
    assert_eq!(Worker::welcomed(&scene.channel, wide).await.1.protocol, 1);
    scene.stays_well().await;
}

#[tokio::test]
async fn frames_of_results_are_counted_from_one() {
    let scene = Scene::start().await;
    for results_seq in [0, 2, u64::MAX] {
        let mut worker = scene.worker("frames", 1).await;
        worker.say(Up::Results(v1::JobResults { results_seq, ..Default::default() })).await;
        worker.refused().await.is(Code::InvalidArgument, "FRAME_OUT_OF_ORDER");
    }
    // The first again.
    let mut worker = scene.worker("frames", 1).await;
    assert_eq!(worker.settle(Vec::new(), Vec::new()).await, []);
    worker.say(Up::Results(v1::JobResults { results_seq: 1, ..Default::default() })).await;
    worker.refused().await.is(Code::InvalidArgument, "FRAME_OUT_OF_ORDER");
    scene.stays_well().await;
}

#[tokio::test]
async fn frames_that_were_never_sent_cannot_be_acknowledged_early() {
    let scene = Scene::start().await;
    let mut worker = scene.worker("frames", 2).await;
    let beat =
        || v1::WorkRequest { received_seq: u64::MAX, frame: Some(Up::Beat(v1::Beat { number: 1, in_flight: 0 })) };
    worker.say_request(beat()).await;
    assert!(matches!(worker.hear().await, Down::BeatAck(_)));
    let id = scene.defer(job("frames")).await;
    let delivery = worker.job().await;
    assert_eq!(delivery.job_id, id);
    worker.say_request(beat()).await;
    assert_eq!(worker.settle(vec![delivery.lease_token], Vec::new()).await, []);
    assert_eq!(scene.shown(id).await.state(), v1::JobState::Succeeded);
    scene.stays_well().await;
}

#[tokio::test]
async fn an_older_window_of_credit_is_ignored() {
    let scene = Scene::start().await;
    let mut worker = scene.worker("frames", 0).await;
    let window = |revision, max_jobs| v1::Capacity { revision, max_jobs, max_bytes: 0, paused: false };
    worker.say(Up::Capacity(window(u64::MAX, 1))).await;
    worker.say(Up::Capacity(window(0, 0))).await;
    worker.say(Up::Capacity(window(5, 0))).await;
    let id = scene.defer(job("frames")).await;
    assert_eq!(worker.job().await.job_id, id);
    scene.stays_well().await;
}

#[tokio::test]
async fn a_session_of_somebody_else_cannot_be_taken() {
    let scene = Scene::start().await;
    let (mut victim, welcome) = Worker::welcomed(&scene.channel, hello("frames", 1)).await;
    let id = scene.defer(job("frames")).await;
    let token = victim.job().await.lease_token;
    for session_id in [welcome.session_id.clone(), Uuid::new_v4().to_string()] {
        let resume = v1::Resume {
            session_id: session_id.clone(),
            resume_token: Uuid::new_v4().as_bytes().to_vec().into(),
            lease_tokens: vec![token.clone()],
        };
        let thief = v1::Hello { resume: Some(resume), ..hello("frames", 1) };
        let (_thief, got) = Worker::welcomed(&scene.channel, thief).await;
        assert!(!got.resumed && got.session_id != welcome.session_id);
        assert_eq!(got.lost_lease_tokens, std::slice::from_ref(&token));
        let extend = v1::ExtendSessionRequest { session_id, resume_token: vec![0; 16].into() };
        let refused = crate::refused::refused(scene.workers().extend_session(extend).await);
        refused.is(Code::NotFound, "SESSION_NOT_FOUND");
    }
    assert_eq!(victim.settle(vec![token], Vec::new()).await, []);
    assert_eq!(scene.shown(id).await.state(), v1::JobState::Succeeded);
    scene.stays_well().await;
}

#[tokio::test]
async fn a_worker_that_drains_gets_no_more_and_may_say_so_twice() {
    let scene = Scene::start().await;
    let mut worker = scene.worker("frames", 10).await;
    worker.say(Up::Drain(v1::Drain::default())).await;
    assert_eq!(worker.hear().await, Down::DrainAck(v1::DrainAck { last_seq: 0 }));
    let id = scene.defer(job("frames")).await;
    worker.say(Up::Drain(v1::Drain::default())).await;
    assert_eq!(worker.hear().await, Down::DrainAck(v1::DrainAck { last_seq: 0 }));
    // More credit changes nothing of that.
    let capacity = v1::Capacity { revision: 2, max_jobs: 100, ..Default::default() };
    worker.say(Up::Capacity(capacity)).await;
    worker.say(Up::Beat(v1::Beat { number: 9, in_flight: 0 })).await;
    assert_eq!(worker.hear().await, Down::BeatAck(v1::BeatAck { number: 9 }));
    worker.close().await;
    let mut next = scene.worker("frames", 1).await;
    assert_eq!(next.job().await.job_id, id);
    scene.stays_well().await;
}
