//! What can go wrong with a server.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::account::NoAccount;
use crate::binaries::{BinariesError, VersionWish};

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
