//! A server that asks for passwords, certificates and encryption, each in a database of its own.

mod certificates;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use cabbage_dev_postgres::{Mode, Options, Server, Tcp};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, postgres::PgConnectOptions};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use certificates::{Authority, Signed};

/// The password of the role `queue`.
pub const PASSWORD: &str = "hard to: guess\\";

/// Who is let in where. Whoever is not named is a stranger.
const HBA: &str = "\
local     all                  all    trust
host      app,missing,guarded  queue  127.0.0.1/32  scram-sha-256
host      app                  ghost  127.0.0.1/32  trust
hostssl   encrypted            queue  127.0.0.1/32  scram-sha-256
hostnossl plain                queue  127.0.0.1/32  scram-sha-256
hostssl   certified            queue  127.0.0.1/32  cert
hostssl   app                  robot  127.0.0.1/32  cert
";

/// The server, and the files that its clients need.
pub struct Secured {
    server: Server,
    folder: TempDir,
}

impl Secured {
    /// The server of this process.
    pub async fn shared() -> &'static Self {
        static SERVER: OnceCell<Secured> = OnceCell::const_new();
        SERVER.get_or_init(Self::start).await
    }

    async fn start() -> Self {
        let mut server = Server::start(Options { tcp: Tcp::FreePort, ..Options::for_tests() }).await.expect("a server");
        let folder = TempDir::new().expect("a folder");
        let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
        let of_server = ours.sign("server", &["127.0.0.1", "db.example.com"]);
        for (name, text) in [
            ("server.crt", &of_server.certificate),
            ("server.key", &of_server.key),
            ("ca.crt", &ours.certificate),
            ("pg_hba.conf", &HBA.to_owned()),
        ] {
            give(&server.data_dir(), name, text);
        }
        for (name, text) in [("ours.crt", &ours.certificate), ("theirs.crt", &theirs.certificate)] {
            fs::write(folder.path().join(name), text).expect("a file");
        }
        for (name, Signed { certificate, key }) in [
            ("queue", ours.sign("queue", &[])),
            ("robot", ours.sign("robot", &[])),
            ("stranger", theirs.sign("queue", &[])),
        ] {
            fs::write(folder.path().join(format!("{name}.crt")), certificate).expect("a file");
            fs::write(folder.path().join(format!("{name}.key")), key).expect("a file");
        }
        let mut statements = vec![
            format!("CREATE ROLE queue LOGIN PASSWORD '{PASSWORD}'"),
            "ALTER SYSTEM SET ssl = on".to_owned(),
            "ALTER SYSTEM SET ssl_ca_file = 'ca.crt'".to_owned(),
        ];
        statements.extend(
            ["app", "encrypted", "plain", "certified", "guarded"]
                .map(|name| format!("CREATE DATABASE {name} OWNER queue")),
        );
        statements.push("ALTER DATABASE guarded SET default_transaction_read_only = on".to_owned());
        tell(&server.url("postgres"), &statements).await;
        server.restart(Mode::Fast).await.expect("it starts again");
        Self { server, folder }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> String {
        self.server.port().to_string()
    }

    /// A file for its clients: `ours.crt`, `theirs.crt`, and `queue`, `robot` and `stranger` with `.crt` and `.key`.
    pub fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Keywords for a database of it, without a password.
    pub fn dsn(&self, dbname: &str) -> String {
        format!("host=127.0.0.1 port={} user=queue dbname={dbname}", self.port())
    }

    /// The superuser's way to a database.
    pub fn socket_url(&self, database: &str) -> String {
        self.server.url(database)
    }

    /// The folder of its socket, where everybody is let in.
    pub fn socket(&self) -> PathBuf {
        self.server.socket_dir()
    }
}

/// Runs statements, one transaction each.
pub async fn tell(url: &str, statements: &[String]) {
    let options: PgConnectOptions = url.parse().expect("a URL");
    let mut connection = options.connect().await.expect("a connection");
    for statement in statements {
        connection.execute(sqlx::AssertSqlSafe(statement.as_str())).await.expect(statement);
    }
    connection.close().await.expect("an end");
}

/// A file in the server's own folder, as its own and as nobody else's.
pub fn give(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::write(&path, text).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
    let owner = fs::metadata(folder).expect("a folder");
    chown(&path, Some(owner.uid()), Some(owner.gid())).expect("an owner");
}
