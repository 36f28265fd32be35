//! Which faults a seed draws.

use rand::{
    Rng as _, SeedableRng as _,
    rngs::StdRng,
    seq::{IndexedRandom as _, SliceRandom as _},
};

use super::{Fault, plan::Step};
use crate::cluster::may_mount;

/// How many faults a mixture has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// Many, with one of each kind at least.
    Full,
    /// A few that take seconds.
    Short,
}

/// What a seed drew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mixture {
    pub(super) steps: Vec<Step>,
    pub(super) old_transactions: bool,
    pub(super) wrong_clocks: bool,
}

/// Of each of these, a full mixture has one at least; the first is the one without which nothing is refused late.
const KINDS: [&[Fault]; 10] = [
    &[Fault::StopWorker],
    &[Fault::KillWorker],
    &[Fault::KillBrokerStandby, Fault::StopBroker],
    &[Fault::CutDatabase, Fault::HalfOpenDatabase, Fault::HoldDatabase, Fault::LoseRepliesDatabase],
    &[Fault::CutWorker, Fault::HalfOpenWorker, Fault::LoseRepliesWorker],
    &[Fault::LoseRepliesClient, Fault::CutClient, Fault::HalfOpenClient],
    &[Fault::CutLink, Fault::HalfOpenLink, Fault::LoseRepliesLink],
    &[Fault::KillRelay, Fault::StopRelay, Fault::CutRelayDatabase],
    &[Fault::RestartPostgres, Fault::RestartPostgresImmediate],
    &[Fault::EndSessions, Fault::UseUpConnections, Fault::LockTables, Fault::FillDisk],
];

/// Further faults of a full mixture.
const MORE: usize = 6;

/// What a short mixture is drawn from, and how many it has of them. (Not half-open connections to the database: it takes
/// a broker 30 s to give up its last read.)
const SHORT: [Fault; 18] = [
    Fault::StopBroker,
    Fault::CutDatabase,
    Fault::HoldDatabase,
    Fault::LoseRepliesDatabase,
    Fault::CutWorker,
    Fault::HalfOpenWorker,
    Fault::LoseRepliesWorker,
    Fault::CutClient,
    Fault::LoseRepliesClient,
    Fault::CutLink,
    Fault::HalfOpenLink,
    Fault::LoseRepliesLink,
    Fault::KillRelay,
    Fault::StopRelay,
    Fault::CutRelayDatabase,
    Fault::RestartPostgresImmediate,
    Fault::EndSessions,
    Fault::UseUpConnections,
];
const SHORT_COUNT: usize = 4;

pub(super) fn draw(seed: u64, length: Length) -> Mixture {
    let mut random = StdRng::seed_from_u64(seed);
    let mut faults: Vec<Fault> = match length {
        Length::Full => {
            let one_of_each = KINDS.iter().filter_map(|kind| kind.choose(&mut random).copied());
            let mut faults: Vec<Fault> = one_of_each.collect();
            let any: Vec<Fault> = KINDS.concat();
            faults.extend((0..MORE).filter_map(|_| any.choose(&mut random).copied()));
            faults
        }
        Length::Short => {
            let some = SHORT.choose_multiple(&mut random, SHORT_COUNT).copied();
            some.chain([Fault::KillBrokerStandby, Fault::KillWorker]).collect()
        }
    };
    faults.retain(|fault| !fault.needs_root() || may_mount());
    faults.shuffle(&mut random);
    let steps = faults.into_iter().map(|fault| Step { fault, under_slow_cables: random.random_bool(0.2) }).collect();
    Mixture { steps, old_transactions: random.random_bool(0.5), wrong_clocks: random.random_bool(0.5) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_mixture() {
        for length in [Length::Full, Length::Short] {
            assert_eq!(draw(1, length), draw(1, length));
            assert_ne!(draw(1, length), draw(2, length));
        }
    }

    #[test]
    fn a_full_mixture_has_one_fault_of_each_kind() {
        for seed in 0..50 {
            let steps = draw(seed, Length::Full).steps;
            for kind in KINDS {
                let has_it = steps.iter().any(|step| kind.contains(&step.fault));
                assert!(has_it || kind.iter().any(|fault| fault.needs_root()), "seed {seed} has none of {kind:?}");
            }
        }
    }
}
