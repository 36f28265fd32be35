//! Connections that say nothing, or something else than gRPC.

use std::time::Duration;

use cabbage_tests::proxy::Proxy;
use cabbage_worker::{Client, Error, NewJob};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    scene::Scene,
    worker::{PATIENCE, Worker, job},
};

#[tokio::test]
async fn connections_that_say_nothing_harm_nobody() {
    let scene = Scene::start().await;
    let mut silent = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(scene.broker.grpc_address()).await.expect("the port is open");
        if number % 2 == 0 {
            // As far as the beginning of HTTP/2, and no further.
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("it listens");
        }
        silent.push(stream);
    }
    let mut worker = scene.worker("connections", 1).await;
    let id = scene.defer(job("connections")).await;
    assert_eq!(worker.job().await.job_id, id);
    scene.stays_well().await;
    drop(silent);
}

#[tokio::test]
async fn connections_that_speak_something_else_are_closed() {
    let scene = Scene::start().await;
    let greetings: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0; 4_096],
    ];
    for greeting in greetings {
        let mut stream = TcpStream::connect(scene.broker.grpc_address()).await.expect("the port is open");
        stream.write_all(greeting).await.expect("it listens");
        let mut answer = Vec::new();
        // It ends in order or is reset; either way it ends.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time");
    }
    scene.stays_well().await;
}

#[tokio::test]
async fn a_client_whose_connection_fell_silent_is_served_by_another_after_one_call() {
    let scene = Scene::start().await;
    let cable = Proxy::start(scene.broker.grpc_address(), 0).expect("a port");
    let client = Client::builder(cable.address().to_string()).timeout(Duration::from_secs(3)).build();
    let client = client.expect("an address");
    client.defer_job(NewJob::named("connections")).await.expect("the broker is there");
    // As when a firewall forgets it: nobody says that it is gone.
    cable.forget();
    let error = client.defer_job(NewJob::named("connections")).await.expect_err("nothing answers");
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
    client.defer_job(NewJob::named("connections")).await.expect("it does not wait for the old connection");
    scene.stays_well().await;
}

#[tokio::test]
async fn streams_that_say_nothing_do_not_keep_others_of_their_connection_from_working() {
    let scene = Scene::start().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(Worker::open(&scene.channel).await);
    }
    let mut worker = scene.worker("connections", 1).await;
    let id = scene.defer(job("connections")).await;
    let token = worker.job().await.lease_token;
    assert_eq!(worker.settle(vec![token], Vec::new()).await, []);
    assert!(scene.shown(id).await.finished_at.is_some());
    scene.stays_well().await;
}
