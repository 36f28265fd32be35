//! A worker of the how-to's alphabet: writes letters to a file, each after a random time. It ends when its input does.

use std::{fs::File, io::Write as _, path::PathBuf, sync::Mutex, time::Duration};

use cabbage_tests::lifeline;
use cabbage_worker::{Context, TaskError, Worker};
use clap::Parser;
use rand::Rng as _;

/// A letter takes between these times.
const LETTER_MS: std::ops::Range<u64> = 40..160;

#[derive(Parser)]
struct Line {
    /// The brokers, with commas.
    #[arg(long)]
    brokers: String,
    /// The name of this process.
    #[arg(long)]
    name: String,
    /// The file of letters.
    #[arg(long)]
    paper: PathBuf,
    /// The file of who begins which letter.
    #[arg(long)]
    begun: PathBuf,
}

struct Desk {
    name: String,
    paper: Mutex<File>,
    begun: Mutex<File>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let line = Line::parse();
    lifeline::end_with_stdin();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let append = |path| File::options().create(true).append(true).open(path);
    let desk = Desk { name: line.name.clone(), paper: append(line.paper)?.into(), begun: append(line.begun)?.into() };
    let addresses: Vec<String> = line.brokers.split(',').map(str::to_owned).collect();
    let worker = Worker::builder(addresses).name(line.name).queues(["alphabet"]).state(desk);
    worker.concurrency(8).function("write_letter", write_letter).build()?.run().await;
    Ok(())
}

async fn write_letter(letter: char, ctx: Context<Desk>) -> Result<(), TaskError> {
    let desk = ctx.state();
    append(&desk.begun, &format!("{} {letter}\n", desk.name))?;
    let work = Duration::from_millis(rand::rng().random_range(LETTER_MS));
    tokio::time::sleep(work).await;
    append(&desk.paper, &letter.to_string())
}

/// One write, so that no other process comes between its bytes.
fn append(file: &Mutex<File>, text: &str) -> Result<(), TaskError> {
    let mut file = file.lock().map_err(|_| TaskError::new("Poisoned", "somebody dropped the pen"))?;
    Ok(file.write_all(text.as_bytes())?)
}
