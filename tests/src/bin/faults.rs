//! Does faults to a cluster of real processes under load, and says whether the contract was kept.
//!
//! - One fault: `cargo run --release -p cabbage-tests --bin faults -- --fault kill-worker --jobs 200000`
//! - A mixture that the seed draws: `... -- --fault mix --seed 12`
//! - PostgreSQL that fails over: `.ci/failover` installs what it takes, and does `... -- --fault failover`
//! - How soon it recovers from each, ten times at least: `... -- --table recoveries.jsonl --resume`

use std::{path::PathBuf, process::ExitCode};

use cabbage_tests::{
    cluster::{Patroni, Way, may_mount},
    faults::{Fault, Plan, RECOVERIES_MIN, Table, Verdict, run},
};
use clap::{Parser, ValueEnum as _};

/// How often one run of a table does its fault: what one row takes.
const ROUNDS_OF_TABLE: u32 = 10;

/// Ends with 0 if every run was good, with 1 if not, with 2 if one could not be judged.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Line {
    /// The fault, by its name; `failover`: those of several PostgreSQL servers, with Patroni; `all` of them in turn, each on a cluster of its own; or `mix`, a mixture.
    #[arg(long, default_value = "all")]
    fault: String,
    /// Jobs to ask for, in each run.
    #[arg(long, default_value_t = 200_000)]
    jobs: u64,
    /// Jobs per second; fewer for a mixture and with --table, for a load that outlasts the faults.
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// Draws the jobs, the moments, and the mixture.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// How often the fault is done in a run. Without it: 1 to 3 times, by the fault; 10 times with --table.
    #[arg(long)]
    rounds: Option<u32>,
    /// Brokers.
    #[arg(long, default_value_t = 3)]
    brokers: usize,
    /// Workers.
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Unfinished jobs in a broker's memory, 1,000 at least. Without it: 2,000, or 1,000 with --short.
    #[arg(long)]
    memory_jobs: Option<usize>,
    /// Brokers know one address of HAProxy, and not every host, where PostgreSQL is several servers.
    #[arg(long)]
    haproxy: bool,
    /// Shorten the intervals of the contract (C13), for a quick run; a mixture has fewer faults.
    #[arg(long)]
    short: bool,
    /// Let PostgreSQL lose what it likes when the machine crashes.
    #[arg(long)]
    no_fsync: bool,
    /// Write all judgements as JSON into this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Do faults until each has ten recoveries in this file of JSON lines, and print their median and worst.
    #[arg(long)]
    table: Option<PathBuf>,
    /// Go on with what stands in that file.
    #[arg(long, requires = "table")]
    resume: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let line = Line::parse();
    let judged = match &line.table {
        Some(_) => line.fill_table().await,
        None => line.judge().await,
    };
    match judged {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("faults: {error:#}");
            ExitCode::from(2)
        }
    }
}

impl Line {
    /// The faults that were asked for, but for those that this user cannot do.
    fn faults(&self) -> anyhow::Result<Vec<Fault>> {
        if self.fault == "failover" {
            return Ok(Fault::all().into_iter().filter(|fault| fault.needs_patroni()).collect());
        }
        if self.fault != "all" {
            let fault = Fault::from_str(&self.fault, false);
            return Ok(vec![fault.map_err(|error| anyhow::anyhow!("no such fault: {error}"))?]);
        }
        let is_possible =
            |fault: Fault| (may_mount() || !fault.needs_root()) && (Patroni::is_possible() || !fault.needs_patroni());
        let (done, left): (Vec<Fault>, Vec<Fault>) = Fault::all().into_iter().partition(|fault| is_possible(*fault));
        for fault in left {
            let needed = if fault.needs_patroni() { "root and Patroni, which .ci/failover installs" } else { "root" };
            println!("{fault} is left out: it needs {needed}");
        }
        Ok(done)
    }

    fn plan(&self, fault: Fault, seed: u64) -> Plan {
        let plan = Plan::of(fault, self.brokers, self.jobs, seed);
        let plan = self.adapted(if self.short { plan.shortened() } else { plan });
        match (self.rounds, &self.table) {
            (rounds, Some(_)) => plan.measuring(fault, rounds.unwrap_or(ROUNDS_OF_TABLE)),
            (Some(rounds), None) => plan.with_rounds(fault, rounds),
            (None, None) => plan,
        }
    }

    fn adapted(&self, plan: Plan) -> Plan {
        Plan {
            rate: self.rate,
            workers: self.workers,
            memory_jobs: self.memory_jobs.unwrap_or(plan.memory_jobs),
            way: if self.haproxy { Way::HaProxy } else { Way::Hosts },
            fsync: !self.no_fsync,
            ..plan
        }
    }

    async fn judge(&self) -> anyhow::Result<bool> {
        let plans = if self.fault == "mix" {
            let mixture = if self.short { Plan::short_mixture } else { Plan::mixture };
            vec![self.adapted(mixture(self.brokers, self.jobs, self.seed)).outlasting()]
        } else {
            self.faults()?.into_iter().map(|fault| self.plan(fault, self.seed)).collect()
        };
        let mut verdicts = Vec::new();
        for plan in plans {
            let verdict = run(plan).await?;
            println!("{verdict}");
            verdicts.push(verdict);
        }
        println!("{:<28}{:<34}{:>10}", "fault", "recovery", "took");
        for recovery in verdicts.iter().flat_map(|verdict| &verdict.recoveries) {
            println!("{recovery}");
        }
        let is_good = verdicts.iter().all(Verdict::is_good);
        println!("{}", if is_good { "all good" } else { "FAILED" });
        if let Some(path) = &self.json {
            std::fs::write(path, serde_json::to_vec_pretty(&verdicts)?)?;
        }
        Ok(is_good)
    }

    async fn fill_table(&self) -> anyhow::Result<bool> {
        let Some(path) = &self.table else { return Ok(true) };
        let mut table = Table::open(path, self.resume)?;
        let (mut is_good, mut given_up) = (true, Vec::new());
        for fault in self.faults()? {
            while table.recoveries(&fault.name()) < RECOVERIES_MIN {
                let verdict = match run(self.plan(fault, table.next_seed(self.seed))).await {
                    Ok(verdict) => verdict,
                    Err(error) => {
                        eprintln!("faults: {fault}: {error:#}");
                        given_up.push(fault.name());
                        break;
                    }
                };
                println!("{verdict}");
                is_good &= verdict.is_good();
                let before = table.recoveries(&fault.name());
                table.add(&verdict)?;
                // One that breaks the contract, or shows nothing, would be done again for ever.
                if !verdict.report.is_clean() || table.recoveries(&fault.name()) == before {
                    given_up.push(fault.name());
                    break;
                }
            }
        }
        println!("{table}");
        if !given_up.is_empty() {
            println!(
                "given up, since a run broke the contract, measured nothing or could not be judged: {}",
                given_up.join(", ")
            );
            is_good = false;
        }
        Ok(is_good)
    }
}
