//! What stops the server when this process cannot.
//!
//! A process that is killed runs no destructors, and neither do the statics of
//! a test that ends. So a small shell holds the reading end of a pipe whose
//! only writing end is ours: when we are gone, however that came about, it
//! reads the end of the file, stops the server and removes what was temporary.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Arguments: the signal, the server's lock file, then what to remove.
///
/// Lines read: the server's process id, `none` when it has been stopped,
/// `done` when there is nothing left to do.
///
/// The lock file tells when the server has ended. Its process id alone does
/// not: in a container nobody may collect it, and it stays as a zombie.
const SCRIPT: &str = r#"
trap '' HUP INT
signal=$1; lock=$2; shift 2
pid=
while read -r line; do
    case $line in
        done) exit 0 ;;
        none) pid= ;;
        *) pid=$line ;;
    esac
done
running() { [ -e "$lock" ] && kill -0 "$pid" 2>/dev/null; }
if [ -n "$pid" ]; then
    kill -s "$signal" "$pid" 2>/dev/null
    tenths=0
    while running && [ "$tenths" -lt 600 ]; do
        sleep 0.1
        tenths=$((tenths + 1))
    done
    if running; then kill -s KILL "$pid" 2>/dev/null; fi
fi
[ "$#" -eq 0 ] || rm -rf -- "$@"
"#;

/// What the watchdog does to a server it outlives us with.
#[derive(Debug)]
pub(crate) struct LastWill {
    /// The signal, as `kill -s` names it.
    pub(crate) signal: &'static str,
    /// The server's `postmaster.pid`.
    pub(crate) lock: PathBuf,
    /// The folders to remove afterwards.
    pub(crate) remove: Vec<PathBuf>,
}

/// The running shell. Dropping it tells it that there is nothing to do.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shell: Child,
    pipe: ChildStdin,
}

impl Watchdog {
    pub(crate) fn start(will: &LastWill) -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "cabbage-postgres-watchdog", will.signal])
            .arg(&will.lock)
            .args(&will.remove)
            .current_dir("/")
            .stdin(Stdio::piped())
            // Whoever reads our output must not wait for the watchdog's.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C and the signals of test runners go to process groups.
            .process_group(0)
            .spawn()?;
        let pipe = shell.stdin.take().expect("stdin was asked to be a pipe");
        Ok(Self { shell, pipe })
    }

    /// From now on this process is stopped when we are gone.
    ///
    /// Should we be killed between starting a server and this call, a
    /// temporary server still ends: it checks once a minute whether its lock
    /// file is there, and the watchdog removes that.
    pub(crate) fn watch(&mut self, pid: u32) -> io::Result<()> {
        writeln!(self.pipe, "{pid}")
    }

    /// The process has ended, and its id may soon be another's.
    pub(crate) fn forget(&mut self) {
        self.tell("none");
    }

    fn tell(&mut self, line: &str) {
        if let Err(error) = writeln!(self.pipe, "{line}") {
            tracing::warn!(%error, "the watchdog of PostgreSQL is gone");
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.tell("done");
        // It ends at once; waiting leaves no zombie.
        let _ = self.shell.wait();
    }
}

/// The lock file of the server with this data folder.
pub(crate) fn lock_file(data: &Path) -> PathBuf {
    data.join("postmaster.pid")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn will(folder: &Path) -> LastWill {
        LastWill { signal: "QUIT", lock: lock_file(folder), remove: vec![folder.to_path_buf()] }
    }

    #[test]
    fn closed_pipe_removes_what_was_temporary() {
        let folder = tempfile::tempdir().unwrap().keep();
        fs::write(folder.join("file"), "").unwrap();
        let mut watchdog = Watchdog::start(&will(&folder)).unwrap();
        // Closing the pipe is what our death would do.
        let Watchdog { shell, pipe } = &mut watchdog;
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        *pipe = std::process::ChildStdin::from(std::os::fd::OwnedFd::from(writer));
        shell.wait().unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn dismissed_watchdog_removes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(Watchdog::start(&will(folder.path())).unwrap());
        assert!(folder.path().exists());
    }
}
