//! A map from job ids, which are dense, to records: pages of slots instead of a hash map that rehashes a million.

use std::collections::BTreeMap;

use super::types::JobId;

const PAGE_BITS: u32 = 10;
const PAGE_SLOTS: usize = 1 << PAGE_BITS;

/// A map from [`JobId`] to `T`.
#[derive(Clone, Debug)]
pub struct Pages<T> {
    pages: BTreeMap<i64, Page<T>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Page<T> {
    slots: Vec<Option<T>>,
    live: usize,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self { pages: BTreeMap::new(), len: 0 }
    }
}

impl<T> Pages<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of this id.
    pub fn get(&self, id: JobId) -> Option<&T> {
        let (page, slot) = place(id);
        self.pages.get(&page)?.slots[slot].as_ref()
    }

    /// The value of this id, to change.
    pub fn get_mut(&mut self, id: JobId) -> Option<&mut T> {
        let (page, slot) = place(id);
        self.pages.get_mut(&page)?.slots[slot].as_mut()
    }

    /// Puts a value in; gives the one that was there.
    pub fn insert(&mut self, id: JobId, value: T) -> Option<T> {
        let (page, slot) = place(id);
        let page = self
            .pages
            .entry(page)
            .or_insert_with(|| Page { slots: std::iter::repeat_with(|| None).take(PAGE_SLOTS).collect(), live: 0 });
        let old = page.slots[slot].replace(value);
        if old.is_none() {
            page.live += 1;
            self.len += 1;
        }
        old
    }

    /// Takes a value out. A page without values is given back.
    pub fn remove(&mut self, id: JobId) -> Option<T> {
        let (number, slot) = place(id);
        let page = self.pages.get_mut(&number)?;
        let old = page.slots[slot].take()?;
        page.live -= 1;
        self.len -= 1;
        if page.live == 0 {
            self.pages.remove(&number);
        }
        Some(old)
    }

    /// Every id and value, in the order of the ids.
    pub fn iter(&self) -> impl Iterator<Item = (JobId, &T)> {
        self.pages.iter().flat_map(|(page, content)| values(*page, content))
    }

    /// The ids and values of one page, chosen by a number that is taken modulo the count of pages.
    pub fn sample(&self, number: u64) -> impl Iterator<Item = (JobId, &T)> {
        let index = usize::try_from(number).unwrap_or(0) % self.pages.len().max(1);
        self.pages.iter().skip(index).take(1).flat_map(|(page, content)| values(*page, content))
    }
}

fn values<T>(page: i64, content: &Page<T>) -> impl Iterator<Item = (JobId, &T)> {
    content
        .slots
        .iter()
        .enumerate()
        .filter_map(move |(slot, value)| Some((JobId((page << PAGE_BITS) | slot as i64), value.as_ref()?)))
}

fn place(id: JobId) -> (i64, usize) {
    (id.0 >> PAGE_BITS, (id.0 & (PAGE_SLOTS as i64 - 1)) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_far_apart_and_side_by_side_keep_their_values() {
        let mut pages = Pages::default();
        let ids = [0, 1, 1_023, 1_024, 5_000_000_000, i64::MAX].map(JobId);
        for id in ids {
            assert_eq!(pages.insert(id, id.0), None);
        }
        assert_eq!(pages.iter().map(|(id, value)| (id, *value)).collect::<Vec<_>>(), ids.map(|id| (id, id.0)));
        assert_eq!(pages.insert(JobId(1), 7), Some(1));
        assert_eq!(pages.remove(JobId(1)), Some(7));
        assert_eq!(pages.remove(JobId(1)), None);
        assert_eq!(pages.len(), 5);
        for id in ids {
            pages.remove(id);
        }
        assert!(pages.is_empty() && pages.pages.is_empty());
    }
}
