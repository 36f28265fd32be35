//! Some faults, each once, and a short mixture of others, under a small load and with short intervals.
//! `cargo run -p cabbage-tests --bin faults` does all of them with a large load and the intervals of the contract.
//!
//! `CABBAGE_FAULT_SEED` draws other jobs, other moments, and another mixture.

use std::env;

use cabbage_tests::faults::{Fault, Plan, run};
use tokio::sync::Mutex;

/// Few, so that all faults together take some two minutes.
const JOBS: u64 = 3_000;
const JOBS_PER_SECOND: u64 = 1_200;
const SEED: u64 = 7;
const BROKERS: usize = 2;

/// Of a mixture, which takes a minute.
const MIXTURE_JOBS: u64 = 9_000;
const MIXTURE_JOBS_PER_SECOND: u64 = 225;
const MIXTURE_BROKERS: usize = 3;

/// One cluster at a time: recoveries are measured.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

async fn survives(fault: Fault) {
    is_survived(Plan { rate: JOBS_PER_SECOND, ..Plan::quick(fault, BROKERS, JOBS, seed()) }).await;
}

fn seed() -> u64 {
    env::var("CABBAGE_FAULT_SEED").ok().map_or(SEED, |seed| seed.parse().expect("a seed is a number"))
}

async fn is_survived(plan: Plan) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let verdict = run(plan).await.expect("a run that can be judged");
    assert!(verdict.is_good(), "{verdict}");
    println!("{verdict}");
}

#[tokio::test]
async fn a_killed_broker_that_is_started_again_goes_on() {
    survives(Fault::KillBrokerRestart).await;
}

#[tokio::test]
async fn the_standby_of_a_killed_broker_goes_on() {
    survives(Fault::KillBrokerStandby).await;
}

#[tokio::test]
async fn the_jobs_of_a_killed_worker_run_again() {
    survives(Fault::KillWorker).await;
}

#[tokio::test]
async fn a_crash_of_the_database_loses_nothing() {
    survives(Fault::RestartPostgresImmediate).await;
}

#[tokio::test]
async fn a_worker_that_was_stopped_for_longer_than_its_session_changes_nothing() {
    survives(Fault::StopWorker).await;
}

#[tokio::test]
async fn a_broker_that_was_stopped_and_continued_writes_nothing() {
    survives(Fault::StopBroker).await;
}

#[tokio::test]
async fn a_mixture_of_faults_loses_nothing() {
    let plan = Plan::short_mixture(MIXTURE_BROKERS, MIXTURE_JOBS, seed());
    is_survived(Plan { rate: MIXTURE_JOBS_PER_SECOND, ..plan }).await;
}

#[tokio::test]
async fn a_client_whose_connection_fell_silent_is_answered_again() {
    survives(Fault::HalfOpenClient).await;
}

#[tokio::test]
async fn relays_whose_links_were_cut_serve_again() {
    survives(Fault::CutLink).await;
}

#[tokio::test]
async fn relays_whose_links_fell_silent_serve_again() {
    survives(Fault::HalfOpenLink).await;
}

#[tokio::test]
async fn what_the_owner_did_and_no_relay_heard_of_is_asked_again() {
    survives(Fault::LoseRepliesLink).await;
}

#[tokio::test]
async fn whoever_was_at_a_killed_relay_is_served_by_another_broker() {
    survives(Fault::KillRelay).await;
}

#[tokio::test]
async fn workers_of_an_owner_whose_database_fell_silent_go_to_the_next_one_in_time() {
    survives(Fault::HalfOpenDatabase).await;
}
