//! What both ends of a link have in common: parts become frames, and headers go over.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use cabbage_proto::relay::v1::{self, owner_part, relay_part};
use tokio::sync::mpsc;

/// The version of the protocol between brokers.
pub(super) const PROTOCOL: u32 = 1;

/// The largest frame of a link, in bytes: a part holds a message of 4 MiB and its headers.
pub const FRAME_BYTES_MAX: usize = 8 << 20;

/// Parts of one frame go on until they hold so much.
const FRAME_BYTES: usize = 1 << 20;

/// Parts that wait for the next frame. Beyond that, whoever has one waits.
pub(super) const PARTS_MAX: usize = 1_024;

/// Each side says something at least this often.
pub(super) const BEAT: Duration = Duration::from_secs(1);

/// A link on which nothing came for this long is dead.
pub(super) const SILENCE: Duration = Duration::from_secs(5);

/// Calls that one link carries at once (C14).
pub(super) const CALLS_MAX: usize = 16_384;

/// What may be under way on a link, in the windows of HTTP/2.
pub(super) const LINK_WINDOW_BYTES: u32 = 16 << 20;

/// A part of a call or a stream, in either direction.
pub(super) trait Part {
    /// What it holds, about.
    fn bytes(&self) -> usize;
}

impl Part for v1::RelayPart {
    fn bytes(&self) -> usize {
        match &self.part {
            Some(relay_part::Part::Call(call)) => call.body.len() + headers_bytes(&call.headers),
            Some(relay_part::Part::Frame(frame)) => frame.len(),
            _ => 0,
        }
    }
}

impl Part for v1::OwnerPart {
    fn bytes(&self) -> usize {
        match &self.part {
            Some(owner_part::Part::Answer(answer)) => answer.body.len() + headers_bytes(&answer.headers),
            Some(owner_part::Part::Frame(frame)) => frame.len(),
            _ => 0,
        }
    }
}

fn headers_bytes(headers: &[v1::Header]) -> usize {
    headers.iter().map(|header| header.name.len() + header.value.len()).sum()
}

/// The parts of the next frame: all that wait, up to its size. Empty once nobody can send any more.
pub(super) async fn next_parts<P: Part>(parts: &mut mpsc::Receiver<P>) -> Vec<P> {
    let Some(first) = parts.recv().await else { return Vec::new() };
    let mut bytes = first.bytes();
    let mut frame = vec![first];
    while bytes < FRAME_BYTES
        && let Ok(part) = parts.try_recv()
    {
        bytes += part.bytes();
        frame.push(part);
    }
    frame
}

/// The headers of a call, but for those that belong to one connection.
pub(super) fn to_wire(headers: &HeaderMap) -> Vec<v1::Header> {
    let header = |(name, value): (&HeaderName, &HeaderValue)| v1::Header {
        name: name.as_str().to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    headers.iter().filter(|(name, _)| !is_of_the_connection(name)).map(header).collect()
}

/// The headers again. Those that are none are left out: they came from a peer that read them as headers.
pub(super) fn from_wire(headers: Vec<v1::Header>) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(headers.len());
    for v1::Header { name, value } in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_maybe_shared(value)) {
            map.append(name, value);
        }
    }
    map
}

fn is_of_the_connection(name: &HeaderName) -> bool {
    matches!(name.as_str(), "connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "content-length" | "host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_go_over_and_those_of_the_connection_stay() {
        let mut headers = HeaderMap::new();
        headers.insert("cabbage-actor", HeaderValue::from_static("ann"));
        headers.append("x", HeaderValue::from_static("1"));
        headers.append("x", HeaderValue::from_static("2"));
        headers.insert("content-length", HeaderValue::from_static("7"));
        let back = from_wire(to_wire(&headers));
        headers.remove("content-length");
        assert_eq!(back, headers);
    }

    #[tokio::test]
    async fn what_waits_shares_a_frame_up_to_its_size() {
        let (sender, mut parts) = mpsc::channel(8);
        let part =
            |bytes| v1::RelayPart { number: 1, part: Some(relay_part::Part::Frame(Bytes::from(vec![0; bytes]))) };
        for bytes in [1, FRAME_BYTES, 1] {
            sender.try_send(part(bytes)).expect("there is room");
        }
        drop(sender);
        assert_eq!(next_parts(&mut parts).await.len(), 2);
        assert_eq!(next_parts(&mut parts).await.len(), 1);
        assert!(next_parts(&mut parts).await.is_empty());
    }
}
