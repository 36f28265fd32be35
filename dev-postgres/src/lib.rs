#![doc = include_str!("../README.md")]

mod account;
mod binaries;
mod cluster;
mod database;
mod download;
mod error;
mod folder;
mod options;
mod postmaster;
mod server;
mod test_database;
mod test_server;
mod url;
mod watchdog;

pub use account::NoAccount;
pub use binaries::{Binaries, BinariesError, OLDEST_MAJOR, VersionWish};
pub use download::DownloadError;
pub use error::ServerError;
pub use options::{Data, Durability, Mode, Options, Tcp};
pub use server::Server;
pub use test_database::TestDatabase;
pub use test_server::{TestServer, TestServerError};
