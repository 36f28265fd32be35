//! Parked jobs, many to a row of `parked_block`: where memory is short they come and go by the thousand, and a row each,
//! with its entries in two indexes, would cost PostgreSQL more than all else that a job needs.
//!
//! One row has those that one commit parked at one place among 64 ids. Fewer than four are not worth a row. Of its jobs
//! one is found by its block, and by its bit in `present`, from which it vanishes when it leaves; the last to leave takes
//! the row along.

use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use super::error::ReadError;
use crate::{
    core::{
        batch::Unparked,
        job::Record,
        place::{ParkedJob, Place, PlaceKey},
        types::{Format, JobId},
    },
    store::{
        StoreError,
        format::{decode_place, decode_record, decode_records, encode_place, encode_records},
    },
};

/// Ids of one row agree in all but their lowest six bits. The SQL says 63 and 6.
const BLOCK_BITS: u32 = 6;
/// So many are worth a row.
const PACKED_MIN: usize = 4;

/// The lowest id of a block.
pub(super) fn first_of(block: i64) -> JobId {
    JobId(block << BLOCK_BITS)
}

/// The block of a job.
pub(super) fn block_of(job: JobId) -> i64 {
    job.0 >> BLOCK_BITS
}

/// The bit of a job in its block.
fn bit_of(job: JobId) -> u32 {
    (job.0 & ((1 << BLOCK_BITS) - 1)) as u32
}

/// Whether jobs of this place share rows: not where each has a position of its own.
fn is_shared(place: Place) -> bool {
    match place {
        Place::Stream(_) | Place::Lock(..) | Place::Strict(..) => true,
        Place::Due(_) => false,
    }
}

/// Whether a row can have this job beside others: all of one place have the same lock, and none is looked for by its
/// queueing lock.
fn is_plain(parked: &ParkedJob) -> bool {
    let lock = match parked.place {
        Place::Stream(_) => None,
        Place::Lock(lock, ..) | Place::Strict(lock, ..) => Some(lock),
        Place::Due(_) => return false,
    };
    let ParkedJob { id, key, record, .. } = parked;
    *key == PlaceKey { sort: 0, id: *id } && record.lock() == lock && record.queueing_lock().is_none()
}

/// Rows of `parked_block`, as the parallel arrays of `commit_1`.
#[derive(Default)]
pub(super) struct Blocks {
    pub(super) places: Vec<Vec<u8>>,
    pub(super) numbers: Vec<i64>,
    /// A bit for each job.
    pub(super) present: Vec<i64>,
    pub(super) locks: Vec<Option<Uuid>>,
    pub(super) records: Vec<Vec<u8>>,
}

/// Packs what can be, and gives the jobs that cannot.
pub(super) fn pack(parked: &[ParkedJob], format: Format) -> (Blocks, Vec<&ParkedJob>) {
    let (mut plain, mut others): (Vec<_>, Vec<_>) = parked.iter().partition(|parked| is_plain(parked));
    plain.sort_unstable_by_key(|parked| (parked.place, parked.id));
    let mut blocks = Blocks::default();
    for row in plain.chunk_by(|one, other| one.place == other.place && block_of(one.id) == block_of(other.id)) {
        if row.len() < PACKED_MIN {
            others.extend(row);
            continue;
        }
        let records = row.iter().map(|parked| (bit_of(parked.id), &parked.record));
        blocks.places.push(encode_place(row[0].place));
        blocks.numbers.push(block_of(row[0].id));
        blocks.present.push(bits(row.iter().map(|parked| parked.id)));
        blocks.locks.push(row[0].record.lock().map(|lock| lock.0));
        blocks.records.push(encode_records(records, format));
    }
    (blocks, others)
}

fn bits(jobs: impl Iterator<Item = JobId>) -> i64 {
    jobs.fold(0, |bits, job| bits | 1 << bit_of(job))
}

/// What may leave rows of `parked_block`, as the parallel arrays of `commit_1`.
#[derive(Default)]
pub(super) struct Leaving {
    pub(super) places: Vec<Vec<u8>>,
    pub(super) numbers: Vec<i64>,
    /// A bit for each job.
    pub(super) jobs: Vec<i64>,
}

/// Which jobs leave each block, whether they have a row of their own or not.
pub(super) fn leaving(unparked: &[Unparked]) -> Leaving {
    let mut shared: Vec<_> =
        unparked.iter().filter(|job| is_shared(job.place)).map(|job| (job.place, job.id)).collect();
    shared.sort_unstable();
    let mut leaving = Leaving::default();
    for row in shared.chunk_by(|one, other| one.0 == other.0 && block_of(one.1) == block_of(other.1)) {
        leaving.places.push(encode_place(row[0].0));
        leaving.numbers.push(block_of(row[0].1));
        leaving.jobs.push(bits(row.iter().map(|(_, job)| *job)));
    }
    leaving
}

/// The jobs of one row that are parked still, in the order of their ids.
pub(super) fn present(place: Place, block: i64, present: i64, records: &[u8]) -> Result<Vec<ParkedJob>, StoreError> {
    let records = decode_records(records)?;
    let bits = (0..1 << BLOCK_BITS).filter(|bit| present >> bit & 1 == 1);
    bits.map(|bit| {
        let id = JobId(first_of(block).0 + i64::from(bit));
        Ok(ParkedJob { id, place, key: PlaceKey { sort: 0, id }, record: records.get(bit)?.clone() })
    })
    .collect()
}

/// Where one job is parked, in a row of its own or in one with others, with the columns that [`parked`] reads and `sort`.
/// The names inside must not hide those that the job is named by.
macro_rules! parked_row {
    ($job:literal) => {
        concat!(
            "(SELECT q.sort, q.place, q.record, NULL::bytea AS records FROM parked q WHERE q.job = ",
            $job,
            " UNION ALL SELECT 0, q.place, NULL, q.records FROM parked_block q WHERE q.block = ",
            $job,
            " >> 6 AND (q.present >> (",
            $job,
            " & 63)::integer & 1) = 1 LIMIT 1)"
        )
    };
}

pub(super) use parked_row;

/// Reads a job's place and its record, from a row of its own or from one with others, from this column on.
pub(super) fn parked(row: &PgRow, first: usize, job: JobId) -> Result<Option<(Place, Record)>, ReadError> {
    let Some(place) = row.try_get::<Option<&[u8]>, _>(first)? else { return Ok(None) };
    let record = match row.try_get::<Option<&[u8]>, _>(first + 1)? {
        Some(record) => decode_record(record)?,
        None => decode_records(row.try_get(first + 2)?)?.get(bit_of(job))?.clone(),
    };
    Ok(Some((decode_place(place)?, record)))
}
