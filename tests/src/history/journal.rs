//! Lines of JSON that survive the process that writes them.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    sync::{Mutex, PoisonError},
};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::History;

/// When a line was written, and by which process. Both clocks are those of the machine, so the lines of its processes
/// can be compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stamp {
    /// Microseconds since 1970.
    pub wall: i64,
    /// Microseconds of the machine's monotonic clock.
    pub mono: i64,
    /// The name of the process.
    pub process: String,
}

impl Stamp {
    /// Now.
    pub fn now(process: &str) -> Self {
        let micros = |clock| {
            let time = clock_gettime(clock);
            time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
        };
        Self { wall: micros(ClockId::Realtime), mono: micros(ClockId::Monotonic), process: process.to_owned() }
    }
}

/// A file of lines. Each line is with the kernel before [`Journal::write`] returns, so `kill -9` loses none.
#[derive(Debug)]
pub struct Journal {
    file: Mutex<File>,
    process: String,
}

impl Journal {
    /// Opens the file to append to it.
    pub fn open(path: &Path, process: &str) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file: Mutex::new(file), process: process.to_owned() })
    }

    /// The time, in the name of this process.
    pub fn stamp(&self) -> Stamp {
        Stamp::now(&self.process)
    }

    /// Writes lines, all at once.
    ///
    /// # Panics
    /// If the file cannot be written: without its log the process must not go on.
    pub fn write<E: Serialize>(&self, events: impl IntoIterator<Item = E>) {
        let mut lines = Vec::new();
        for event in events {
            serde_json::to_writer(&mut lines, &event).expect("an event is JSON");
            lines.push(b'\n');
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&lines).expect("the log can be written");
    }
}

/// Reads a journal from its beginning, and on as its process writes it.
#[derive(Debug)]
pub struct JournalReader {
    file: BufReader<File>,
    /// The beginning of a line whose end is not written yet.
    line: Vec<u8>,
}

impl JournalReader {
    /// Opens the file.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: BufReader::new(File::open(path)?), line: Vec::new() })
    }

    /// What was written since the last time.
    pub fn more<E: DeserializeOwned>(&mut self) -> io::Result<Vec<E>> {
        let mut events = Vec::new();
        loop {
            if self.file.read_until(b'\n', &mut self.line)? == 0 || self.line.last() != Some(&b'\n') {
                return Ok(events);
            }
            events.push(serde_json::from_slice(&self.line)?);
            self.line.clear();
        }
    }
}

/// Reads a whole journal. A last line that was cut off by the end of its process is left out.
fn read_journal<E: DeserializeOwned>(path: &Path) -> io::Result<Vec<E>> {
    JournalReader::open(path)?.more()
}

/// Reads all journals of a folder: `client-*.jsonl` and `worker-*.jsonl`.
pub fn read_journals(folder: &Path, history: &mut History) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("client-") {
            history.clients.extend(read_journal(&path)?);
        } else if name.starts_with("worker-") {
            history.workers.extend(read_journal(&path)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Asked, ClientEvent, ClientStep, End, LeaseName, WorkerEvent, WorkerStep};

    #[test]
    fn what_is_written_is_read_and_a_line_that_is_cut_off_once_it_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("client-1.jsonl");
        let journal = Journal::open(&path, "client-1").expect("a file");
        let asked = Asked::Defer { keys: vec!["k".into()] };
        let event = ClientEvent { stamp: journal.stamp(), request: "r".into(), step: ClientStep::Invoke { asked } };
        journal.write([&event, &event]);
        let append = |bytes: &[u8]| {
            let file = OpenOptions::new().append(true).open(&path);
            file.and_then(|mut file| file.write_all(bytes)).expect("more of the file");
        };
        let line = serde_json::to_string(&event).expect("an event is JSON") + "\n";
        let (start, rest) = line.split_at(10);
        append(start.as_bytes());
        assert_eq!(read_journal::<ClientEvent>(&path).expect("lines"), [event.clone(), event.clone()]);

        let mut reader = JournalReader::open(&path).expect("the file");
        assert_eq!(reader.more::<ClientEvent>().expect("lines"), [event.clone(), event.clone()]);
        assert!(reader.more::<ClientEvent>().expect("no line").is_empty());
        append(rest.as_bytes());
        assert_eq!(reader.more::<ClientEvent>().expect("a line"), [event]);
    }

    #[test]
    fn large_nonces_survive_json() {
        let lease = LeaseName { job: 1, delivery: 2, nonce: u64::MAX - 1 };
        let step = WorkerStep::Acknowledged { lease, end: End::Failed, code: 4, probe: true };
        let event = WorkerEvent { stamp: Stamp::default(), step };
        let text = serde_json::to_string(&event).expect("JSON");
        assert_eq!(serde_json::from_str::<WorkerEvent>(&text).expect("an event"), event);
    }
}
