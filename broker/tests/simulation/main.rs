//! The core by simulation: seeded, in virtual time, with tiny limits, and a crash possible at every step.
//!
//! A world holds the tables, one owner's core, clients and workers; a seed decides what happens next. After each step
//! the contract is checked. The same seed gives the same run.
//!
//! `CABBAGE_SIM_SEEDS=10000 cargo test -p cabbage-broker --test simulation` runs more seeds than the default;
//! `CABBAGE_SIM_SEED=7` runs one, and prints what happens.

mod acts;
mod broker;
mod contract;
mod effects;
mod formats;
mod ledger;
mod people;
mod retention;
mod sql;
mod ticks;
mod world;

use world::World;

const SEEDS_DEFAULT: u64 = 2_000;
const STEPS: u32 = 500;

#[test]
fn contract_holds_in_every_seeded_run() {
    if let Some(seed) = number("CABBAGE_SIM_SEED") {
        World::new(seed, true).run(STEPS);
        return;
    }
    let seeds = number("CABBAGE_SIM_SEEDS").unwrap_or(SEEDS_DEFAULT);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let reached = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut reached = world::Reached::default();
                    for seed in (thread..seeds).step_by(threads as usize) {
                        let run = std::panic::catch_unwind(|| World::new(seed, false).run(STEPS));
                        let Ok(run) = run else {
                            panic!("seed {seed} breaks the contract: CABBAGE_SIM_SEED={seed} shows it");
                        };
                        reached.add(&run.reached);
                    }
                    reached
                })
            })
            .collect();
        let mut all = world::Reached::default();
        for run in runs {
            all.add(&run.join().expect("a run breaks the contract"));
        }
        all
    });
    println!("{seeds} seeds, {STEPS} steps each: {reached:?}");
    reached.assert_all();
}

#[test]
fn same_seed_gives_the_same_run() {
    for seed in 0..20 {
        let first = World::new(seed, false).run(STEPS);
        let second = World::new(seed, false).run(STEPS);
        assert_eq!(first.trace, second.trace, "seed {seed}");
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
