//! One question by HTTP, of a program on this machine.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// How long it may take to answer. A stopped one never does.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Sends a whole request of HTTP/1.0, and reads the answer to its end.
pub(super) async fn ask(address: SocketAddr, request: &str) -> io::Result<String> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    timeout(ANSWER_WITHIN, asking).await?
}
