//! Database URLs as sqlx and psql read them.

use std::fmt::Write;
use std::path::Path;

/// A URL over a unix socket.
///
/// The authority needs some host, or the URL does not parse; `?host=`
/// overrides it. `sslmode=disable` spares a round trip per connection and the
/// reader's `PGSSLMODE`.
pub(crate) fn over_socket(user: &str, port: u16, database: &str, folder: &Path) -> String {
    format!(
        "postgres://{}@localhost:{port}/{}?host={}&sslmode=disable",
        encode(user.as_bytes()),
        encode(database.as_bytes()),
        encode(folder.as_os_str().as_encoded_bytes()),
    )
}

/// A URL over TCP on the loopback interface.
pub(crate) fn over_tcp(user: &str, password: &str, port: u16, database: &str) -> String {
    format!(
        "postgres://{}:{}@127.0.0.1:{port}/{}?sslmode=disable",
        encode(user.as_bytes()),
        encode(password.as_bytes()),
        encode(database.as_bytes()),
    )
}

/// The same server, another database.
pub(crate) fn with_database(url: &str, database: &str) -> String {
    let (before, query) = match url.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (url, None),
    };
    let authority = before.find("://").map_or(0, |at| at + "://".len());
    let end = before[authority..].find('/').map_or(before.len(), |at| authority + at);
    let mut url = format!("{}/{}", &before[..end], encode(database.as_bytes()));
    if let Some(query) = query {
        url.push('?');
        url.push_str(query);
    }
    url
}

/// Percent-encodes all but RFC 3986's unreserved characters.
fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            write!(text, "%{byte:02X}").expect("writing to a string does not fail");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgConnectOptions;

    use super::*;

    #[test]
    fn sqlx_reads_the_socket_folder() {
        let url = over_socket("cabbage", 5433, "some db", Path::new("/tmp/a b/socket"));
        let options: PgConnectOptions = url.parse().unwrap();
        assert_eq!(options.get_socket().unwrap(), Path::new("/tmp/a b/socket"));
        assert_eq!(options.get_port(), 5433);
        assert_eq!(options.get_username(), "cabbage");
        assert_eq!(options.get_database(), Some("some db"));
    }

    #[test]
    fn sqlx_reads_the_loopback_address() {
        let options: PgConnectOptions = over_tcp("cabbage", "p@ss", 5433, "db").parse().unwrap();
        assert_eq!(options.get_host(), "127.0.0.1");
        assert_eq!(options.get_port(), 5433);
        assert_eq!(options.get_socket(), None);
    }

    #[test]
    fn only_the_database_is_replaced() {
        for (url, replaced) in [
            ("postgres://u:p@h:1/old?host=%2Ftmp", "postgres://u:p@h:1/new?host=%2Ftmp"),
            ("postgres://u@h/old", "postgres://u@h/new"),
            ("postgres://h", "postgres://h/new"),
            ("postgresql:///old?host=/tmp", "postgresql:///new?host=/tmp"),
        ] {
            assert_eq!(with_database(url, "new"), replaced);
        }
    }
}
