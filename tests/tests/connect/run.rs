//! Runs the real programs, free of what the tester's own environment says.

use std::{
    env,
    path::Path,
    process::{Command, Output, Stdio},
};

use cabbage_tests::cluster::Programs;

/// What begins the names of the variables that the programs read.
const OURS: [&str; 3] = ["PG", "CABBAGE_", "DATABASE_URL"];

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// It did what it was asked.
    #[track_caller]
    pub(crate) fn succeeds(&self) {
        assert_eq!(self.code, 0, "{self:?}");
    }

    /// It failed with this exit code, and said all of this.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for part in said {
            assert!(self.err.contains(part), "{part:?} is missing: {}", self.err);
        }
    }
}

/// `cabbage-cli migrate` with these options and variables.
pub(crate) async fn migrate(options: &[&str], variables: &[(&str, &str)]) -> Ran {
    let programs = Programs::find().await.expect("the programs are built");
    run(&programs.cli, &[&["migrate"], options].concat(), variables).await
}

/// A program with these options and variables; its home is a folder that is not there.
pub(crate) async fn run(program: &Path, options: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if OURS.iter().any(|ours| name.to_string_lossy().starts_with(ours)) {
            command.env_remove(name);
        }
    }
    command.args(options).env("HOME", "/no/home").envs(variables.iter().copied()).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let Output { status, stdout, stderr } = output.expect("the program starts");
    Ran {
        code: status.code().expect("no signal ended it"),
        out: String::from_utf8(stdout).expect("text"),
        err: String::from_utf8(stderr).expect("text"),
    }
}
