//! A digest of what a call asks, to tell a repeated call from another one with the same request id (C2).

use std::collections::HashMap;

use prost::Message;
use sha1::{Digest as _, Sha1};
use uuid::{Builder, Uuid};

const NAMESPACE: Uuid = Uuid::from_u128(0x6361_6262_6167_6520_6469_6765_7374_0001);

/// Gathers what was asked, in a form that is the same for equal requests. It is a UUID of version 5, by a hash that uses
/// what the processor has for it: it goes over each byte that somebody defers.
pub(super) struct Digest {
    hash: Sha1,
    /// Of the last message. Kept for the next one.
    encoded: Vec<u8>,
}

impl Digest {
    /// A digest of a call of this name.
    pub(super) fn of(call: &str) -> Self {
        Self { hash: Sha1::new().chain_update(NAMESPACE).chain_update(call), encoded: Vec::new() }
    }

    /// Takes in a message without maps and without the request id.
    pub(super) fn message(&mut self, message: &impl Message) {
        self.encoded.clear();
        message.encode(&mut self.encoded).expect("a vector grows");
        self.length(self.encoded.len());
        self.hash.update(&self.encoded);
    }

    /// Takes in labels, whose order on the wire is random.
    pub(super) fn labels(&mut self, labels: &HashMap<String, String>) {
        let mut sorted: Vec<_> = labels.iter().collect();
        sorted.sort_unstable();
        self.length(sorted.len());
        for (key, value) in sorted {
            self.text(key);
            self.text(value);
        }
    }

    /// Takes in a text.
    pub(super) fn text(&mut self, text: &str) {
        self.length(text.len());
        self.hash.update(text);
    }

    /// Takes in a number.
    pub(super) fn number(&mut self, number: i64) {
        self.hash.update(number.to_be_bytes());
    }

    pub(super) fn finish(self) -> Uuid {
        Builder::from_sha1_bytes(self.hash.finalize()[..16].try_into().expect("a hash of 20 bytes")).into_uuid()
    }

    fn length(&mut self, length: usize) {
        self.number(length as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_labels_does_not_matter_but_their_content_does() {
        let digest = |labels: &[(&str, &str)]| {
            let mut digest = Digest::of("DeferJob");
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            digest.labels(&labels);
            digest.finish()
        };
        assert_eq!(digest(&[("a", "1"), ("b", "2")]), digest(&[("b", "2"), ("a", "1")]));
        assert_ne!(digest(&[("a", "1"), ("b", "2")]), digest(&[("a", "12"), ("b", "")]));
    }

    /// Digests are stored, and another version of the broker compares with them.
    #[test]
    fn it_is_the_uuid_of_version_5_of_all_that_was_taken_in() {
        let job = cabbage_proto::v1::JobSpec { task: "send".into(), ..Default::default() };
        let mut digest = Digest::of("DeferJob");
        digest.message(&job);
        digest.text("why");
        let all = [b"DeferJob", &6_i64.to_be_bytes()[..], b"\x0a\x04send", &3_i64.to_be_bytes(), b"why"].concat();
        assert_eq!(digest.finish(), Uuid::new_v5(&NAMESPACE, &all));
    }
}
