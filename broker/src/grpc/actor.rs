//! Who calls, for the record (C17).

use tonic::Request;

use crate::{core::ask::By, relay::Relayed};

use super::check::{self, Invalid};

/// The metadata key by which a caller says who it is: a name for people, believed as it is.
pub(super) const ACTOR_KEY: &str = "cabbage-actor";
/// The longest such name, in bytes.
const ACTOR_BYTES_MAX: usize = 128;

/// Who makes this call: the name that it gives, else the address that it comes from.
pub(super) fn actor<T>(request: &Request<T>) -> Result<String, Invalid> {
    match request.metadata().get(ACTOR_KEY) {
        Some(name) => {
            let name = name.to_str().map_err(|_| Invalid::new(ACTOR_KEY, "is not ASCII; give a plain name"))?;
            check::text(ACTOR_KEY, name, ACTOR_BYTES_MAX)?;
            Ok(name.to_owned())
        }
        None => Ok(match address(request) {
            address if address.is_empty() => "unknown".to_owned(),
            address => address,
        }),
    }
}

/// The IP address that a call came from, also where another broker passed it on; empty if it is not known.
pub(super) fn address<T>(request: &Request<T>) -> String {
    match request.extensions().get::<Relayed>() {
        Some(relayed) => relayed.address.clone(),
        None => request.remote_addr().map(|address| address.ip().to_string()).unwrap_or_default(),
    }
}

/// The record of a call: who, and why (up to 1 KiB, no control characters).
pub(super) fn by(actor: String, why: &str) -> Result<By, Invalid> {
    check::text("reason", why, check::REASON_BYTES_MAX)?;
    Ok(By { who: actor.into(), why: why.into() })
}
