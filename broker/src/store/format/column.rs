//! One field of many facts.
//!
//! Written short: no value where all are zero, one where all are the same, else all of them. Ids and times are
//! written as differences, so ids that follow each other are all the same: one.

use crate::store::StoreError;

use super::corrupt;

/// Shortens a column.
pub(super) fn pack<T: Copy + Default + PartialEq>(mut values: Vec<T>) -> Vec<T> {
    if let Some(first) = values.first().copied()
        && values.iter().all(|value| *value == first)
    {
        values.truncate(usize::from(first != T::default()));
    }
    values
}

/// Writes a column as differences, and shortens it.
pub(super) fn pack_deltas(mut values: Vec<i64>) -> Vec<i64> {
    let mut before = 0;
    for value in &mut values {
        let delta = value.wrapping_sub(before);
        before = *value;
        *value = delta;
    }
    // The first difference is the first value itself, and would keep a run from being short.
    match values.as_slice() {
        [first, second, rest @ ..] if rest.iter().all(|delta| delta == second) => vec![*first, *second],
        _ => values,
    }
}

/// Reads a column again, value by value.
pub(super) struct Column<T> {
    values: Vec<T>,
    at: usize,
}

impl<T: Copy + Default> Column<T> {
    /// `len` is how many values were packed.
    pub(super) fn new(values: Vec<T>, len: usize) -> Result<Self, StoreError> {
        if values.len() == len || values.len() <= 1 {
            Ok(Self { values, at: 0 })
        } else {
            Err(corrupt("a column has another length than its facts"))
        }
    }

    /// The next value.
    pub(super) fn next(&mut self) -> T {
        let value = match self.values.as_slice() {
            [] => T::default(),
            [same] => *same,
            values => values.get(self.at).copied().unwrap_or_default(),
        };
        self.at += 1;
        value
    }
}

/// Reads a column of differences again, value by value.
pub(super) struct Deltas {
    values: Vec<i64>,
    at: usize,
    before: i64,
}

impl Deltas {
    /// `len` is how many values were packed.
    pub(super) fn new(values: Vec<i64>, len: usize) -> Result<Self, StoreError> {
        if values.len() == len || (values.len() == 2 && len > 2) {
            Ok(Self { values, at: 0, before: 0 })
        } else {
            Err(corrupt("a column of differences has another length than its facts"))
        }
    }

    /// The next value.
    pub(super) fn next(&mut self) -> i64 {
        let delta = self.values.get(self.at).or(self.values.last()).copied().unwrap_or_default();
        self.at += 1;
        self.before = self.before.wrapping_add(delta);
        self.before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_back_as_they_were() {
        for values in [vec![], vec![0], vec![7], vec![0, 0], vec![7, 7, 7], vec![1, 0, 7]] {
            let mut column = Column::new(pack(values.clone()), values.len()).expect("packed");
            assert_eq!(values, (0..values.len()).map(|_| column.next()).collect::<Vec<i32>>());
        }
        assert_eq!(pack(vec![7; 4_000]), [7]);
    }

    #[test]
    fn differences_come_back_as_they_were() {
        let extremes = vec![i64::MIN, i64::MAX, 0, -1];
        for values in [vec![], vec![5], vec![5, 6], vec![5, 6, 7], vec![5, 6, 8], vec![9, 9, 9], extremes] {
            let mut deltas = Deltas::new(pack_deltas(values.clone()), values.len()).expect("packed");
            assert_eq!(values, (0..values.len()).map(|_| deltas.next()).collect::<Vec<_>>());
        }
        assert_eq!(pack_deltas((1_000..5_000).collect()), [1_000, 1]);
    }
}
