//! What kind of server to start, and the settings that follow from it.

use std::path::{Path, PathBuf};

use crate::binaries::VersionWish;

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
/// asks for a password; see [`Server::tcp_url`](crate::Server::tcp_url).
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
            settings: vec![
                ("max_connections".to_owned(), "300".to_owned()),
                // Applications may prepare their transactions.
                ("max_prepared_transactions".to_owned(), "20".to_owned()),
                // A suite must fit on a small disk.
                ("max_wal_size".to_owned(), "256MB".to_owned()),
            ],
            ..Self::default()
        }
    }
}

/// Where the server listens comes last: later settings win.
pub(crate) fn settings(options: &Options, port: u16, socket: &Path) -> Vec<(String, String)> {
    let durability: &[(&str, &str)] = match options.durability {
        Durability::Full => &[],
        Durability::Off => &[("fsync", "off"), ("synchronous_commit", "off"), ("full_page_writes", "off")],
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
    durability.iter().map(owned).chain(options.settings.iter().cloned()).chain(ours.iter().map(owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_caller_win_but_not_over_where_the_server_listens() {
        let options = Options {
            durability: Durability::Off,
            settings: vec![("fsync".into(), "on".into()), ("listen_addresses".into(), "*".into())],
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
}
