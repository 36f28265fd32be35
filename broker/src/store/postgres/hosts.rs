//! The servers to try, in the order in which they were given.

use std::{fmt, net::IpAddr, path::Path};

use super::{
    keywords::{Keywords, Word},
    settings::SettingsError,
};

/// The most hosts that are tried in turn.
const HOSTS_MAX: usize = 16;
/// The port of a host without one.
const PORT_DEFAULT: u16 = 5432;
/// Where packages of PostgreSQL put its socket. The password file knows them as `localhost`.
const SOCKET_FOLDERS: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];

/// One of the servers to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// Its name or address, or the folder of its socket. The password file and certificates go by it.
    pub(super) name: String,
    /// Where to connect to instead, as libpq's `hostaddr`.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

impl Host {
    /// Whether it is reached by a socket of this machine.
    pub(super) fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }

    /// What the password file calls it.
    pub(super) fn in_passfile(&self) -> &str {
        let folder = self.name.trim_end_matches('/');
        if self.is_socket() && SOCKET_FOLDERS.contains(&folder) { "localhost" } else { &self.name }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, address, port } = self;
        match address {
            _ if self.is_socket() => write!(f, "{}/.s.PGSQL.{port}", name.trim_end_matches('/')),
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:{port}"),
            Some(address) => write!(f, "{address}:{port}"),
            None if name.contains(':') => write!(f, "[{name}]:{port}"),
            None => write!(f, "{name}:{port}"),
        }
    }
}

/// The hosts by what was said: names, addresses and ports are lists of the same length, or a single port is for all.
pub(super) fn of(said: &Keywords) -> Result<Vec<Host>, SettingsError> {
    let list = |key| said.get(key).map(|word| List { word, entries: word.value.split(',').map(str::trim).collect() });
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = names.as_ref().or(addresses.as_ref()).map_or(1, |list| list.entries.len());
    let (single_port, several_ports) = match ports {
        Some(ports) if ports.entries.len() == 1 => (Some(ports), None),
        ports => (None, ports),
    };
    for list in [&names, &addresses, &several_ports].into_iter().flatten() {
        let found = list.entries.len();
        if found > HOSTS_MAX {
            return Err(list.word.malformed("a list of 16 at most"));
        }
        if found != count {
            return Err(SettingsError::Counts { field: list.word.field.clone(), found, hosts: count });
        }
    }
    (0..count)
        .map(|at| {
            let port = match entry(several_ports.as_ref(), at).or_else(|| entry(single_port.as_ref(), 0)) {
                None => PORT_DEFAULT,
                Some((word, text)) => text
                    .parse()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(|| word.malformed("a port from 1 to 65535, or one for each host"))?,
            };
            let address = match entry(addresses.as_ref(), at) {
                None => None,
                Some((word, text)) => {
                    Some(text.parse::<IpAddr>().map_err(|_| word.malformed("an IP address, or one for each host"))?)
                }
            };
            let name = match (entry(names.as_ref(), at), address) {
                (Some((_, name)), _) => without_brackets(name).to_owned(),
                (None, Some(address)) => address.to_string(),
                (None, None) => default_host(port).to_owned(),
            };
            Ok(Host { name, address, port })
        })
        .collect()
}

/// What was said with commas between.
struct List<'a> {
    word: &'a Word,
    entries: Vec<&'a str>,
}

/// The entry at this place, unless it is empty.
fn entry<'a>(list: Option<&List<'a>>, at: usize) -> Option<(&'a Word, &'a str)> {
    let list = list?;
    list.entries.get(at).filter(|entry| !entry.is_empty()).map(|entry| (list.word, *entry))
}

fn without_brackets(name: &str) -> &str {
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name)
}

/// The folder of a socket that is there, else the loopback interface.
fn default_host(port: u16) -> &'static str {
    let socket = format!(".s.PGSQL.{port}");
    SOCKET_FOLDERS.into_iter().find(|folder| Path::new(folder).join(&socket).exists()).unwrap_or("localhost")
}

#[cfg(test)]
mod tests {
    use super::{super::PgSettings, *};

    fn hosts(dsn: &str) -> Result<Vec<Host>, SettingsError> {
        of(&Keywords::of(&PgSettings::from_url(dsn), &|_| None)?)
    }

    fn hosts_of(dsn: &str) -> Vec<String> {
        hosts(dsn).unwrap_or_else(|error| panic!("{dsn}: {error}")).iter().map(Host::to_string).collect()
    }

    fn complaint(dsn: &str) -> String {
        hosts(dsn).err().unwrap_or_else(|| panic!("{dsn} is accepted")).to_string()
    }

    #[test]
    fn hosts_and_ports_belong_together() {
        assert_eq!(hosts_of("postgres://a:1,[::1]:2,c/db"), ["a:1", "[::1]:2", "c:5432"]);
        assert_eq!(hosts_of("host=a,b port=7"), ["a:7", "b:7"]);
        assert_eq!(hosts_of("host=/run/pg/,[fe80::1] port=7,"), ["/run/pg/.s.PGSQL.7", "[fe80::1]:5432"]);
        assert_eq!(hosts_of("host=db hostaddr=10.0.0.1"), ["10.0.0.1:5432"]);
        assert_eq!(hosts_of("hostaddr=::1 port=1"), ["[::1]:1"]);
        assert!(complaint("host=a,b,c port=1,2").contains("2 entries for 3 hosts"));
        assert!(complaint("host=a hostaddr=10.0.0.1,10.0.0.2").contains("hostaddr"));
        assert!(complaint(&format!("host={}", ["a"; 17].join(","))).contains("16 at most"));
    }

    #[test]
    fn the_password_file_knows_usual_sockets_as_localhost() {
        let name = |name: &str| Host { name: name.to_owned(), address: None, port: 1 }.in_passfile().to_owned();
        assert_eq!((name("/tmp/"), name("/srv"), name("db")), ("localhost".into(), "/srv".into(), "db".into()));
    }
}
