//! What a worker says of itself, read on while it writes.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
};

use uuid::Uuid;

use crate::history::{JournalReader, LeaseName, WorkerEvent, WorkerStep};

/// Where a worker stands by its own journal. Each line is read once: looks follow each other closely, on the thread that
/// carries the cables of the cluster.
#[derive(Debug)]
pub(super) struct Diary {
    journal: JournalReader,
    /// Lines that were read.
    read: usize,
    session: Option<Uuid>,
    /// How often it was welcomed.
    welcomes: usize,
    /// Where the handler of each delivery started, and whether the owner must know that it was received: it has answered
    /// for a result that came later.
    running: HashMap<LeaseName, (usize, bool)>,
    /// Where each ended whose result was not answered for.
    ended: HashMap<LeaseName, usize>,
}

impl Diary {
    /// Reads what there is.
    pub(super) fn open(journal: &Path) -> io::Result<Self> {
        let mut diary = Self {
            journal: JournalReader::open(journal)?,
            read: 0,
            session: None,
            welcomes: 0,
            running: HashMap::new(),
            ended: HashMap::new(),
        };
        diary.read_on()?;
        Ok(diary)
    }

    /// Reads what was written since.
    pub(super) fn read_on(&mut self) -> io::Result<()> {
        for event in self.journal.more::<WorkerEvent>()? {
            self.note(&event.step);
        }
        Ok(())
    }

    fn note(&mut self, step: &WorkerStep) {
        let place = self.read;
        self.read += 1;
        match step {
            WorkerStep::Start { lease, .. } => {
                self.running.insert(*lease, (place, false));
            }
            WorkerStep::End { lease, .. } => {
                self.running.remove(lease);
                self.ended.insert(*lease, place);
            }
            WorkerStep::Acknowledged { lease, .. } => {
                let end = self.ended.remove(lease).unwrap_or_default();
                for (start, is_known) in self.running.values_mut() {
                    *is_known |= *start < end;
                }
            }
            WorkerStep::Welcome { session, .. } => {
                self.session = Some(*session);
                self.welcomes += 1;
            }
        }
    }

    /// Whether handlers run, and the owner must know of one that its job was received.
    pub(super) fn is_busy(&self) -> bool {
        self.running.len() >= 2 && self.running.values().any(|(_, is_known)| *is_known)
    }

    /// The deliveries whose handlers run.
    pub(super) fn running(&self) -> HashSet<LeaseName> {
        self.running.keys().copied().collect()
    }

    /// How often it was welcomed.
    pub(super) fn welcomes(&self) -> usize {
        self.welcomes
    }

    /// The session that it has.
    pub(super) fn session(&self) -> anyhow::Result<Uuid> {
        self.session.ok_or_else(|| anyhow::anyhow!("the worker has no session"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{End, Journal};

    #[test]
    fn worker_is_busy_once_the_owner_has_answered_for_a_later_result() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("worker-0.jsonl");
        let journal = Journal::open(&path, "worker-0").expect("a file");
        let write = |step| journal.write([WorkerEvent { stamp: journal.stamp(), step }]);
        let lease = |job| LeaseName { job, delivery: 1, nonce: 7 };
        let start = |job| WorkerStep::Start { lease: lease(job), attempt: 1 };

        let mut diary = Diary::open(&path).expect("read");
        assert!(diary.session().is_err());
        write(WorkerStep::Welcome { session: Uuid::from_u128(1), resumed: false, term: 1 });
        (1..=3).for_each(|job| write(start(job)));
        write(WorkerStep::End { lease: lease(1), end: End::Succeeded });
        diary.read_on().expect("read");
        assert!(!diary.is_busy());
        assert_eq!(diary.session().expect("it has one"), Uuid::from_u128(1));
        assert_eq!(diary.welcomes(), 1);
        assert_eq!(diary.running(), [2, 3].map(lease).into());

        write(WorkerStep::Acknowledged { lease: lease(1), end: End::Succeeded, code: 1, probe: false });
        write(start(4));
        diary.read_on().expect("read");
        assert!(diary.is_busy());

        for job in [2, 3] {
            write(WorkerStep::End { lease: lease(job), end: End::Succeeded });
        }
        diary.read_on().expect("read");
        assert!(!diary.is_busy(), "one alone");
    }
}
