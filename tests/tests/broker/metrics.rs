//! What a broker says of itself.

use cabbage_broker::Broker;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A metric without labels, as `/metrics` has it.
pub(crate) async fn metric(broker: &Broker, name: &str) -> f64 {
    let mut stream = TcpStream::connect(broker.admin_address()).await.expect("the admin port is open");
    let request = b"GET /metrics HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let line = answer.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    let line = line.unwrap_or_else(|| panic!("no {name} in:\n{answer}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}
