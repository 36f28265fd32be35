//! Runs the real program, and waits for nothing but what it says.

use std::{
    io::{BufRead as _, BufReader, Lines},
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
};

/// The program, free of what the tester's own environment says.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cabbage-cli"));
    for name in ["CABBAGE_BROKER", "CABBAGE_ADMIN", "CABBAGE_DATABASE_URL", "DATABASE_URL"] {
        command.env_remove(name);
    }
    command
}

/// A `dev` on free ports, with its jobs in memory.
pub(crate) struct Dev {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    pub(crate) broker: String,
    pub(crate) admin: String,
}

impl Dev {
    pub(crate) fn start(options: &[&str]) -> Self {
        let mut child = program()
            .args(["dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let output = child.stdout.take().expect("a piped output");
        let mut lines = BufReader::new(output).lines();
        let (mut broker, mut admin) = (String::new(), String::new());
        loop {
            let line = lines.next().expect("it says that it is ready").expect("readable output");
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("broker"), Some(address)) => address.clone_into(&mut broker),
                (Some("metrics"), Some(address)) => admin = address.replace("/metrics", ""),
                _ if line.starts_with("ready;") => break,
                _ => {}
            }
        }
        Self { child, lines, broker, admin }
    }

    /// In memory.
    pub(crate) fn in_memory() -> Self {
        Self::start(&["--store", "memory"])
    }

    /// Runs a command against it.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(program().args(args).env("CABBAGE_BROKER", &self.broker))
    }

    /// Reads until a line holds this text.
    pub(crate) fn line_with(&mut self, text: &str) -> String {
        let mut lines = self.lines.by_ref().map(|line| line.expect("readable output"));
        lines.find(|line| line.contains(text)).unwrap_or_else(|| panic!("it never said {text:?}"))
    }

    /// Sends a signal, and waits for the end.
    pub(crate) fn stop_by(mut self, signal: &str) -> ExitStatus {
        let kill = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        // Whoever does not read holds up who writes.
        self.lines.by_ref().for_each(drop);
        self.child.wait().expect("it ends")
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.lines.by_ref().for_each(drop);
        self.child.wait().expect("it ends")
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().expect("the program starts");
        Self {
            code: status.code().expect("no signal ended it"),
            out: String::from_utf8(stdout).expect("text"),
            err: String::from_utf8(stderr).expect("text"),
        }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}
