//! Cables between real sockets.

use std::io::ErrorKind;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

/// A server that answers `>` for each byte, and counts what reached it.
async fn start() -> (Proxy, watch::Receiver<u64>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let counter = watch::Sender::new(0);
    let received = counter.subscribe();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counter = counter.clone();
            tokio::spawn(async move {
                let mut byte = [0];
                while let Ok(1) = stream.read(&mut byte).await {
                    counter.send_modify(|count| *count += 1);
                    if stream.write_all(b">").await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (Proxy::start(address, 7).expect("a port"), received)
}

async fn dial(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.expect("the proxy listens")
}

/// Says a byte, and waits for the answer.
async fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
    stream.write_all(b"?").await?;
    stream.read_u8().await
}

/// The next byte that is received is none: the connection was reset.
async fn is_reset(stream: &mut TcpStream) {
    let error = stream.read_u8().await.expect_err("it is reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

#[tokio::test]
async fn a_good_cable_passes_everything_on_to_the_end() {
    let (proxy, received) = start().await;
    let mut stream = dial(&proxy).await;
    let text = vec![b'?'; 100_000];
    let (mut from, mut to) = stream.split();
    let mut answers = Vec::new();
    let (sent, read) = tokio::join!(
        async {
            to.write_all(&text).await?;
            to.shutdown().await
        },
        from.read_to_end(&mut answers)
    );
    sent.expect("all is taken");
    assert_eq!(read.expect("all is answered"), text.len());
    assert_eq!(*received.borrow(), text.len() as u64);
}

#[tokio::test]
async fn a_cut_cable_resets_what_is_open_and_whoever_comes_until_it_heals() {
    let (proxy, _received) = start().await;
    let mut stream = dial(&proxy).await;
    assert_eq!(ask(&mut stream).await.expect("an answer"), b'>');
    proxy.cut();
    is_reset(&mut stream).await;
    let mut late = dial(&proxy).await;
    is_reset(&mut late).await;
    proxy.heal();
    assert_eq!(ask(&mut dial(&proxy).await).await.expect("an answer"), b'>');
}

#[tokio::test]
async fn a_reset_breaks_what_is_open_and_nothing_else() {
    let (proxy, _received) = start().await;
    let mut stream = dial(&proxy).await;
    ask(&mut stream).await.expect("an answer");
    proxy.reset();
    is_reset(&mut stream).await;
    ask(&mut dial(&proxy).await).await.expect("an answer");
}

#[tokio::test]
async fn a_half_open_connection_says_nothing_and_is_reset_when_the_cable_heals() {
    let (proxy, received) = start().await;
    let mut stream = dial(&proxy).await;
    ask(&mut stream).await.expect("an answer");
    proxy.swallow_all();
    stream.write_all(b"???").await.expect("it looks open");
    proxy.swallowed_more(2).await;
    assert_eq!((proxy.swallowed(), *received.borrow()), (3, 1));
    // One that comes gets no further than to the cable.
    let mut late = dial(&proxy).await;
    late.write_all(b"?").await.expect("it looks open");
    proxy.heal();
    is_reset(&mut stream).await;
    assert_eq!(late.read_u8().await.expect("it gets through now"), b'>');
    assert_eq!(*received.borrow(), 2);
}

#[tokio::test]
async fn a_forgotten_connection_stays_silent_and_another_is_served() {
    let (proxy, received) = start().await;
    let mut stream = dial(&proxy).await;
    ask(&mut stream).await.expect("an answer");
    proxy.forget();
    stream.write_all(b"???").await.expect("it looks open");
    proxy.swallowed_more(2).await;
    proxy.heal();
    ask(&mut dial(&proxy).await).await.expect("an answer");
    let silent = tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await;
    assert!(silent.is_err(), "{silent:?}");
    assert_eq!(*received.borrow(), 2);
    // An end that comes from elsewhere does reach it.
    proxy.cut();
    is_reset(&mut stream).await;
}

#[tokio::test]
async fn a_reply_is_lost_after_the_work_was_done() {
    let (proxy, mut received) = start().await;
    let mut stream = dial(&proxy).await;
    ask(&mut stream).await.expect("an answer");
    let before = proxy.swallowed();
    proxy.swallow(Direction::ToClient);
    stream.write_all(b"?").await.expect("it is sent");
    received.wait_for(|count| *count == 2).await.expect("the server lives");
    proxy.swallowed_more(before).await;
    proxy.heal();
    proxy.reset();
    is_reset(&mut stream).await;
}

#[tokio::test]
async fn what_is_swallowed_in_one_direction_only_goes_on_in_the_other() {
    let (proxy, mut received) = start().await;
    let mut stream = dial(&proxy).await;
    ask(&mut stream).await.expect("an answer");
    proxy.swallow(Direction::ToClient);
    for count in 2..5 {
        stream.write_all(b"?").await.expect("it is sent");
        received.wait_for(|received| *received == count).await.expect("the server lives");
    }
}

#[tokio::test]
async fn what_is_held_back_arrives_in_full_when_the_cable_heals() {
    let (proxy, received) = start().await;
    let mut stream = dial(&proxy).await;
    ask(&mut stream).await.expect("an answer");
    proxy.hold();
    stream.write_all(b"???").await.expect("it looks open");
    let mut late = dial(&proxy).await;
    late.write_all(b"?").await.expect("it looks open");
    assert_eq!(*received.borrow(), 1);
    proxy.heal();
    let mut answers = [0; 3];
    stream.read_exact(&mut answers).await.expect("all of them are answered");
    late.read_u8().await.expect("so is who came meanwhile");
    assert_eq!(*received.borrow(), 5);
}

#[tokio::test]
async fn what_is_late_arrives_in_order() {
    let (proxy, _received) = start().await;
    let most = Duration::from_millis(50);
    proxy.dawdle(most);
    let mut stream = dial(&proxy).await;
    let began = tokio::time::Instant::now();
    for _ in 0..3 {
        assert_eq!(ask(&mut stream).await.expect("an answer"), b'>');
    }
    // Twice for each question, and a tenth at least.
    assert!(began.elapsed() >= 6 * (most / 10));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_reset() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port").local_addr().expect("an address");
    let proxy = Proxy::start(nobody, 7).expect("a port");
    is_reset(&mut dial(&proxy).await).await;
}

#[tokio::test]
async fn a_proxy_that_is_dropped_resets_what_is_open() {
    let (proxy, _received) = start().await;
    let mut stream = dial(&proxy).await;
    ask(&mut stream).await.expect("an answer");
    drop(proxy);
    is_reset(&mut stream).await;
}
