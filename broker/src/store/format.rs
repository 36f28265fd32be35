//! The format of what is kept as bytes: facts of a log row, checkpoints, records of parked jobs, remembered answers.
//!
//! Each begins with a byte that names its format, then follows a protobuf message. What a reader does not know it
//! refuses ([`StoreError::FormatTooNew`]).
//!
//! Every broker reads a range of formats, [`LOWEST`] to [`HIGHEST`], and writes what the state of the cell says
//! ([`crate::core::state::State::format`]): the lowest that all its brokers read, raised by a fact. So brokers of two
//! versions serve one cell, as long as each reads what the other may write. A new version that needs to write more
//! reads the next format, and writes it once it is raised.
//!
//! | format | what is new |
//! |---|---|
//! | 1 | is read only |
//! | 2 | more kinds of facts |
//! | 3 | the fact that the format is raised |
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
    record::{Records, decode_options, decode_record, decode_records, encode_options, encode_record, encode_records},
    schedule::{decode_schedule, encode_schedule},
    state::{decode_state, encode_state},
    words::{decode_answer, decode_place, encode_answer, encode_place},
};
use super::StoreError;
use crate::core::types::Format;

/// The lowest format that this version writes.
pub const LOWEST: Format = Format(2);

/// The highest format that this version reads and writes.
pub const HIGHEST: Format = Format(3);

/// The bytes of a message, with the format in front.
fn seal(message: &impl Message, format: Format) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(format.0);
    message.encode(&mut bytes).expect("a vector grows");
    bytes
}

/// Reads a message behind its format, which is `known` at most.
fn open<M: Message + Default>(bytes: &[u8], known: Format) -> Result<(Format, M), StoreError> {
    match bytes {
        [0, ..] | [] => Err(StoreError::Corrupt("bytes without a format".to_owned())),
        [found, ..] if *found > known.0 => Err(StoreError::FormatTooNew { found: Format(*found), known }),
        [found, message @ ..] => {
            let message = M::decode(message).map_err(|error| StoreError::Corrupt(error.to_string()))?;
            Ok((Format(*found), message))
        }
    }
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}
