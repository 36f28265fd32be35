//! Addresses of brokers, and how channels to them are set up.

use std::time::Duration;

use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::Endpoint,
};

use crate::Error;

/// Where a broker listens if nobody says otherwise.
const PORT_DEFAULT: u16 = 7733;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Not below 20 s: proxies count faster pings as abuse.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(15);
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Wide, so that a stream that is full does not stop the others on its connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// One or more brokers of a cell: text with commas, or a list.
pub trait Addresses {
    /// The addresses, each with its port, such as `127.0.0.1:7733` or `http://broker-1:7733`.
    fn into_addresses(self) -> Vec<String>;
}

impl Addresses for &str {
    fn into_addresses(self) -> Vec<String> {
        self.split(',').map(str::trim).filter(|address| !address.is_empty()).map(ToOwned::to_owned).collect()
    }
}

impl Addresses for String {
    fn into_addresses(self) -> Vec<String> {
        self.as_str().into_addresses()
    }
}

impl Addresses for &String {
    fn into_addresses(self) -> Vec<String> {
        self.as_str().into_addresses()
    }
}

impl<T: AsRef<str>> Addresses for Vec<T> {
    fn into_addresses(self) -> Vec<String> {
        self.iter().flat_map(|address| address.as_ref().into_addresses()).collect()
    }
}

impl<T: AsRef<str>> Addresses for &[T] {
    fn into_addresses(self) -> Vec<String> {
        self.iter().flat_map(|address| address.as_ref().into_addresses()).collect()
    }
}

impl<T: AsRef<str>, const N: usize> Addresses for [T; N] {
    fn into_addresses(self) -> Vec<String> {
        self.as_slice().into_addresses()
    }
}

/// Endpoints for all addresses; at least one.
pub(crate) fn endpoints(addresses: &[String]) -> Result<Vec<Endpoint>, Error> {
    if addresses.is_empty() {
        return Err(Error::InvalidAddress { address: String::new(), detail: "no address was given".to_owned() });
    }
    addresses.iter().map(|address| endpoint(address)).collect()
}

fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let invalid = |detail: String| Error::InvalidAddress { address: address.to_owned(), detail };
    if address.starts_with("https://") {
        return Err(invalid("this build speaks no TLS; use a proxy on the same host".to_owned()));
    }
    let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| invalid(error.to_string()))?;
    if endpoint.uri().host().is_none_or(str::is_empty) {
        return Err(invalid("it names no host".to_owned()));
    }
    if endpoint.uri().port_u16().is_none() {
        return Err(invalid(format!("it names no port; a broker listens on {PORT_DEFAULT} by default")));
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

/// The header of a bearer token. It is never shown in logs.
pub(crate) fn bearer(token: &str) -> Result<MetadataValue<Ascii>, Error> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| Error::InvalidAddress {
        address: String::new(),
        detail: "the bearer token has characters that a header cannot carry".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The header that says who asks.
pub(crate) fn actor(name: &str) -> Result<MetadataValue<Ascii>, Error> {
    name.parse().map_err(|_| Error::InvalidAddress {
        address: String::new(),
        detail: "the actor's name has characters that a header cannot carry; give a plain name".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_as_text_with_commas_or_as_lists() {
        assert_eq!("a:1, http://b:2".into_addresses(), ["a:1", "http://b:2"]);
        assert_eq!(vec!["a:1,b:2", "c:3"].into_addresses(), ["a:1", "b:2", "c:3"]);
        assert_eq!(["a:1"].into_addresses(), ["a:1"]);
        assert_eq!(endpoints(&["a:1".to_owned()]).expect("valid")[0].uri().to_string(), "http://a:1/");
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_text() {
        for address in ["", "https://a:1", "http://", "a b", "nonsense", "http://a"] {
            let error = endpoints(&[address.to_owned()]).expect_err(address);
            assert!(matches!(error, Error::InvalidAddress { address: told, .. } if told == address));
        }
    }
}
