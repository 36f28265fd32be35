//! What a fault run does.

use std::time::Duration;

use super::{
    Fault,
    fault::OF_EVERY_LOAD,
    mixture::{self, Length},
};
use crate::{
    checker::Sometimes,
    cluster::{Intervals, Shape, Way},
};

/// The disk that is filled, in MiB: room for the log of some minutes.
const DISK_MIB: u32 = 1_500;

/// How many times as long as C13 says recoveries may take in a mixture that is a test: other tests run beside it.
const TIMES_IN_TESTS: u32 = 3;

/// How many seconds' worth of the load is answered between two faults of a run that measures them.
const REST: u64 = 6;

/// One fault, when it is its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The fault.
    pub fault: Fault,
    /// Meanwhile everything between all parties is late.
    pub under_slow_cables: bool,
}

/// One run: faults, under a load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is called.
    pub name: String,
    /// What is done, in this order.
    pub steps: Vec<Step>,
    /// What the run must reach, or it has tested nothing.
    pub required: Vec<Sometimes>,
    /// Jobs to ask for, in all.
    pub jobs: u64,
    /// Jobs per second, in all.
    pub rate: u64,
    /// Draws the jobs and the moments.
    pub seed: u64,
    /// Clients.
    pub clients: u64,
    /// Brokers.
    pub brokers: usize,
    /// Workers.
    pub workers: usize,
    /// What the brokers are told.
    pub intervals: Intervals,
    /// Scheduled jobs are due at most so much later.
    pub latest: Duration,
    /// How many jobs a broker keeps in memory.
    pub memory_jobs: usize,
    /// Whether commits survive a crash of the machine.
    pub fsync: bool,
    /// An old snapshot and an open writing transaction are held for the whole run.
    pub old_transactions: bool,
    /// The clocks of brokers and workers are off by an hour.
    pub wrong_clocks: bool,
    /// How brokers reach the primary, if there are several servers.
    pub way: Way,
    /// How long the drain may take.
    pub drain: Duration,
    /// How many times as long as C13 says a recovery may take: where the machine has other things to do.
    pub times: u32,
    /// Answers between the end of one fault and the next, at least: so that each is recovered from alone.
    pub rest: u64,
}

impl Plan {
    /// One fault, some times, with the contract's intervals and this many brokers: but one where the fault says so.
    pub fn of(fault: Fault, brokers: usize, jobs: u64, seed: u64) -> Self {
        Self {
            brokers: if fault == Fault::KillBrokerRestart { 1 } else { brokers },
            old_transactions: fault == Fault::OldTransactions,
            wrong_clocks: fault == Fault::WrongClocks,
            ..Self::long(fault.name(), jobs, seed)
        }
        .with_rounds(fault, fault.rounds())
    }

    /// The same with short intervals and once, for a run of some seconds.
    pub fn quick(fault: Fault, brokers: usize, jobs: u64, seed: u64) -> Self {
        Self::of(fault, brokers, jobs, seed).shortened().with_rounds(fault, 1)
    }

    /// A mixture of faults that the seed draws, with the contract's intervals: it must reach everything that there is to
    /// reach.
    pub fn mixture(brokers: usize, jobs: u64, seed: u64) -> Self {
        let mixture = mixture::draw(seed, Length::Full);
        Self {
            steps: mixture.steps,
            required: Sometimes::ALL.to_vec(),
            brokers,
            old_transactions: mixture.old_transactions,
            wrong_clocks: mixture.wrong_clocks,
            ..Self::long("mix".to_owned(), jobs, seed)
        }
    }

    /// A short mixture with short intervals, for a run of a minute. It must reach what every load does, a crashed
    /// delivery, a takeover with jobs in flight, and an unknown outcome that was asked again; not a refused late write,
    /// a full window, or a job that was parked and fetched.
    pub fn short_mixture(brokers: usize, jobs: u64, seed: u64) -> Self {
        let mixture = mixture::draw(seed, Length::Short);
        let reached =
            [Sometimes::CrashedDelivery, Sometimes::TakeoverWithJobsInFlight, Sometimes::UnknownOutcomeAskedAgain];
        Self {
            steps: mixture.steps,
            required: OF_EVERY_LOAD.into_iter().chain(reached).collect(),
            times: TIMES_IN_TESTS,
            brokers,
            old_transactions: mixture.old_transactions,
            wrong_clocks: mixture.wrong_clocks,
            ..Self::long("mix".to_owned(), jobs, seed)
        }
        .shortened()
    }

    /// The fault so often.
    #[must_use]
    pub fn with_rounds(mut self, fault: Fault, rounds: u32) -> Self {
        self.steps = vec![Step { fault, under_slow_cables: false }; rounds as usize];
        self.required = OF_EVERY_LOAD.into_iter().chain(fault.required().iter().copied()).collect();
        if rounds > 2 && fault.breaks_calls() {
            self.required.push(Sometimes::UnknownOutcomeAskedAgain);
        }
        self
    }

    /// So often, each recovered from before the next, and no faster than the jobs last.
    #[must_use]
    pub fn measuring(self, fault: Fault, rounds: u32) -> Self {
        // The faults share half of the load: what was held back comes all at once, and cancels and the like come on top.
        let lasts = u64::from(rounds.max(1)) * (fault.takes().as_secs() + REST) * 2;
        let rate = self.rate_for(self.jobs, lasts);
        Self { rate, rest: rate * REST, ..self.with_rounds(fault, rounds) }
    }

    /// No faster than the load outlasts the faults, one after the other.
    #[must_use]
    pub fn outlasting(self) -> Self {
        let faults: u64 = self.steps.iter().map(|step| step.fault.takes().as_secs()).sum();
        // They are done within the first two thirds of the load.
        Self { rate: self.rate_for(self.jobs * 2 / 3, faults), ..self }
    }

    /// At most the rate that there is, and no faster than so many jobs last for so many seconds.
    fn rate_for(&self, jobs: u64, seconds: u64) -> u64 {
        (jobs / seconds.max(1)).min(self.rate).max(self.clients)
    }

    /// Short intervals, and little patience.
    #[must_use]
    pub fn shortened(self) -> Self {
        Self {
            intervals: Intervals::SHORT,
            latest: Duration::from_secs(3),
            memory_jobs: 1_000,
            drain: Duration::from_mins(1),
            ..self
        }
    }

    fn long(name: String, jobs: u64, seed: u64) -> Self {
        Self {
            name,
            steps: Vec::new(),
            required: Vec::new(),
            jobs,
            rate: 1_000,
            seed,
            clients: 2,
            brokers: 3,
            workers: 4,
            intervals: Intervals::CONTRACT,
            latest: Duration::from_secs(35),
            memory_jobs: 2_000,
            fsync: true,
            old_transactions: false,
            wrong_clocks: false,
            way: Way::Hosts,
            drain: Duration::from_mins(4),
            times: 1,
            rest: 0,
        }
    }

    /// What holds for the whole run, in words.
    pub(super) fn conditions(&self) -> Vec<String> {
        let all = [
            (true, format!("{} brokers", self.brokers)),
            (self.old_transactions, "old transactions".to_owned()),
            (self.wrong_clocks, "wrong clocks".to_owned()),
            (self.patroni() == Some(Way::Hosts), "three servers of PostgreSQL".to_owned()),
            (self.patroni() == Some(Way::HaProxy), "three servers of PostgreSQL behind HAProxy".to_owned()),
        ];
        all.into_iter().filter_map(|(holds, what)| holds.then_some(what)).collect()
    }

    fn has(&self, is: impl Fn(Fault) -> bool) -> bool {
        self.steps.iter().any(|step| is(step.fault))
    }

    fn patroni(&self) -> Option<Way> {
        self.has(Fault::needs_patroni).then_some(self.way)
    }

    pub(super) fn shape(&self) -> Shape {
        let needs_cables = self.has(Fault::needs_cables) || self.steps.iter().any(|step| step.under_slow_cables);
        Shape {
            brokers: self.brokers,
            workers: self.workers,
            intervals: self.intervals,
            memory_jobs: self.memory_jobs,
            fsync: self.fsync,
            cables: needs_cables.then_some(self.seed),
            wrong_clocks: self.wrong_clocks,
            disk_mib: self.has(|fault| fault == Fault::FillDisk).then_some(DISK_MIB),
            patroni: self.patroni(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_of_a_mixture_outlasts_its_faults() {
        for seed in 0..50 {
            let plan = Plan::mixture(3, 200_000, seed).outlasting();
            let faults: u64 = plan.steps.iter().map(|step| step.fault.takes().as_secs()).sum();
            let meanwhile = plan.rate * faults;
            assert!(meanwhile <= plan.jobs * 2 / 3, "seed {seed}: {meanwhile} jobs in the {faults} s of its faults");
        }
        assert_eq!(Plan::mixture(3, 20_000_000, 1).outlasting().rate, 1_000);
    }
}
