//! The server's main process.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::account::Account;
use crate::error::ServerError;
use crate::options::Mode;
use crate::watchdog::{Watchdog, lock_file};

/// How often a file or a process is looked at while we wait for it.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How long a server may take to start, recovery after a crash included.
const START_LIMIT: Duration = Duration::from_mins(2);

/// How long a fast stop may take before it becomes an immediate one: it
/// writes a checkpoint.
const FAST_LIMIT: Duration = Duration::from_mins(1);

/// How long an immediate stop may take before the process is killed.
const IMMEDIATE_LIMIT: Duration = Duration::from_secs(10);

/// How much of the log an error shows.
const SHOWN_LOG_LINES: usize = 20;

/// The line of `postmaster.pid` that holds the state, counted from zero.
const STATUS_LINE: usize = 7;

/// What it takes to start the server, once or again.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) account: Account,
    pub(crate) program: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) settings: Vec<(String, String)>,
}

impl Launch {
    /// Starts the server and waits until it accepts connections.
    pub(crate) async fn start(&self, watchdog: &mut Watchdog) -> Result<Postmaster, ServerError> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let log_start = fs::metadata(&self.log).map_or(0, |log| log.len());
            let mut postmaster =
                self.spawn().map_err(|source| ServerError::Program { program: self.program.clone(), source })?;
            watchdog.watch(postmaster.pid()).map_err(ServerError::Watchdog)?;
            let Some(status) = self.settle(&mut postmaster, deadline).await else {
                return if is_ready(&self.data, postmaster.pid()) {
                    Ok(postmaster)
                } else {
                    // Dropping it stops it.
                    drop(postmaster);
                    watchdog.forget();
                    let log = self.new_log(log_start);
                    Err(ServerError::NotReady { seconds: START_LIMIT.as_secs(), log: last_lines(&log) })
                };
            };
            watchdog.forget();
            let log = self.new_log(log_start);
            match verdict(&log) {
                // Processes of a server that was killed notice that it is
                // gone within moments.
                Verdict::Lingering if Instant::now() < deadline => {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                Verdict::AlreadyRunning => {
                    return Err(ServerError::AlreadyRunning { path: self.data.clone(), pid: read_pid(&self.data) });
                }
                Verdict::PortTaken => {
                    return Err(ServerError::PortTaken { log: last_lines(&log) });
                }
                Verdict::Lingering | Verdict::Other => {
                    return Err(ServerError::Exited { status, path: self.log.clone(), log: last_lines(&log) });
                }
            }
        }
    }

    fn spawn(&self) -> io::Result<Postmaster> {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.log)?;
        let mut command = self.account.command(&self.program);
        command
            .arg("-D")
            .arg(&self.data)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in a terminal goes to the whole foreground group; the
            // server must outlive the program that uses it.
            .process_group(0);
        for (name, value) in &self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let child = command.spawn()?;
        Ok(Postmaster { child })
    }

    /// Waits until the server is ready or the deadline has passed (`None`), or
    /// has ended.
    async fn settle(&self, postmaster: &mut Postmaster, deadline: Instant) -> Option<ExitStatus> {
        while Instant::now() < deadline {
            if let Some(status) = postmaster.ended() {
                return Some(status);
            }
            if is_ready(&self.data, postmaster.pid()) {
                return None;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        None
    }

    fn new_log(&self, start: u64) -> String {
        let read = || -> io::Result<String> {
            let mut log = fs::File::open(&self.log)?;
            log.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            log.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| format!("(the log cannot be read: {error})"))
    }
}

/// The running process. Dropping it stops the server at once.
#[derive(Debug)]
pub(crate) struct Postmaster {
    child: Child,
}

impl Postmaster {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops the server, more roughly if it takes too long.
    pub(crate) async fn stop(mut self, mode: Mode) {
        let steps: &[_] = match mode {
            Mode::Fast => &[(Signal::INT, FAST_LIMIT), (Signal::QUIT, IMMEDIATE_LIMIT)],
            Mode::Immediate => &[(Signal::QUIT, IMMEDIATE_LIMIT)],
        };
        for (signal, limit) in steps {
            self.signal(*signal);
            let deadline = Instant::now() + *limit;
            while Instant::now() < deadline {
                if self.ended().is_some() {
                    return;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            tracing::warn!(?signal, ?limit, "PostgreSQL has not stopped in time");
        }
        self.kill();
    }

    /// Kills the main process; its children notice and end by themselves.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn signal(&mut self, signal: Signal) {
        // Not collected, the id cannot have become another process's.
        if self.ended().is_some() {
            return;
        }
        let pid = Pid::from_child(&self.child);
        if let Err(error) = kill_process(pid, signal) {
            tracing::warn!(%error, ?signal, ?pid, "PostgreSQL cannot be signalled");
        }
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        self.signal(Signal::QUIT);
        let deadline = Instant::now() + IMMEDIATE_LIMIT;
        while self.ended().is_none() {
            if Instant::now() > deadline {
                self.signal(Signal::KILL);
                let _ = self.child.wait();
                return;
            }
            // No runtime is needed here, and a stop takes milliseconds.
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Why a server ended before it was ready, as far as its log tells.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    AlreadyRunning,
    Lingering,
    PortTaken,
    Other,
}

fn verdict(log: &str) -> Verdict {
    if log.contains("\"postmaster.pid\" already exists") {
        Verdict::AlreadyRunning
    } else if log.contains("pre-existing shared memory block") {
        Verdict::Lingering
    } else if log.contains("Address already in use") {
        Verdict::PortTaken
    } else {
        Verdict::Other
    }
}

/// Whether the server with this id has written that it accepts connections.
/// The file may be another's: left over by a server that was killed.
fn is_ready(data: &Path, pid: u32) -> bool {
    fs::read_to_string(lock_file(data)).is_ok_and(|text| says_ready(&text, pid))
}

fn says_ready(text: &str, pid: u32) -> bool {
    let mut lines = text.lines();
    lines.next().and_then(|line| line.trim().parse().ok()) == Some(pid)
        && lines.nth(STATUS_LINE - 1).map(str::trim) == Some("ready")
}

fn read_pid(data: &Path) -> Option<u32> {
    let text = fs::read_to_string(lock_file(data)).ok()?;
    text.lines().next()?.trim().parse().ok()
}

fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = "42\n/data\n1790000000\n5432\n/tmp/s\n\n  1 2\nready   \n";

    #[test]
    fn server_is_ready_when_its_lock_file_says_so() {
        assert!(says_ready(READY, 42));
        assert!(!says_ready(&READY.replace("ready   ", "starting"), 42));
        assert!(!says_ready("42\n/data\n", 42));
    }

    #[test]
    fn lock_file_of_a_dead_server_is_not_ours() {
        assert!(!says_ready(READY, 43));
    }

    #[test]
    fn log_tells_why_a_server_did_not_start() {
        assert_eq!(verdict("FATAL:  lock file \"postmaster.pid\" already exists\nHINT: …"), Verdict::AlreadyRunning);
        assert_eq!(
            verdict("FATAL:  pre-existing shared memory block (key 1, ID 2) is still in use"),
            Verdict::Lingering
        );
        assert_eq!(
            verdict("LOG:  could not bind IPv4 address \"127.0.0.1\": Address already in use"),
            Verdict::PortTaken
        );
        assert_eq!(verdict("FATAL:  unrecognized parameter"), Verdict::Other);
    }
}
