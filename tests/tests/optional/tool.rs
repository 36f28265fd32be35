//! Tools that a suite needs and a machine may lack.

use std::{
    env,
    io::{self, Write as _},
    process::{Command, Stdio},
};

/// Whether a command can be run and ends well. What it prints is dropped.
pub(crate) fn works(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Says that a suite is not run, and why. Where this variable of the environment is 1, that is a failure.
pub(crate) fn not_run(why: &str, demanded_by: &str) {
    let demanded = env::var(demanded_by).is_ok_and(|value| value == "1");
    assert!(!demanded, "{why}, and {demanded_by}=1 demands it");
    // The harness keeps to itself what passing tests print in other ways.
    writeln!(io::stderr(), "not run: {why}").expect("standard error is open");
}
