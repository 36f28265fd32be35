//! Servers of this machine's PostgreSQL, or of the downloaded one.

use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cabbage_dev_postgres::{
    Binaries, Data, Mode, Options, Server, ServerError, Tcp, TestDatabase, TestServer, VersionWish,
};
use rustix::process::{Pid, test_kill_process};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, PgConnection};
use tokio::time::timeout;

/// How long a process may take to go away.
const END_LIMIT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Names the file in which `process_to_be_killed` reports what it started.
const REPORT_VARIABLE: &str = "CABBAGE_DEV_POSTGRES_TEST_REPORT";

async fn ask(url: &str, query: &'static str) -> String {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let answer = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    answer
}

async fn tell(url: &str, statements: &'static str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    connection.execute(statements).await.unwrap();
    connection.close().await.unwrap();
}

fn keep(path: &Path) -> Options {
    Options { data: Data::Keep(path.to_path_buf()), ..Options::for_tests() }
}

/// A folder that the server's account can reach, as users choose it.
fn folder_to_keep() -> tempfile::TempDir {
    folder_with_mode(0o755)
}

fn folder_with_mode(mode: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
    folder
}

fn runs(pid: u32) -> bool {
    // A zombie that nobody collects is no longer running.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let zombie = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
    !zombie && test_kill_process(Pid::from_raw(pid as i32).unwrap()) != Err(rustix::io::Errno::SRCH)
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + END_LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {END_LIMIT:?}: {what}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[tokio::test]
async fn dropped_server_leaves_nothing_behind() {
    let server = Server::start(Options::for_tests()).await.unwrap();
    let pid = server.pid().unwrap();
    let home = server.socket_dir().parent().unwrap().to_path_buf();
    assert_eq!(fs::metadata(server.data_dir()).unwrap().mode() & 0o777, 0o700);
    assert_eq!(ask(&server.url("postgres"), "SELECT current_user::text").await, "cabbage");
    assert_eq!(ask(&server.url("postgres"), "SHOW listen_addresses").await, "");
    assert_eq!(ask(&server.url("postgres"), "SHOW server_encoding").await, "UTF8");
    assert_eq!(ask(&server.url("postgres"), "SHOW fsync").await, "off");
    assert_eq!(server.tcp_url("postgres"), None);

    drop(server);
    assert!(!runs(pid));
    assert!(!home.exists());
}

#[tokio::test]
async fn databases_are_created_and_dropped_under_any_name() {
    let server = Server::start(Options::for_tests()).await.unwrap();
    let name = "it's a \"name\"/with ?all & ümlauts%";
    server.create_database(name).await.unwrap();
    assert_eq!(ask(&server.url(name), "SELECT current_database()::text").await, name);

    let connected = PgConnection::connect(&server.url(name)).await.unwrap();
    server.drop_database(name).await.unwrap();
    drop(connected);
    assert!(PgConnection::connect(&server.url(name)).await.is_err());
    server.drop_database(name).await.unwrap();
}

#[tokio::test]
async fn committed_rows_survive_restarts_and_a_kill() {
    let mut server = Server::start(Options::for_tests()).await.unwrap();
    let url = server.url("postgres");
    tell(&url, "CREATE TABLE fruit (name text); INSERT INTO fruit VALUES ('pear')").await;
    // Not durable means that a commit may be answered before it is written.
    tell(&url, "CHECKPOINT").await;

    for mode in [Mode::Fast, Mode::Immediate] {
        let before = server.pid();
        server.restart(mode).await.unwrap();
        assert_ne!(server.pid(), before);
        assert_eq!(ask(&url, "SELECT name FROM fruit").await, "pear");
    }

    // A connection in use keeps the shared memory of the killed server alive.
    let _open = PgConnection::connect(&url).await.unwrap();
    server.kill();
    assert_eq!(server.pid(), None);
    assert!(PgConnection::connect(&url).await.is_err());
    server.resume().await.unwrap();
    assert_eq!(ask(&url, "SELECT name FROM fruit").await, "pear");
}

#[tokio::test]
async fn kept_data_is_found_again() {
    let folder = folder_to_keep();
    let mut first = Server::start(keep(folder.path())).await.unwrap();
    tell(&first.url("postgres"), "CREATE TABLE fruit AS SELECT 'plum' AS name").await;
    first.stop(Mode::Fast).await;
    let home = first.socket_dir();
    drop(first);
    assert!(!home.exists());

    let second = Server::start(keep(folder.path())).await.unwrap();
    assert_eq!(ask(&second.url("postgres"), "SELECT name FROM fruit").await, "plum");
    drop(second);

    // After the immediate stop of the drop, the next start recovers.
    let third = Server::start(keep(folder.path())).await.unwrap();
    assert_eq!(ask(&third.url("postgres"), "SELECT name FROM fruit").await, "plum");
    assert!(third.log_file().starts_with(fs::canonicalize(folder.path()).unwrap()));
}

#[tokio::test]
async fn kept_data_in_use_is_refused() {
    let folder = folder_to_keep();
    let first = Server::start(keep(folder.path())).await.unwrap();
    let error = Server::start(keep(folder.path())).await.unwrap_err();
    match &error {
        ServerError::AlreadyRunning { pid, .. } => assert_eq!(*pid, first.pid()),
        other => panic!("{other}"),
    }
    assert_eq!(ask(&first.url("postgres"), "SELECT 'alive'").await, "alive");
}

#[tokio::test]
async fn kept_data_of_another_version_is_refused() {
    let folder = folder_to_keep();
    let server = Server::start(keep(folder.path())).await.unwrap();
    let found = server.binaries().major();
    drop(server);
    let options = Options { version: VersionWish::Major(found + 1), ..keep(folder.path()) };
    let error = Server::start(options).await.unwrap_err();
    assert!(matches!(error, ServerError::VersionMismatch { .. }), "{error}");
}

#[tokio::test]
async fn tcp_asks_for_the_password() {
    let options = Options { tcp: Tcp::FreePort, ..Options::for_tests() };
    let server = Server::start(options).await.unwrap();
    let url = server.tcp_url("postgres").unwrap();
    assert_eq!(ask(&url, "SELECT host(inet_server_addr())").await, "127.0.0.1");
    let without = format!("postgres://cabbage@127.0.0.1:{}/postgres", server.port());
    assert!(PgConnection::connect(&without).await.is_err());
    assert_eq!(ask(&server.url("postgres"), "SELECT 'socket'").await, "socket");

    let taken = Options { tcp: Tcp::Port(server.port()), ..Options::for_tests() };
    let error = Server::start(taken).await.unwrap_err();
    assert!(matches!(error, ServerError::PortTaken { .. }), "{error}");
}

#[tokio::test]
async fn server_that_does_not_start_shows_its_log() {
    let options = Options { settings: vec![("no_such_setting".into(), "1".into())], ..Options::for_tests() };
    let error = Server::start(options).await.unwrap_err();
    assert!(matches!(error, ServerError::Exited { .. }), "{error}");
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn folder_closed_to_the_servers_account_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let closed = folder_with_mode(0o700);
    let error = Server::start(keep(&closed.path().join("data"))).await.unwrap_err();
    assert!(matches!(error, ServerError::ClosedFolder { .. }), "{error}");
    assert!(error.to_string().contains("chmod o+x"), "{error}");
}

#[tokio::test]
async fn tests_share_a_server_and_not_a_database() {
    let server = TestServer::shared(None).await.unwrap();
    assert!(std::ptr::eq(server, TestServer::shared(None).await.unwrap()));
    let (first, second) = (server.database().await.unwrap(), server.database().await.unwrap());
    assert_ne!(first.url(), second.url());
    tell(first.url(), "CREATE TABLE fruit ()").await;
    tell(second.url(), "CREATE TABLE fruit ()").await;
}

#[tokio::test]
async fn a_database_that_a_test_is_done_with_goes_with_whoever_is_connected() {
    let server = TestServer::shared(None).await.unwrap();
    let (kept, done_with) = (server.database().await.unwrap(), server.database().await.unwrap());
    let name = |database: &TestDatabase| {
        database.url().parse::<PgConnectOptions>().unwrap().get_database().unwrap().to_owned()
    };
    let (kept_name, gone_name) = (name(&kept), name(&done_with));
    let _connected = PgConnection::connect(done_with.url()).await.unwrap();
    drop(done_with);
    let mut watcher = PgConnection::connect(kept.url()).await.unwrap();
    let names = [&kept_name, &gone_name].map(String::as_str);
    let goes = async {
        loop {
            let there: Vec<String> =
                sqlx::query_scalar("SELECT datname::text FROM pg_database WHERE datname = ANY($1)")
                    .bind(&names[..])
                    .fetch_all(&mut watcher)
                    .await
                    .unwrap();
            assert!(there.contains(&kept_name));
            if there.len() == 1 {
                return;
            }
        }
    };
    timeout(END_LIMIT, goes).await.unwrap();
}

/// Downloads what the machine does not have: seconds, once.
#[tokio::test]
async fn oldest_and_newest_version_run_here() {
    for major in [15, 18] {
        let binaries = Binaries::version(major).await.unwrap();
        assert_eq!(binaries.major(), major);
        let options = Options { version: VersionWish::Major(major), ..Options::for_tests() };
        let server = Server::start(options).await.unwrap();
        let version = ask(&server.url("postgres"), "SHOW server_version").await;
        assert!(version.starts_with(&major.to_string()), "{version}");
    }
}

/// Not a test: the process that the next tests start and end.
#[tokio::test]
#[ignore = "started by other tests in a process of its own"]
async fn process_to_be_killed() {
    let Some(report) = env::var_os(REPORT_VARIABLE).map(PathBuf::from) else {
        return;
    };
    let server = TestServer::shared(None).await.unwrap();
    let url = server.database().await.unwrap();
    let server = server.server().unwrap();
    let text = format!("{}\n{}\n{url}", server.pid().unwrap(), server.socket_dir().parent().unwrap().display());
    let written = report.with_extension("partial");
    fs::write(&written, text).unwrap();
    fs::rename(&written, &report).unwrap();
    if env::var_os("CABBAGE_DEV_POSTGRES_TEST_LINGER").is_some() {
        std::future::pending::<()>().await;
    }
}

/// Runs `process_to_be_killed`, and answers with its server's process and
/// folder once both processes have ended.
fn run_and_end(killed: bool) -> (u32, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report");
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "process_to_be_killed", "--ignored"])
        .env(REPORT_VARIABLE, &report)
        .env_remove("CABBAGE_TEST_DATABASE_URL")
        .stdout(Stdio::null());
    if killed {
        command.env("CABBAGE_DEV_POSTGRES_TEST_LINGER", "1");
    }
    let mut child = command.spawn().unwrap();
    wait_until("the report of the child", || report.exists());
    if killed {
        // std sends SIGKILL: no destructor, no handler.
        child.kill().unwrap();
    }
    assert_eq!(child.wait().unwrap().success(), !killed);
    let text = fs::read_to_string(&report).unwrap();
    let mut lines = text.lines();
    let pid = lines.next().unwrap().parse().unwrap();
    (pid, PathBuf::from(lines.next().unwrap()))
}

#[test]
fn server_of_a_killed_process_ends_and_its_data_goes() {
    let (pid, home) = run_and_end(true);
    wait_until("the server's end", || !runs(pid));
    wait_until("the folder's end", || !home.exists());
}

#[test]
fn shared_server_ends_with_the_tests() {
    let (pid, home) = run_and_end(false);
    wait_until("the server's end", || !runs(pid));
    wait_until("the folder's end", || !home.exists());
}
