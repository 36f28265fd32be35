//! Checks the history of a run: the journals in a folder, and a database.

use std::{path::PathBuf, process::ExitCode};

use cabbage_tests::{
    checker::{Rules, check},
    history::{History, load_database, read_journals},
};
use clap::Parser;

/// Says whether a run kept the contract. Ends with 0 if it did, with 1 if not, with 2 if that cannot be said.
#[derive(Parser)]
struct Line {
    /// The folder with `client-*.jsonl` and `worker-*.jsonl`.
    #[arg(long)]
    journals: PathBuf,
    /// The database.
    #[arg(long)]
    database_url: String,
    /// The schema of the cell.
    #[arg(long, default_value_t)]
    schema: cabbage_migrations::Schema,
    /// Jobs may still be unfinished.
    #[arg(long)]
    not_drained: bool,
    /// Write JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Line::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("check-history: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(line: &Line) -> anyhow::Result<bool> {
    let mut history =
        History { database: load_database(&line.database_url, &line.schema).await?, ..History::default() };
    read_journals(&line.journals, &mut history)?;
    let report = check(&history, Rules { drained: !line.not_drained, ..Rules::default() });
    if line.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(report.is_clean())
}
