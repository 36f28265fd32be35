//! What is said where it does not work: the host, the reason, the remedy and the documented exit code.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    time::Duration,
};

use cabbage_broker::{
    Broker, BrokerArgs,
    args::{DatabaseArgs, Secret},
    cell::Role,
};
use cabbage_dev_postgres::{Mode, Options, Server, Tcp};
use cabbage_tests::{
    cluster::Programs,
    secured::{PASSWORD, Secured, tell},
};
use tokio::time::timeout;

use crate::run::{migrate, run};

/// How long a broker may take for what it does at once.
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn settings_that_make_no_sense_are_a_matter_of_usage() {
    for (dsn, said) in [
        ("localhost", "neither a URL"),
        ("mysql://me:hidden@db/app", "postgres:// or postgresql://"),
        ("postgres://me:50%hidden@db/app", "password has a %"),
        ("host=db pasword=hidden", "\"pasword\", which is unknown"),
        ("host=db port=http", "a port from 1 to 65535"),
        ("host=db sslmode=on", "disable, allow, prefer"),
        ("host=db service=mine", "leave it out"),
        ("host=a,b port=1,2,3", "3 entries for 2 hosts"),
        ("host=db target_session_attrs=standby", "since cabbage writes"),
    ] {
        let ran = migrate(&["--database-url", dsn], &[]).await;
        ran.fails(2, &[said]);
        assert!(!ran.err.contains("hidden"), "{}", ran.err);
    }
    migrate(&[], &[("PGPORT", "http")]).await.fails(2, &["PGPORT is \"http\""]);
    let programs = Programs::find().await.expect("the programs are built");
    let broker = run(&programs.broker, &["--database-sslmode", "on"], &[]).await;
    broker.fails(2, &["--database-sslmode is \"on\""]);
}

#[tokio::test]
async fn hosts_that_do_not_answer_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = listener.local_addr().expect("an address").port();
    let dsn = format!("host=127.0.0.1 port={silent} connect_timeout=1");
    let waited = migrate(&["--database-url", &dsn], &[]).await;
    waited.fails(6, &[&format!("127.0.0.1:{silent} does not answer within 1 s"), "firewall"]);
    drop(listener);
    migrate(&["--database-url", &dsn], &[])
        .await
        .fails(6, &[&format!("127.0.0.1:{silent} refuses connections"), "listen_addresses"]);
    migrate(&["--database-url", "postgres://no-such-host.invalid/app"], &[])
        .await
        .fails(6, &["the host no-such-host.invalid is unknown"]);
    migrate(&["--database-url", "postgres:///app?host=/no/folder"], &[])
        .await
        .fails(6, &["no socket /no/folder/.s.PGSQL.5432", "unix_socket_directories"]);
}

#[tokio::test]
async fn another_program_is_no_postgresql() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            let mut request = [0; 8];
            stream.read_exact(&mut request).expect("the client speaks first");
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("it listens");
        }
    });
    let dsn = format!("host=127.0.0.1 port={port}");
    migrate(&["--database-url", &dsn], &[]).await.fails(4, &["does not speak as PostgreSQL does"]);
}

#[tokio::test]
async fn who_is_refused_hears_what_to_change() {
    let server = Secured::shared().await;
    let dsn = |user: &str, dbname: &str| server.dsn(dbname).replace("user=queue", &format!("user={user}"));
    let password = [("PGPASSWORD", PASSWORD)];
    let wrong = migrate(&["--database-url", &dsn("queue", "app"), "--database-password", "not this"], &[]).await;
    wrong.fails(5, &["127.0.0.1:", "28P01", "correct --database-password"]);
    assert!(!wrong.err.contains("not this"), "{}", wrong.err);
    let none = migrate(&["--database-url", &dsn("queue", "app")], &[]).await;
    none.fails(5, &["no password was given", &format!("127.0.0.1:{}:app:queue:<password>", server.port())]);
    migrate(&["--database-url", &dsn("stranger", "app")], &password).await.fails(5, &["28000", "pg_hba.conf"]);
    migrate(&["--database-url", &dsn("ghost", "app")], &password).await.fails(5, &["28000", "make the role"]);
    migrate(&["--database-url", &dsn("queue", "missing")], &password).await.fails(4, &["3D000", "createdb missing"]);
    let options = [("PGPASSWORD", PASSWORD), ("PGOPTIONS", "-c no_such_setting=1")];
    migrate(&["--database-url", &dsn("queue", "app")], &options).await.fails(4, &["no_such_setting", "PGOPTIONS"]);
}

#[tokio::test]
async fn a_role_that_may_not_create_the_schema_hears_what_to_grant() {
    let server = Secured::shared().await;
    tell(&server.socket_url("postgres"), &["CREATE ROLE visitor LOGIN".to_owned()]).await;
    let dsn = format!("host={} port={} user=visitor dbname=app", server.socket().display(), server.port());
    let told = [".s.PGSQL.", "42501", "GRANT CREATE ON DATABASE \"app\" TO \"visitor\""];
    migrate(&["--database-url", &dsn, "--schema", "visited"], &[]).await.fails(5, &told);
}

#[tokio::test]
async fn a_broker_has_a_thread_at_least() {
    let programs = Programs::find().await.expect("the programs are built");
    run(&programs.broker, &["--threads", "0"], &[]).await.fails(2, &["--threads", "1..=1024"]);
}

#[tokio::test]
async fn a_server_without_encryption_is_no_place_for_a_mode_that_needs_it() {
    let server = Server::start(Options { tcp: Tcp::FreePort, ..Options::for_tests() }).await.expect("a server");
    let url = server.tcp_url("postgres").expect("it listens").replace("sslmode=disable", "sslmode=prefer");
    migrate(&["--database-url", &url], &[]).await.succeeds();
    let ran = migrate(&["--database-url", &url, "--database-sslmode", "require"], &[]).await;
    ran.fails(4, &["does not encrypt", "sslmode require", "turn on ssl"]);
}

#[tokio::test]
async fn a_broker_that_is_refused_at_its_start_ends_and_says_why() {
    let server = Secured::shared().await;
    let programs = Programs::find().await.expect("the programs are built");
    let ports = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let dsn = server.dsn("app");
    let options = [&ports[..], &["--database-url", &dsn]].concat();
    let ran = run(&programs.broker, &options, &[("CABBAGE_DATABASE_PASSWORD", "not this")]).await;
    ran.fails(1, &["28P01", "correct --database-password"]);
    assert!(!ran.err.contains("not this") && !ran.out.contains("not this"), "{ran:?}");
    let dsn = server.dsn("missing");
    let options = [&ports[..], &["--database-url", &dsn]].concat();
    run(&programs.broker, &options, &[("PGPASSWORD", PASSWORD)]).await.fails(1, &["createdb missing"]);
}

#[tokio::test]
async fn a_broker_waits_for_a_database_that_is_away() {
    let mut server = Server::start(Options { tcp: Tcp::FreePort, ..Options::for_tests() }).await.expect("a server");
    let Ok(url) = server.tcp_url("postgres").expect("it listens").parse::<Secret>();
    server.stop(Mode::Fast).await;
    let any = "127.0.0.1:0".parse().expect("an address");
    let database = DatabaseArgs { database_url: Some(url), ..DatabaseArgs::default() };
    let args = BrokerArgs { listen: any, admin_listen: any, database, ..BrokerArgs::default() };
    let broker = Broker::start(&args).await.expect("it starts without a database");
    let mut role = broker.cell().watch();
    let waits = role.wait_for(|role| matches!(role, Role::Starting(why) if why.contains("refuses connections")));
    drop(timeout(PATIENCE, waits).await.expect("in time").expect("it goes on"));
    server.resume().await.expect("it starts again");
    assert!(timeout(PATIENCE, broker.owns()).await.expect("in time"));
    broker.shutdown().await.expect("it stops in order");
}
