//! What the server's log says of locks that were waited for.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;

/// The log of a server that tells of waits, and how far it was read.
pub(super) struct ServerLog {
    path: PathBuf,
    read: u64,
    /// The process that commits.
    writer: u32,
}

impl ServerLog {
    pub(super) fn new(path: PathBuf, writer: u32) -> Self {
        Self { path, read: 0, writer }
    }

    /// The longest wait of a commit for any lock since the last time. `None`: there was none of 10 ms or more.
    pub(super) fn longest_wait(&mut self) -> anyhow::Result<Option<Duration>> {
        let mut text = Vec::new();
        let mut file = File::open(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?;
        file.seek(SeekFrom::Start(self.read))?;
        self.read += file.read_to_end(&mut text)? as u64;
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().filter_map(|line| wait_of(line, self.writer)).max())
    }
}

/// How long this process waited for a lock, if the line says so.
fn wait_of(line: &str, pid: u32) -> Option<Duration> {
    let of_process = line.split_once(&format!("process {pid} "))?.1;
    let (_, after) = of_process.rsplit_once(" after ")?;
    let ms: f64 = after.split(' ').next()?.parse().ok()?;
    Some(Duration::from_secs_f64(ms / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_waits_of_the_process_count() {
        let line = "2030-01-01 LOG:  process 42 acquired RowExclusiveLock on relation 7 of database 5 after 43.210 ms";
        assert_eq!(wait_of(line, 42), Some(Duration::from_micros(43_210)));
        assert_eq!(wait_of(line, 4), None);
        assert_eq!(wait_of("LOG:  checkpoint complete: wrote 42 buffers", 42), None);
    }
}
