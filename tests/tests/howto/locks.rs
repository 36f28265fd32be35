//! `locks.md`: the alphabet, in both modes.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use cabbage_worker::{Client, Context, LockMode, Task, Worker, testing::TestBroker};
use tempfile::TempDir;

use crate::page::Page;

const HOUR: Duration = Duration::from_hours(1);

struct Paper(PathBuf);

struct WriteLetter;

impl Task for WriteLetter {
    const NAME: &'static str = "write_letter";
    type Args = char;
    type Output = ();
    type Error = io::Error;
    type State = Paper;

    async fn run(letter: char, ctx: Context<Paper>) -> io::Result<()> {
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..20))).await;
        write!(OpenOptions::new().create(true).append(true).open(&ctx.state().0)?, "{letter}")
    }
}

/// Runs what is there with eight handlers at once, and gives what is on the paper then.
async fn written(address: &str, paper: &Path) -> anyhow::Result<String> {
    let worker = Worker::builder(address).state(Paper(paper.to_owned())).task::<WriteLetter>();
    worker.concurrency(8).build()?.run_until_caught_up().await;
    Ok(fs::read_to_string(paper)?)
}

#[tokio::test]
async fn letters_with_a_lock_come_in_order() -> anyhow::Result<()> {
    let (broker, folder) = (TestBroker::start().await, TempDir::new()?);
    let (client, address, paper) = (broker.client(), broker.address(), folder.path().join("alphabet.txt"));
    for letter in ['a', 'b', 'c', 'd'] {
        client.defer::<WriteLetter>(letter).lock("alphabet.txt").await?;
    }
    let worker = Worker::builder(address).state(Paper(paper.clone())).task::<WriteLetter>();
    worker.concurrency(8).build()?.run_until_caught_up().await;
    assert_eq!(fs::read_to_string(&paper)?, "abcd");
    Ok(())
}

async fn an_hour_apart(client: &Client) -> anyhow::Result<()> {
    client.defer::<WriteLetter>('a').lock("alphabet.txt").schedule_in(HOUR).await?;
    client.defer::<WriteLetter>('b').lock("alphabet.txt").await?;
    Ok(())
}

async fn strictly_an_hour_apart(client: &Client) -> anyhow::Result<()> {
    client.defer::<WriteLetter>('a').lock("alphabet.txt").lock_mode(LockMode::Strict).schedule_in(HOUR).await?;
    client.defer::<WriteLetter>('b').lock("alphabet.txt").lock_mode(LockMode::Strict).await?;
    Ok(())
}

#[tokio::test]
async fn a_job_that_waits_for_its_time_lets_others_pass() -> anyhow::Result<()> {
    let (broker, folder) = (TestBroker::start().await, TempDir::new()?);
    let paper = folder.path().join("alphabet.txt");
    an_hour_apart(broker.client()).await?;
    assert_eq!(written(broker.address(), &paper).await?, "b");
    broker.advance(HOUR).await;
    assert_eq!(written(broker.address(), &paper).await?, "ba");
    Ok(())
}

#[tokio::test]
async fn a_strict_job_waits_for_those_before_it() -> anyhow::Result<()> {
    let (broker, folder) = (TestBroker::start().await, TempDir::new()?);
    let paper = folder.path().join("alphabet.txt");
    strictly_an_hour_apart(broker.client()).await?;
    assert!(written(broker.address(), &paper).await.is_err(), "nothing is written yet");
    broker.advance(HOUR).await;
    assert_eq!(written(broker.address(), &paper).await?, "ab");
    Ok(())
}

#[tokio::test]
async fn what_the_page_on_locks_says_can_be_typed() {
    let broker = TestBroker::start().await;
    Page::open("locks").code_is_in(include_str!("locks.rs")).on(&broker).run().await;
}
