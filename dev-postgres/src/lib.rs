#![doc = include_str!("../README.md")]

mod account;
mod binaries;
mod download;
mod folder;
mod postmaster;
mod server;
mod test_server;
mod url;
mod watchdog;

pub use account::NoAccount;
pub use binaries::{Binaries, BinariesError, OLDEST_MAJOR, VersionWish};
pub use download::DownloadError;
pub use server::{Data, Durability, Mode, Options, Server, ServerError, Tcp};
pub use test_server::{TestServer, TestServerError};
