//! A set of job ids. They are dense, so a word for 64 neighbours says which of them are in it: a long queue takes a few
//! bits for each job instead of an entry of a tree.

use std::collections::BTreeMap;

use super::types::JobId;

const WORD_BITS: u32 = u64::BITS;

/// A set of [`JobId`], in order.
#[derive(Clone, Debug, Default)]
pub(super) struct JobIds {
    /// By the number of the word; none is 0.
    words: BTreeMap<i64, u64>,
    len: usize,
}

impl JobIds {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether this one is in it.
    pub(super) fn contains(&self, id: JobId) -> bool {
        let (word, bit) = place(id);
        self.words.get(&word).is_some_and(|bits| bits & bit != 0)
    }

    /// Puts one in. `false`: it was there.
    pub(super) fn insert(&mut self, id: JobId) -> bool {
        let (word, bit) = place(id);
        let bits = self.words.entry(word).or_default();
        let is_new = *bits & bit == 0;
        *bits |= bit;
        self.len += usize::from(is_new);
        is_new
    }

    /// Takes one out. `false`: it was not there.
    pub(super) fn remove(&mut self, id: JobId) -> bool {
        let (word, bit) = place(id);
        let Some(bits) = self.words.get_mut(&word).filter(|bits| **bits & bit != 0) else { return false };
        *bits &= !bit;
        if *bits == 0 {
            self.words.remove(&word);
        }
        self.len -= 1;
        true
    }

    /// The lowest one.
    pub(super) fn first(&self) -> Option<JobId> {
        self.words.first_key_value().map(|(word, bits)| id(*word, bits.trailing_zeros()))
    }

    /// The highest one.
    pub(super) fn last(&self) -> Option<JobId> {
        self.words.last_key_value().map(|(word, bits)| id(*word, WORD_BITS - 1 - bits.leading_zeros()))
    }

    /// All of them, from the lowest on.
    pub(super) fn iter(&self) -> impl Iterator<Item = JobId> {
        self.words.iter().flat_map(|(word, bits)| {
            let is_set = move |bit: &u32| bits >> bit & 1 == 1;
            (0..WORD_BITS).filter(is_set).map(|bit| id(*word, bit))
        })
    }
}

fn place(id: JobId) -> (i64, u64) {
    (id.0.div_euclid(i64::from(WORD_BITS)), 1 << id.0.rem_euclid(i64::from(WORD_BITS)))
}

fn id(word: i64, bit: u32) -> JobId {
    JobId(word * i64::from(WORD_BITS) + i64::from(bit))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_holds_what_a_set_of_the_same_ids_holds() {
        let (mut ids, mut set) = (JobIds::default(), BTreeSet::new());
        let mut mixed = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..20_000 {
            mixed = mixed.wrapping_mul(0xBF58_476D_1CE4_E5B9).rotate_left(29) ^ 0x94D0_49BB;
            // Neighbours, and few that lie far apart.
            let id = JobId((mixed % 300) as i64 + if mixed & 0x700 == 0 { 1 << 40 } else { 0 });
            if mixed & 0x1800 == 0 {
                assert_eq!(ids.remove(id), set.remove(&id));
            } else if mixed & 0x1800 == 0x800 {
                assert_eq!(ids.insert(id), set.insert(id));
            } else if let Some(first) = set.pop_first() {
                assert!(ids.remove(first));
            }
            assert_eq!((ids.len(), ids.is_empty()), (set.len(), set.is_empty()));
            assert_eq!((ids.first(), ids.last()), (set.first().copied(), set.last().copied()));
            assert_eq!(ids.contains(id), set.contains(&id));
        }
        for id in [0, 63, 64, 127, i64::MAX - 1, i64::MAX].map(JobId) {
            ids.insert(id);
            set.insert(id);
        }
        assert!(ids.iter().eq(set.iter().copied()));
        for id in set {
            assert!(ids.remove(id) && !ids.remove(id));
        }
        assert!(ids.words.is_empty());
    }
}
