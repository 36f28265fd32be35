//! The facts of one log row, in columns.
//!
//! `order` says how many facts of which kind follow each other; each kind's fields lie in columns of their own, over
//! the whole row. So a row in which jobs are created and started in turn is as small as one in which they come in
//! runs, and encoding touches each fact once.

mod message;
mod read;
mod write;

use self::{
    message::{Counts, FactsMessage, KIND_BITS, KIND_BITS_1, Kind},
    read::FactsReader,
    write::FactsWriter,
};
use super::{corrupt, open, seal};
use crate::{
    core::{fact::Fact, types::Format},
    store::StoreError,
};

/// More facts than this no row has: it bounds what a damaged one can allocate.
const FACTS_MAX: usize = 1 << 24;

/// The bytes of a log row's facts, in this format.
pub fn encode_facts(facts: &[Fact], format: Format) -> Vec<u8> {
    let mut writer = FactsWriter::default();
    for fact in facts {
        writer.add(fact);
    }
    seal(&writer.finish(), format)
}

/// Reads the facts of a log row whose format is `known` at most, and which format that is.
pub fn decode_facts(bytes: &[u8], known: Format) -> Result<(Format, Vec<Fact>), StoreError> {
    let (format, mut message): (_, FactsMessage) = open(bytes, known)?;
    let kind_bits = if format == Format(1) { KIND_BITS_1 } else { KIND_BITS };
    let order = std::mem::take(&mut message.order);
    let mut counts = Counts::default();
    let mut total = 0_usize;
    for run in &order {
        let (kind, len) = parse_run(*run, kind_bits)?;
        counts[kind as usize] += len;
        total += len;
    }
    if total > FACTS_MAX {
        return Err(corrupt("a log row with too many facts"));
    }
    let mut reader = FactsReader::new(message, &counts)?;
    let mut facts = Vec::with_capacity(total);
    for run in order {
        let (kind, len) = parse_run(run, kind_bits)?;
        for _ in 0..len {
            facts.push(reader.next(kind)?);
        }
    }
    Ok((format, facts))
}

fn parse_run(run: u64, kind_bits: u32) -> Result<(Kind, usize), StoreError> {
    let kind = Kind::from_number(run & ((1 << kind_bits) - 1)).ok_or_else(|| corrupt("an unknown kind of fact"))?;
    let len = usize::try_from(run >> kind_bits).ok().and_then(|len| len.checked_add(1)).filter(|len| *len <= FACTS_MAX);
    Ok((kind, len.ok_or_else(|| corrupt("a run without an end"))?))
}
