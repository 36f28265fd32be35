//! The format of what is kept as bytes: facts of a log row, checkpoints, records of parked jobs, remembered answers.
//!
//! Each begins with a byte that names its format, then follows a protobuf message. What a reader does not know it
//! refuses ([`StoreError::FormatTooNew`]).
//!
//! A log row keeps its facts in columns: a commit holds up to 4,000, most of them of three plain kinds whose ids
//! follow each other and whose other fields are all the same. See [`facts`].

mod column;
mod facts;
mod record;
mod schedule;
mod state;
#[cfg(test)]
mod tests;
mod words;

use prost::Message;

pub use self::{
    facts::{decode_facts, encode_facts},
    record::{decode_options, decode_record, encode_options, encode_record},
    schedule::{decode_schedule, encode_schedule},
    state::{decode_state, encode_state},
    words::{decode_answer, decode_place, encode_answer, encode_place},
};
use super::StoreError;

/// The format that this version writes, and the highest that it reads. Format 1 knew fewer kinds of facts.
pub const FORMAT: u8 = 2;

/// The bytes of a message, with the format in front.
fn seal(message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(FORMAT);
    message.encode(&mut bytes).expect("a vector grows");
    bytes
}

/// Reads a message behind its format.
fn open<M: Message + Default>(bytes: &[u8]) -> Result<M, StoreError> {
    match bytes {
        [1..=FORMAT, message @ ..] => M::decode(message).map_err(|error| StoreError::Corrupt(error.to_string())),
        [0, ..] | [] => Err(StoreError::Corrupt("bytes without a format".to_owned())),
        [found, ..] => Err(StoreError::FormatTooNew { found: u32::from(*found), known: u32::from(FORMAT) }),
    }
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}
