//! The how-to's alphabet: jobs of one lock come in order, whoever is killed meanwhile (C3, C9, C13).

use std::{fs, time::Duration};

use cabbage_tests::cluster::{Cluster, Shape, wait_until};
use cabbage_worker::{Batch, Client, NewJob};

const WORKERS: usize = 4;
const PATIENCE: Duration = Duration::from_mins(2);

/// The file of letters, and that of who begins which.
fn read(cluster: &Cluster, name: &str) -> String {
    fs::read_to_string(cluster.folder().join(name)).unwrap_or_default()
}

/// The worker that writes now, once so many letters are on the paper.
async fn writer_after(cluster: &Cluster, letters: usize) -> usize {
    let writing = || {
        let (paper, begun) = (read(cluster, "paper"), read(cluster, "begun"));
        let last = begun.lines().last().filter(|_| paper.len() >= letters && begun.lines().count() > paper.len())?;
        last.split(' ').next()?.strip_prefix("writer-")?.parse::<usize>().ok()
    };
    let what = format!("a letter is written after {letters} others");
    wait_until(&what, PATIENCE, async || Ok(writing().is_some())).await.expect("somebody writes");
    writing().unwrap_or(0)
}

fn start_writer(cluster: &mut Cluster, number: usize) {
    let folder = cluster.folder().to_owned();
    let file = |name: &str| folder.join(name).display().to_string();
    let options = [("--paper", file("paper")), ("--begun", file("begun"))];
    cluster.start_program("alphabet-worker", &format!("writer-{number}"), options).expect("a writer");
}

#[tokio::test]
async fn the_alphabet_is_written_in_order_though_writers_and_the_owner_are_killed() {
    let shape = Shape { brokers: 2, ..Shape::SMALL };
    let mut cluster = Cluster::start(shape).await.expect("a cluster");
    for number in 0..WORKERS {
        start_writer(&mut cluster, number);
    }
    let addresses: Vec<_> = cluster.brokers.iter().map(|broker| broker.address.to_string()).collect();
    let client = Client::new(addresses).expect("addresses");
    let job = |letter: char| NewJob::named("write_letter").queue("alphabet").lock("/tmp/alphabet.txt").args(letter);
    let ids = client.defer_all(('a'..='z').map(job).collect::<Batch>()).await.expect("26 jobs");

    // In the middle of a letter, its writer dies; another one takes its place.
    let dying = writer_after(&cluster, 4).await;
    cluster.workers[dying].kill().await.expect("a kill");
    start_writer(&mut cluster, WORKERS);
    // Then the broker dies, and the standby takes over.
    writer_after(&cluster, 10).await;
    let (owner, _) = cluster.owner().await.expect("an owner");
    cluster.brokers[owner].process.kill().await.expect("a kill");
    // Then both at once.
    cluster.start_broker_again(owner).expect("a broker");
    cluster.wait_ready(owner).await.expect("a standby");
    let dying = writer_after(&cluster, 18).await;
    cluster.workers[dying].kill().await.expect("a kill");
    let (owner, _) = cluster.owner().await.expect("an owner");
    cluster.brokers[owner].process.kill().await.expect("a kill");

    for id in ids {
        client.wait_at_most(id, PATIENCE).await.expect("every letter is written in the end");
    }
    let paper = read(&cluster, "paper");
    let mut letters: Vec<char> = paper.chars().collect();
    assert!(letters.is_sorted(), "C9: never a lower letter after a higher one: {paper}");
    letters.dedup();
    assert_eq!(letters, ('a'..='z').collect::<Vec<_>>(), "C3: each letter at least once: {paper}");
}
