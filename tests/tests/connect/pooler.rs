//! Poolers keep the settings of a session to themselves, and give its locks to others.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
};

use cabbage_tests::secured::{PASSWORD, Secured};

use crate::run::migrate;

/// Stands for a pooler that is told to ignore `options`: passes on everything else. Gives its port.
fn pooler(server: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.expect("a client"), server.clone());
            // A connection that breaks is the end of it, and nothing else.
            thread::spawn(move || pass_on(client, &server).ok());
        }
    });
    port
}

fn pass_on(mut client: TcpStream, server: &str) -> io::Result<()> {
    let mut server = TcpStream::connect(server)?;
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    client.read_exact(&mut body)?;
    let words: Vec<_> = body[4..].split(|byte| *byte == 0).collect();
    let mut startup = body[..4].to_vec();
    for pair in words.chunks(2).filter(|pair| pair.len() == 2 && !pair[0].is_empty() && pair[0] != b"options") {
        startup.extend([pair[0], b"\0", pair[1], b"\0"].concat());
    }
    startup.push(0);
    server.write_all(&(startup.len() as u32 + 4).to_be_bytes())?;
    server.write_all(&startup)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || io::copy(&mut from_client, &mut to_server));
    io::copy(&mut server, &mut client)?;
    Ok(())
}

#[tokio::test]
async fn a_pooler_that_keeps_our_settings_to_itself_is_refused() {
    let server = Secured::shared().await;
    let port = pooler(format!("127.0.0.1:{}", server.port()));
    let dsn = format!("host=127.0.0.1 port={port} user=queue dbname=plain sslmode=disable");
    let ran = migrate(&["--database-url", &dsn], &[("PGPASSWORD", PASSWORD)]).await;
    ran.fails(4, &[&format!("127.0.0.1:{port} is a pooler"), "name the server itself"]);
}
