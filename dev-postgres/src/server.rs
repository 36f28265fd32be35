//! A private server: its life and its databases.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::{fmt, io};

use crate::account::Account;
use crate::binaries::Binaries;
use crate::cluster::{self, USER, version_for};
use crate::database;
use crate::error::ServerError;
use crate::folder::Folder;
use crate::options::{Data, Mode, Options, Tcp, settings};
use crate::postmaster::{Launch, Postmaster};
use crate::url;
use crate::watchdog::{LastWill, Watchdog, lock_file};

/// The database every cluster has from the start.
pub(crate) const MAINTENANCE_DATABASE: &str = "postgres";

/// The port without TCP. It is only part of the socket's file name.
const SOCKET_PORT: u16 = 5432;

/// How often another free port is tried when one was taken meanwhile.
const FREE_PORT_ATTEMPTS: usize = 5;

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

        let (password_file, password) = folder
            .password(&account)
            .map_err(|source| ServerError::Folder { path: folder.root().to_path_buf(), source })?;
        if existing.is_none() {
            let durability = options.durability;
            cluster::make(&binaries, &account, &folder, password_file, durability).await?;
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
                Tcp::FreePort => {
                    free_port().map_err(|source| ServerError::Folder { path: PathBuf::from("127.0.0.1"), source })?
                }
            };
            launch.settings = settings(&options, port, &folder.socket());
            match launch.start(&mut watchdog).await {
                Err(ServerError::PortTaken { .. }) if options.tcp == Tcp::FreePort && attempt < FREE_PORT_ATTEMPTS => {
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
        database::create(&self.url(MAINTENANCE_DATABASE), name).await
    }

    /// Drops a database if it exists, and whoever is connected to it.
    pub async fn drop_database(&self, name: &str) -> Result<(), ServerError> {
        database::drop(&self.url(MAINTENANCE_DATABASE), name).await
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

/// A port that nobody listens on now. Somebody may a moment later, so the
/// caller must be ready to ask again.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
