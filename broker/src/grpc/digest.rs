//! A digest of what a call asks, to tell a repeated call from another one with the same request id (C2).

use std::collections::HashMap;

use prost::Message;
use uuid::Uuid;

const NAMESPACE: Uuid = Uuid::from_u128(0x6361_6262_6167_6520_6469_6765_7374_0001);

/// Gathers what was asked, in a form that is the same for equal requests.
#[derive(Debug, Default)]
pub(super) struct Digest {
    bytes: Vec<u8>,
}

impl Digest {
    /// A digest of a call of this name.
    pub(super) fn of(call: &str) -> Self {
        Self { bytes: call.as_bytes().to_vec() }
    }

    /// Takes in a message without maps and without the request id.
    pub(super) fn message(&mut self, message: &impl Message) {
        self.length(message.encoded_len());
        message.encode(&mut self.bytes).expect("a vector grows");
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
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// Takes in a number.
    pub(super) fn number(&mut self, number: i64) {
        self.bytes.extend_from_slice(&number.to_be_bytes());
    }

    pub(super) fn finish(self) -> Uuid {
        Uuid::new_v5(&NAMESPACE, &self.bytes)
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
}
