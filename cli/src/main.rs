#![doc = include_str!("../README.md")]

mod audit;
mod bench;
mod broker;
mod brokers;
mod command;
mod defer;
mod dev;
mod exit;
mod health;
mod jobs;
mod migrate;
mod output;
mod own_broker;
mod queues;
mod refusal;
mod retention;
mod schedules;
mod signals;
mod time;

use std::process::ExitCode;

use clap::Parser as _;
use mimalloc::MiMalloc;

use command::Command;
use output::say;

/// Most of what is made for a call is freed by another thread or in another order, which costs the C library's more.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let command = Command::parse();
    match command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(format_args!("cabbage-cli: {failure}"));
            failure.code()
        }
    }
}
