//! What may stand between: poolers that keep the settings of a session to themselves, and balancers that lead each
//! connection to another server.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
};

use cabbage_broker::store::{
    Store as _, StoreError,
    postgres::{PgSettings, PgStore},
};
use cabbage_dev_postgres::{Options, Server, Tcp};
use cabbage_tests::secured::{PASSWORD, Secured, tell};

use crate::run::migrate;

/// Leads connections to these servers in turn, and treats each by `pass_on`. Gives its port.
fn between(servers: Vec<u16>, pass_on: fn(TcpStream, TcpStream) -> io::Result<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for (client, server) in listener.incoming().zip(servers.into_iter().cycle()) {
            let client = client.expect("a client");
            let server = TcpStream::connect(("127.0.0.1", server)).expect("a server");
            // A connection that breaks is the end of it, and nothing else.
            thread::spawn(move || pass_on(client, server).ok());
        }
    });
    port
}

/// All of it, both ways.
fn as_it_is(mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || io::copy(&mut from_client, &mut to_server));
    io::copy(&mut server, &mut client).map(drop)
}

/// As a pooler that is told to ignore `options`: all but these.
fn without_options(mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
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
    as_it_is(client, server)
}

#[tokio::test]
async fn a_pooler_that_keeps_our_settings_to_itself_is_refused() {
    let server = Secured::shared().await;
    let port = between(vec![server.port().parse().expect("a port")], without_options);
    let dsn = format!("host=127.0.0.1 port={port} user=queue dbname=plain sslmode=disable");
    let ran = migrate(&["--database-url", &dsn], &[("PGPASSWORD", PASSWORD)]).await;
    ran.fails(4, &[&format!("127.0.0.1:{port} is a pooler"), "name the server itself"]);
}

#[tokio::test]
async fn a_name_that_leads_to_two_servers_holds_no_term() {
    let start = || Server::start(Options { tcp: Tcp::FreePort, ..Options::for_tests() });
    let servers = [start().await.expect("a server"), start().await.expect("a server")];
    // Both would do, each by itself.
    for server in &servers {
        tell(&server.url("postgres"), &["CREATE ROLE queue LOGIN SUPERUSER PASSWORD 'secret'".to_owned()]).await;
        let store = PgStore::new(PgSettings::from_url(server.url("postgres"))).expect("a well-formed address");
        store.prepare().await.expect("a schema");
    }
    let port = between(servers.iter().map(Server::port).collect(), as_it_is);
    let url = format!("postgres://queue:secret@127.0.0.1:{port}/postgres?sslmode=disable");
    let store = PgStore::new(PgSettings::from_url(url)).expect("a well-formed address");
    let error = store.take_term("here").await.err().expect("its second connection leads elsewhere");
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("leads to two servers")), "{error}");
}
