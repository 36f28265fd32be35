//! How long things took.

use hdrhistogram::Histogram;
use serde::Serialize;

/// The figures of a distribution of times.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Times {
    /// How many things.
    pub(super) count: u64,
    /// Half of them took at most so long, in milliseconds.
    pub(super) p50_ms: f64,
    /// 99 of 100.
    pub(super) p99_ms: f64,
    /// 999 of 1,000.
    pub(super) p999_ms: f64,
    /// All of them.
    pub(super) max_ms: f64,
}

impl Times {
    /// The figures of times in nanoseconds.
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let milliseconds = |nanos: u64| nanos as f64 / 1e6;
        Self {
            count: histogram.len(),
            p50_ms: milliseconds(histogram.value_at_quantile(0.5)),
            p99_ms: milliseconds(histogram.value_at_quantile(0.99)),
            p999_ms: milliseconds(histogram.value_at_quantile(0.999)),
            max_ms: milliseconds(histogram.max()),
        }
    }
}

/// The one in the middle, of an even number the higher of the two, and the highest. `None`: there is none.
pub(super) fn median_and_worst(figures: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let mut sorted: Vec<_> = figures.into_iter().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    Some((sorted.get(sorted.len() / 2).copied()?, sorted.last().copied()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_milliseconds() {
        let mut histogram = Histogram::<u64>::new(3).expect("a valid precision");
        for milliseconds in 1..=1_000_u64 {
            histogram.record(milliseconds * 1_000_000).expect("in range");
        }
        let times = Times::of(&histogram);
        assert_eq!(times.count, 1_000);
        let near = |told: f64, wanted: f64| (told - wanted).abs() < 1.0;
        assert!(near(times.p50_ms, 500.0) && near(times.p99_ms, 990.0) && near(times.p999_ms, 999.0), "{times:?}");
    }

    #[test]
    fn the_middle_of_an_even_number_is_the_higher_one() {
        assert_eq!(median_and_worst([3.0, 1.0, 2.0]), Some((2.0, 3.0)));
        assert_eq!(median_and_worst([4.0, 1.0, 3.0, 2.0]), Some((3.0, 4.0)));
        assert_eq!(median_and_worst([]), None);
    }
}
