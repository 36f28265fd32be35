//! Several hosts, of which one takes writes.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use cabbage_broker::{
    Broker, BrokerArgs,
    args::{DatabaseArgs, Secret},
    cell::Role,
    core::{
        batch::{Batch, NewJob},
        job::JobSpec,
        types::{JobId, QueueNo, TaskNo, Timestamp},
    },
    store::{
        CommitError, Store as _,
        postgres::{PgSettings, PgStore},
    },
};
use cabbage_dev_postgres::{Data, Mode, Options, Server, Tcp};
use cabbage_tests::secured::{PASSWORD, Secured, give, tell};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::run::{Ran, migrate};

/// How long a failover may take, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A primary and its standby, which streams from it.
struct Pair {
    primary: Server,
    standby: Server,
    password: String,
    _folders: [TempDir; 2],
}

impl Pair {
    async fn start() -> Self {
        let folder = || tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir();
        let folders = [folder().expect("a folder"), folder().expect("a folder")];
        let options = |at: usize, settings| {
            let data = Data::Keep(folders[at].path().to_owned());
            let mut options = Options { data, tcp: Tcp::FreePort, ..Options::for_tests() };
            options.settings.extend(settings);
            options
        };
        let mut primary = Server::start(options(0, None)).await.expect("a server");
        // Copied while it stands still: base backups need a program that downloaded servers lack.
        primary.stop(Mode::Fast).await;
        let (from, to) = (folders[0].path().join("."), folders[1].path());
        assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs").success());
        primary.resume().await.expect("it starts again");
        give(&to.join("data"), "standby.signal", "");
        let password = fs::read_to_string(to.join("password")).expect("a password").trim().to_owned();
        let source = format!("host=127.0.0.1 port={} user=cabbage password={password}", primary.port());
        let standby =
            Server::start(options(1, Some(("primary_conninfo".to_owned(), source)))).await.expect("a standby");
        Self { primary, standby, password, _folders: folders }
    }

    fn url(&self, ports: &[u16]) -> String {
        let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("postgres://cabbage:{}@{}/postgres", self.password, hosts.join(","))
    }

    async fn broker(&self, ports: &[u16]) -> Broker {
        let Ok(url) = self.url(ports).parse::<Secret>();
        let any = "127.0.0.1:0".parse().expect("an address");
        let database = DatabaseArgs { database_url: Some(url), ..DatabaseArgs::default() };
        let args = BrokerArgs { listen: any, admin_listen: any, database, ..BrokerArgs::default() };
        Broker::start(&args).await.expect("the broker starts")
    }

    /// Waits until the standby has all that the primary wrote.
    async fn level(&self) {
        let is_level = "SELECT coalesce(bool_and(replay_lsn >= pg_current_wal_lsn()), false)::text \
            FROM pg_stat_replication";
        let began = Instant::now();
        while ask(&self.primary, is_level).await != "true" {
            assert!(began.elapsed() < PATIENCE, "the standby stays behind");
        }
    }

    /// Sets whom the primary waits for with each commit.
    async fn wait_for(&self, names: &str) {
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
        tell(&self.primary.url("postgres"), &[set, "SELECT pg_reload_conf()".to_owned()]).await;
        let began = Instant::now();
        while ask(&self.primary, "SELECT current_setting('synchronous_standby_names')").await != names {
            assert!(began.elapsed() < PATIENCE, "the primary does not hear of it");
        }
    }

    async fn migrate(&self, ports: &[u16], options: &[&str]) -> Ran {
        migrate(&[&["--database-url", &self.url(ports)], options].concat(), &[]).await
    }
}

async fn ask(server: &Server, query: &'static str) -> String {
    let mut connection = PgConnection::connect(&server.url("postgres")).await.expect("a connection");
    sqlx::query_scalar(query).fetch_one(&mut connection).await.expect(query)
}

fn unused_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

#[tokio::test]
async fn hosts_are_tried_in_turn_until_one_takes_writes() {
    let pair = Pair::start().await;
    let (primary, standby, unused) = (pair.primary.port(), pair.standby.port(), unused_port());
    pair.migrate(&[unused, standby, primary], &[]).await.succeeds();
    pair.migrate(&[standby, primary], &["--database-target-session-attrs", "primary"]).await.succeeds();
    let ran = pair.migrate(&[standby], &[]).await;
    ran.fails(6, &["no host takes writes", &format!("127.0.0.1:{standby} is a standby"), "target_session_attrs"]);
    let ran = pair.migrate(&[unused, standby], &[]).await;
    ran.fails(6, &[&format!("127.0.0.1:{unused} refuses connections"), &format!("127.0.0.1:{standby} is a standby")]);
    // To look, any server will do, once it has heard of what the primary did.
    let schema = "SELECT coalesce(to_regclass('cabbage.migration')::text, '')";
    let began = Instant::now();
    while ask(&pair.standby, schema).await.is_empty() {
        assert!(began.elapsed() < PATIENCE, "the standby hears nothing");
    }
    let any = ["--status", "--database-target-session-attrs", "any"];
    let ran = pair.migrate(&[standby], &any).await;
    assert!([0, 4].contains(&ran.code), "{ran:?}");
}

#[tokio::test]
async fn a_server_that_is_read_only_by_default_is_passed_over_unless_a_primary_will_do() {
    let server = Secured::shared().await;
    let dsn = server.dsn("guarded");
    let password = [("PGPASSWORD", PASSWORD)];
    migrate(&["--database-url", &dsn], &password).await.fails(6, &["no host takes writes", "is read-only"]);
    let attrs = ["--database-url", &dsn, "--status", "--database-target-session-attrs", "primary"];
    migrate(&attrs, &password).await.fails(4, &["is not up to date"]);
    let attrs = ["--database-url", &dsn, "--database-target-session-attrs", "primary"];
    let told = ["127.0.0.1:", "25006", "ALTER ROLE \"queue\"", "RESET default_transaction_read_only"];
    migrate(&attrs, &password).await.fails(6, &told);
}

#[tokio::test]
async fn a_cell_is_owned_again_after_a_failover_to_the_other_host() {
    let mut pair = Pair::start().await;
    let broker = pair.broker(&[pair.primary.port(), pair.standby.port()]).await;
    assert!(timeout(PATIENCE, broker.owns()).await.expect("in time"));
    let mut role = broker.cell().watch();

    // A stop in order hands the standby all that was written.
    pair.primary.stop(Mode::Fast).await;
    let lost = role.wait_for(|role| matches!(role, Role::Starting(why) if why.contains("is a standby")));
    drop(timeout(PATIENCE, lost).await.expect("in time").expect("it goes on"));
    tell(&pair.standby.url("postgres"), &["SELECT pg_promote()".to_owned()]).await;
    assert!(timeout(PATIENCE, broker.owns()).await.expect("in time"));
    let fence = "SELECT format('%s on %s', max(term), current_setting('port')) FROM cabbage.fence";
    assert_eq!(ask(&pair.standby, fence).await, format!("2 on {}", pair.standby.port()));
    broker.shutdown().await.expect("it stops in order");
}

#[tokio::test]
async fn a_former_primary_that_does_not_know_it_is_left_by_owner_and_standby() {
    let mut pair = Pair::start().await;
    let hosts = [pair.primary.port(), pair.standby.port()];
    let owner = pair.broker(&hosts).await;
    assert!(timeout(PATIENCE, owner.owns()).await.expect("in time"));
    let standby = pair.broker(&hosts).await;
    let mut roles = [owner.cell().watch(), standby.cell().watch()];

    pair.level().await;
    // The primary goes on to take connections and to write, as one does that nobody can reach to stop it.
    tell(&pair.standby.url("postgres"), &["SELECT pg_promote()".to_owned()]).await;
    let lost = roles[0].wait_for(|role| !matches!(role, Role::Owning(_)));
    drop(timeout(PATIENCE, lost).await.expect("in time").expect("it goes on"));
    let is_second = |role: &Role| match role {
        Role::Owning(owned) => owned.term.number == 2,
        Role::Following(owner) => owner.as_ref().is_some_and(|owner| owner.term.number == 2),
        Role::Starting(_) | Role::Stopped => false,
    };
    for role in &mut roles {
        drop(timeout(PATIENCE, role.wait_for(is_second)).await.expect("in time").expect("it goes on"));
    }
    let fence = "SELECT max(term)::text FROM cabbage.fence";
    assert_eq!(ask(&pair.primary, fence).await, "1", "nobody took the former primary");
    assert_eq!(ask(&pair.standby, fence).await, "2", "one of them took the new one");

    // One that starts now goes there too, whatever the order of the hosts.
    let third = pair.broker(&hosts).await;
    let mut role = third.cell().watch();
    drop(timeout(PATIENCE, role.wait_for(is_second)).await.expect("in time").expect("it goes on"));

    // Nor does anybody come back while the new one is away.
    pair.standby.stop(Mode::Fast).await;
    let refused = |role: &Role| matches!(role, Role::Starting(why) if why.contains("of timeline 2 has been seen"));
    for role in roles.iter_mut().chain([&mut role]) {
        drop(timeout(PATIENCE, role.wait_for(refused)).await.expect("in time").expect("it goes on"));
    }
    assert_eq!(ask(&pair.primary, fence).await, "1", "nobody took the former primary");
    for broker in [third, standby, owner] {
        broker.shutdown().await.expect("it stops in order");
    }
}

#[tokio::test]
async fn a_connection_that_waited_for_a_term_takes_none_on_a_former_primary() {
    let pair = Pair::start().await;
    let ports = [pair.primary.port(), pair.standby.port()];
    pair.migrate(&ports, &[]).await.succeeds();
    let store = || PgStore::new(PgSettings::from_url(pair.url(&ports))).expect("a well-formed address");
    let (owner, waiting) = (store(), store());
    let tenure = owner.take_term("here:1").await.expect("it answers").expect("the cell is free");
    assert!(waiting.take_term("there:1").await.expect("it answers").is_none(), "the cell is owned");

    pair.level().await;
    tell(&pair.standby.url("postgres"), &["SELECT pg_promote()".to_owned()]).await;
    // Something else that the same broker does finds the new one first.
    waiting.schema_status().await.expect("it answers");
    drop(tenure);
    let refused = waiting.take_term("there:1").await.err().expect("the connection leads to the former one");
    assert!(refused.to_string().contains("of timeline 2 has been seen"), "{refused}");
    let tenure = waiting.take_term("there:1").await.expect("it answers").expect("the cell is free there");
    assert_eq!(tenure.term.number, 2);
    let fence = "SELECT max(term)::text FROM cabbage.fence";
    assert_eq!(ask(&pair.primary, fence).await, "1", "nobody took the former primary");
    assert_eq!(ask(&pair.standby, fence).await, "2", "the new one was taken");
}

#[tokio::test]
async fn where_a_replica_is_required_no_term_begins_and_none_goes_on_without() {
    let pair = Pair::start().await;
    let ports = [pair.primary.port()];
    pair.migrate(&ports, &[]).await.succeeds();
    let settings = PgSettings { require_synchronous: true, ..PgSettings::from_url(pair.url(&ports)) };
    let store = PgStore::new(settings).expect("a well-formed address");
    let refused = store.take_term("here:1").await.err().expect("nobody is waited for");
    assert!(refused.to_string().contains("synchronous_standby_names is empty"), "{refused}");

    pair.wait_for("*").await;
    let mut tenure = loop {
        // The connections of the first try may not have ended yet, and hold the lock until then.
        match store.take_term("here:1").await.expect("the standby acknowledges") {
            Some(tenure) => break tenure,
            None => tokio::task::yield_now().await,
        }
    };
    assert_eq!(tenure.term.number, 1, "the refused one left no trace");
    let names = Batch {
        number: 1,
        queues: vec![(QueueNo(0), "mail".into())],
        tasks: vec![(TaskNo(0), "send".into())],
        ..Batch::default()
    };
    tenure.writer.commit(&names).await.expect("the standby acknowledges");
    let one_job = |number| {
        let spec = Arc::new(JobSpec::plain("send", "mail"));
        let (id, due) = (JobId(number as i64), Timestamp(0));
        let jobs = vec![NewJob { id, queue: QueueNo(0), task: TaskNo(0), due, spec }];
        Batch { number, jobs, ..Batch::default() }
    };
    tenure.writer.commit(&one_job(2)).await.expect("the standby acknowledges");

    pair.wait_for("").await;
    let error = tenure.writer.commit(&one_job(3)).await.expect_err("nobody is waited for");
    assert!(matches!(&error, CommitError::TermOver(why) if why.contains("synchronous_standby_names")), "{error}");
    let jobs = ask(&pair.primary, "SELECT string_agg(id::text, ' ') FROM cabbage.job").await;
    assert_eq!(jobs, "2", "nothing of it is kept");
}
