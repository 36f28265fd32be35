//! Bursts of free jobs, in a cell with a crowd and in one without, in turns: the machine is faster in one minute than in
//! the next, by more than a crowd costs.

use anyhow::Context as _;

use super::super::{cell::Cell, probe::Prober, times::median_and_worst};

/// A cell with a prober in it that has so many numbers left.
pub(super) struct Side {
    pub(super) cell: Cell,
    pub(super) prober: Prober,
    next: u32,
}

/// How fast bursts were, per second: medians.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bursts {
    /// Beside the crowd.
    pub(super) per_second: f64,
    /// That as a share of the burst without one that was next to it.
    pub(super) ratio: f64,
}

impl Side {
    /// One whose prober is connected, and has numbers for so many probes.
    pub(super) async fn start(cell: Cell, queue: &str, numbers: u32) -> anyhow::Result<Self> {
        let mut prober = Prober::start(cell.address(), queue.to_owned(), numbers)?;
        prober.connected().await?;
        Ok(Self { cell, prober, next: 0 })
    }

    /// The next numbers, so many.
    pub(super) fn take(&mut self, numbers: u32) -> std::ops::Range<u32> {
        let first = self.next;
        self.next += numbers;
        first..self.next
    }

    async fn burst(&mut self, jobs: u32) -> anyhow::Result<f64> {
        let numbers = self.take(jobs);
        self.prober.burst(numbers).await
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.prober.stop().await?;
        self.cell.close().await
    }
}

/// So many bursts of so many jobs on each side; who begins takes turns too.
pub(super) async fn in_turns(crowded: &mut Side, empty: &mut Side, bursts: u32, jobs: u32) -> anyhow::Result<Bursts> {
    let mut pairs = Vec::new();
    for turn in 0..bursts {
        let (beside, without) = if turn % 2 == 0 {
            let beside = crowded.burst(jobs).await?;
            (beside, empty.burst(jobs).await?)
        } else {
            let without = empty.burst(jobs).await?;
            (crowded.burst(jobs).await?, without)
        };
        pairs.push((beside, without));
    }
    Bursts::of(&pairs).context("at least one burst")
}

impl Bursts {
    /// Of each burst beside the crowd, with the one without.
    fn of(pairs: &[(f64, f64)]) -> Option<Self> {
        let (per_second, _) = median_and_worst(pairs.iter().map(|(beside, _)| *beside))?;
        let (ratio, _) = median_and_worst(pairs.iter().map(|(beside, without)| beside / without))?;
        Some(Self { per_second, ratio })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_burst_is_compared_with_its_neighbour() {
        // The machine got twice as fast meanwhile; the crowd cost a tenth each time.
        let pairs = [(90.0, 100.0), (135.0, 150.0), (180.0, 200.0)];
        assert_eq!(Bursts::of(&pairs), Some(Bursts { per_second: 135.0, ratio: 0.9 }));
        assert_eq!(Bursts::of(&[]), None);
    }
}
