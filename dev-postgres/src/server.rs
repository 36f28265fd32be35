//! A private server: its options, its life and its databases.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::{fmt, fs, io};

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, postgres::PgConnectOptions};

use crate::account::{Account, NoAccount};
use crate::binaries::{Binaries, BinariesError, OLDEST_MAJOR, VersionWish};
use crate::folder::Folder;
use crate::postmaster::{Launch, Postmaster};
use crate::url;
use crate::watchdog::{LastWill, Watchdog, lock_file};

/// The superuser of every cluster made here.
const USER: &str = "cabbage";

/// The database every cluster has from the start.
const MAINTENANCE_DATABASE: &str = "postgres";

/// The port without TCP. It is only part of the socket's file name.
const SOCKET_PORT: u16 = 5432;

/// How often another free port is tried when one was taken meanwhile.
const FREE_PORT_ATTEMPTS: usize = 5;

/// What kind of server to start. The default is what `cabbage dev` wants of a
/// server it throws away: any version, durable, no TCP.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The version. For a cluster that exists, its own version is used.
    pub version: VersionWish,
    /// Where the data lives.
    pub data: Data,
    /// Whether commits survive a crash of the machine.
    pub durability: Durability,
    /// Whether to listen on the loopback interface too.
    pub tcp: Tcp,
    /// Further settings, as in `postgresql.conf`. They win over ours, except
    /// where the server listens.
    pub settings: Vec<(String, String)>,
}

/// Where the data lives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Data {
    /// In a temporary folder, removed with the server.
    #[default]
    Temporary,
    /// In this folder, created if need be: the cluster in `data`, and beside
    /// it `server.log` and `password`.
    Keep(PathBuf),
}

/// Whether commits survive a crash of the machine. Either way they survive
/// crashes of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// They do, as in production; what is measured counts.
    #[default]
    Full,
    /// They do not: faster, for tests.
    Off,
}

/// Whether the server listens on 127.0.0.1, beside its unix socket. There it
/// asks for a password; see [`Server::tcp_url`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tcp {
    /// It does not.
    #[default]
    Off,
    /// On any port that is free.
    FreePort,
    /// On this port.
    Port(u16),
}

/// How to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Disconnect everybody, write a checkpoint, end.
    Fast,
    /// End at once, as in a crash; the next start recovers from the log.
    Immediate,
}

impl Options {
    /// Not durable and thrown away; room for the pools of many tests at once.
    pub fn for_tests() -> Self {
        Self {
            durability: Durability::Off,
            settings: vec![("max_connections".to_owned(), "300".to_owned())],
            ..Self::default()
        }
    }
}

/// Why a server could not be started or used. Every message names what to do,
/// or shows what PostgreSQL said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// No server programs.
    #[error(transparent)]
    Binaries(#[from] BinariesError),
    /// Root with nobody to give way to.
    #[error(transparent)]
    NoAccount(#[from] NoAccount),
    /// A folder or file cannot be made or read.
    #[error("cannot use {}: {source}", .path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// As root: the data folder lies where the server's account cannot go.
    #[error(
        "the server would run as user `{account}`, who cannot enter {}, which leads to {}: \
         keep the data elsewhere (for instance in /var/lib/cabbage), open that folder with \
         `chmod o+x`, or run as an ordinary user", .closed.display(), .path.display()
    )]
    ClosedFolder {
        /// The data folder.
        path: PathBuf,
        /// The folder on the way to it.
        closed: PathBuf,
        /// Who cannot enter.
        account: String,
    },
    /// The folder holds something other than a cluster.
    #[error(
        "{} exists but holds no PostgreSQL cluster: choose another folder, or remove it",
        .path.display()
    )]
    NoCluster {
        /// The folder.
        path: PathBuf,
    },
    /// The cluster is of another version than the one demanded.
    #[error(
        "the data in {} is of PostgreSQL {found}, and {wish} was asked for: ask for that \
         version, or choose another folder", .path.display()
    )]
    VersionMismatch {
        /// The data folder.
        path: PathBuf,
        /// The version of the cluster.
        found: u32,
        /// What was asked for.
        wish: VersionWish,
    },
    /// `initdb` failed.
    #[error("initdb failed ({status}):\n{output}")]
    Initdb {
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        output: String,
    },
    /// A program could not be run at all.
    #[error("cannot run {}: {source}", .program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another server uses the data folder.
    #[error(
        "a server{} already uses the data in {}: stop it, or choose another folder",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), .path.display()
    )]
    AlreadyRunning {
        /// The data folder.
        path: PathBuf,
        /// The other server's process, if it could be told.
        pid: Option<u32>,
    },
    /// The port is another program's.
    #[error("the port is taken, choose another; PostgreSQL said:\n{log}")]
    PortTaken {
        /// The end of the server's log.
        log: String,
    },
    /// The server ended before it was ready.
    #[error("PostgreSQL ended before it was ready ({status}); the end of {}:\n{log}", .path.display())]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        path: PathBuf,
        /// The end of its log.
        log: String,
    },
    /// The server was not ready in time and has been stopped.
    #[error("PostgreSQL was not ready within {seconds} s; the end of its log:\n{log}")]
    NotReady {
        /// How long we waited.
        seconds: u64,
        /// The end of its log.
        log: String,
    },
    /// The shell that guards the server does not run.
    #[error("cannot start the watchdog, a /bin/sh: {0}")]
    Watchdog(io::Error),
    /// A statement failed.
    #[error("PostgreSQL refused: {0}")]
    Database(#[from] sqlx::Error),
}

/// A private PostgreSQL server.
///
/// Dropping it stops it at once ([`Mode::Immediate`]) and removes what is
/// temporary. Should the process die without that, a watchdog does the same;
/// a server with data to keep it stops with a checkpoint.
pub struct Server {
    // Dropped in this order: the server, its guard, its folders.
    postmaster: Option<Postmaster>,
    watchdog: Watchdog,
    folder: Folder,
    launch: Launch,
    binaries: Binaries,
    port: u16,
    password: Option<String>,
}

impl Server {
    /// Starts a server and waits until it accepts connections. A cluster is
    /// made if there is none yet.
    pub async fn start(options: Options) -> Result<Self, ServerError> {
        let account = Account::for_servers()?;
        let folder = Folder::prepare(&options.data, &account)?;
        let existing = folder.existing_major()?;
        let wish = version_for(options.version, existing, folder.root())?;
        let binaries = Binaries::find(wish).await?;

        let mut watchdog = Watchdog::start(&LastWill {
            signal: match options.data {
                Data::Temporary => "QUIT",
                Data::Keep(_) => "INT",
            },
            lock: lock_file(&folder.data()),
            remove: vec![folder.temporary().to_path_buf()],
        })
        .map_err(ServerError::Watchdog)?;

        let (password_file, password) =
            folder
                .password(&account)
                .map_err(|source| ServerError::Folder {
                    path: folder.root().to_path_buf(),
                    source,
                })?;
        if existing.is_none() {
            let durability = options.durability;
            make_cluster(&binaries, &account, &folder, password_file, durability).await?;
        }

        let mut launch = Launch {
            account,
            program: binaries.program("postgres"),
            data: folder.data(),
            log: folder.log(),
            settings: Vec::new(),
        };
        let mut attempt = 1;
        let (port, postmaster) = loop {
            let port = match options.tcp {
                Tcp::Off => SOCKET_PORT,
                Tcp::Port(port) => port,
                Tcp::FreePort => free_port().map_err(|source| ServerError::Folder {
                    path: PathBuf::from("127.0.0.1"),
                    source,
                })?,
            };
            launch.settings = settings(&options, port, &folder.socket());
            match launch.start(&mut watchdog).await {
                Err(ServerError::PortTaken { .. })
                    if options.tcp == Tcp::FreePort && attempt < FREE_PORT_ATTEMPTS =>
                {
                    attempt += 1;
                }
                outcome => break (port, outcome?),
            }
        };
        tracing::debug!(
            version = binaries.full_version(),
            pid = postmaster.pid(),
            data = %launch.data.display(),
            "PostgreSQL runs"
        );
        Ok(Self {
            postmaster: Some(postmaster),
            watchdog,
            folder,
            launch,
            binaries,
            port,
            password: (options.tcp != Tcp::Off).then_some(password),
        })
    }

    /// The URL of a database over the unix socket, for sqlx and for psql.
    pub fn url(&self, database: &str) -> String {
        url::over_socket(USER, self.port, database, &self.folder.socket())
    }

    /// The URL of a database over TCP, with the password, if the server was
    /// started with TCP.
    pub fn tcp_url(&self, database: &str) -> Option<String> {
        let password = self.password.as_deref()?;
        Some(url::over_tcp(USER, password, self.port, database))
    }

    /// The folder of the unix socket.
    pub fn socket_dir(&self) -> PathBuf {
        self.folder.socket()
    }

    /// The port: over TCP if asked for, and in the socket's file name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser's name.
    pub fn user(&self) -> &str {
        USER
    }

    /// The server's main process, unless it has been stopped.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.as_ref().map(Postmaster::pid)
    }

    /// The folder of the cluster.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.data()
    }

    /// The server's log.
    pub fn log_file(&self) -> PathBuf {
        self.folder.log()
    }

    /// The programs it runs with.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Creates an empty database.
    pub async fn create_database(&self, name: &str) -> Result<(), ServerError> {
        create_database(&self.url(MAINTENANCE_DATABASE), name).await
    }

    /// Drops a database if it exists, and whoever is connected to it.
    pub async fn drop_database(&self, name: &str) -> Result<(), ServerError> {
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote(name));
        execute(&self.url(MAINTENANCE_DATABASE), statement).await
    }

    /// Stops the server and keeps its data until it is dropped. No effect on
    /// one that has been stopped.
    pub async fn stop(&mut self, mode: Mode) {
        if let Some(postmaster) = self.postmaster.take() {
            postmaster.stop(mode).await;
            self.watchdog.forget();
        }
    }

    /// Kills the main process, as the system would for want of memory.
    pub fn kill(&mut self) {
        if let Some(postmaster) = self.postmaster.take() {
            postmaster.kill();
            self.watchdog.forget();
        }
    }

    /// Starts the server again after [`stop`](Self::stop) or
    /// [`kill`](Self::kill): same data, same socket, same port. No effect on
    /// one that runs.
    pub async fn resume(&mut self) -> Result<(), ServerError> {
        if self.postmaster.is_none() {
            self.postmaster = Some(self.launch.start(&mut self.watchdog).await?);
        }
        Ok(())
    }

    /// Stops the server and starts it again.
    pub async fn restart(&mut self, mode: Mode) -> Result<(), ServerError> {
        self.stop(mode).await;
        self.resume().await
    }
}

/// Without the password: what is printed ends up in logs.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("version", &self.binaries.full_version())
            .field("pid", &self.pid())
            .field("port", &self.port)
            .field("socket_dir", &self.socket_dir())
            .field("data_dir", &self.data_dir())
            .finish_non_exhaustive()
    }
}

/// Creates an empty database on the server that `url` leads to.
pub(crate) async fn create_database(url: &str, name: &str) -> Result<(), ServerError> {
    // Nobody can be connected to template0, so it can always be copied.
    let statement = format!("CREATE DATABASE {} TEMPLATE template0", quote(name));
    execute(url, statement).await
}

async fn execute(url: &str, statement: String) -> Result<(), ServerError> {
    let options: PgConnectOptions = url.parse()?;
    let mut connection = options.connect().await?;
    // Names cannot be parameters; they are quoted.
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(statement)))
        .await?;
    connection.close().await?;
    Ok(())
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The version to look for: an existing cluster knows its own.
fn version_for(
    wish: VersionWish,
    existing: Option<u32>,
    path: &Path,
) -> Result<VersionWish, ServerError> {
    let Some(found) = existing else {
        return Ok(wish);
    };
    let fits = match wish {
        VersionWish::Any => found >= OLDEST_MAJOR,
        VersionWish::Major(major) => found == major,
    };
    if fits {
        Ok(VersionWish::Major(found))
    } else {
        Err(ServerError::VersionMismatch {
            path: path.to_path_buf(),
            found,
            wish,
        })
    }
}

/// Where the server listens comes last: later settings win.
fn settings(options: &Options, port: u16, socket: &Path) -> Vec<(String, String)> {
    let durability: &[(&str, &str)] = match options.durability {
        Durability::Full => &[],
        Durability::Off => &[
            ("fsync", "off"),
            ("synchronous_commit", "off"),
            ("full_page_writes", "off"),
        ],
    };
    let listen = match options.tcp {
        Tcp::Off => "",
        Tcp::FreePort | Tcp::Port(_) => "127.0.0.1",
    };
    let socket = socket.to_string_lossy();
    let port = port.to_string();
    let ours: [(&str, &str); 4] = [
        ("listen_addresses", listen),
        ("port", &port),
        ("unix_socket_directories", &socket),
        // A configuration file in a kept folder must not move the log.
        ("logging_collector", "off"),
    ];
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    durability
        .iter()
        .map(owned)
        .chain(options.settings.iter().cloned())
        .chain(ours.iter().map(owned))
        .collect()
}

/// A port that nobody listens on now. Somebody may a moment later, so the
/// caller must be ready to ask again.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Makes the cluster beside its place and moves it there when it is complete:
/// an interrupted `initdb` leaves nothing that looks like a cluster.
async fn make_cluster(
    binaries: &Binaries,
    account: &Account,
    folder: &Folder,
    password_file: PathBuf,
    durability: Durability,
) -> Result<(), ServerError> {
    let failed = |source| ServerError::Folder {
        path: folder.root().to_path_buf(),
        source,
    };
    let nursery = folder.make_nursery(account).map_err(failed)?;
    let program = binaries.program("initdb");
    let mut command = account.command(&program);
    command
        .arg("--pgdata")
        .arg(nursery.path())
        .args(["--username", USER])
        // The C locale is the same on every system and in every version, and
        // compares bytes, which is what indexes on names want.
        .args(["--encoding", "UTF8", "--locale", "C"])
        // Nobody else reaches the socket: its folder has mode 0700. The
        // loopback interface is everybody's, so there a password is asked for.
        .args(["--auth-local", "trust", "--auth-host", "scram-sha-256"])
        .arg("--pwfile")
        .arg(password_file)
        .arg("--no-instructions");
    if durability == Durability::Off {
        command.arg("--no-sync");
    }
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("running a program does not panic")
        .map_err(|source| ServerError::Program { program, source })?;
    if !output.status.success() {
        let printed = [output.stdout, output.stderr].concat();
        return Err(ServerError::Initdb {
            status: output.status,
            output: String::from_utf8_lossy(&printed).trim().to_owned(),
        });
    }
    fs::rename(nursery.keep(), folder.data()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_cluster_decides_the_version() {
        let path = Path::new("/data");
        let of = |wish, existing| version_for(wish, existing, path);
        assert_eq!(of(VersionWish::Any, None).unwrap(), VersionWish::Any);
        assert_eq!(
            of(VersionWish::Any, Some(17)).unwrap(),
            VersionWish::Major(17)
        );
        assert_eq!(
            of(VersionWish::Major(17), Some(17)).unwrap(),
            VersionWish::Major(17)
        );
        for wish in [VersionWish::Major(18), VersionWish::Any] {
            let error = of(wish, Some(14)).unwrap_err();
            assert!(matches!(error, ServerError::VersionMismatch { .. }));
        }
    }

    #[test]
    fn settings_of_the_caller_win_but_not_over_where_the_server_listens() {
        let options = Options {
            durability: Durability::Off,
            settings: vec![
                ("fsync".into(), "on".into()),
                ("listen_addresses".into(), "*".into()),
            ],
            ..Options::default()
        };
        let settings = settings(&options, 5432, Path::new("/tmp/s"));
        let last = |wanted: &str| {
            let (_, value) = settings.iter().rfind(|(name, _)| name == wanted).unwrap();
            value.as_str()
        };
        assert_eq!(last("fsync"), "on");
        assert_eq!(last("listen_addresses"), "");
        assert_eq!(last("unix_socket_directories"), "/tmp/s");
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
    }
}
