//! Does faults to a cluster of real processes under load, and says whether the contract was kept.
//!
//! `cargo run --release -p cabbage-tests --bin faults -- --jobs 110000 --fault all --seed 7`

use std::{path::PathBuf, process::ExitCode, time::Duration};

use cabbage_tests::{
    cluster::Intervals,
    faults::{Fault, Plan, run},
};
use clap::Parser;

/// Ends with 0 if every run was good, with 1 if not, with 2 if one could not be judged.
#[derive(Parser)]
struct Line {
    /// The fault, `all` of them in turn, each on a cluster of its own.
    #[arg(long, default_value = "all")]
    fault: String,
    /// Jobs to ask for, in each run.
    #[arg(long, default_value_t = 110_000)]
    jobs: u64,
    /// Jobs per second.
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// Draws the jobs and the moments.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// How often the fault is done in a run. Without it: 1 to 3 times, by the fault.
    #[arg(long)]
    rounds: Option<u32>,
    /// Workers.
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Unfinished jobs in a broker's memory.
    #[arg(long, default_value_t = 2_000)]
    memory_jobs: usize,
    /// Shorten the intervals of the contract (C13), for a quick run.
    #[arg(long)]
    short: bool,
    /// Let PostgreSQL lose what it likes when the machine crashes.
    #[arg(long)]
    no_fsync: bool,
    /// Write all judgements as JSON into this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match judge(&Line::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("faults: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn judge(line: &Line) -> anyhow::Result<bool> {
    let faults = if line.fault == "all" {
        Fault::ALL.to_vec()
    } else {
        let fault = <Fault as clap::ValueEnum>::from_str(&line.fault, false);
        vec![fault.map_err(|error| anyhow::anyhow!("no such fault: {error}"))?]
    };
    let mut verdicts = Vec::new();
    for fault in faults {
        let base = Plan::of(fault, line.jobs, line.seed);
        let (intervals, latest) =
            if line.short { (Intervals::SHORT, Duration::from_secs(3)) } else { (base.intervals, base.latest) };
        let verdict = run(Plan {
            rate: line.rate,
            rounds: line.rounds.unwrap_or(base.rounds),
            workers: line.workers,
            memory_jobs: line.memory_jobs,
            fsync: !line.no_fsync,
            intervals,
            latest,
            ..base
        })
        .await?;
        println!("{verdict}");
        verdicts.push(verdict);
    }
    println!("{:<28}{:<34}{:>10}", "fault", "recovery", "took");
    for verdict in &verdicts {
        for recovery in &verdict.recoveries {
            println!("{recovery}");
        }
    }
    let is_good = verdicts.iter().all(cabbage_tests::faults::Verdict::is_good);
    println!("{}", if is_good { "all good" } else { "FAILED" });
    if let Some(path) = &line.json {
        std::fs::write(path, serde_json::to_vec_pretty(&verdicts)?)?;
    }
    Ok(is_good)
}
