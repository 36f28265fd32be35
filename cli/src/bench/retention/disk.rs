//! How long the disk takes to keep a little, with nothing else to do: what a commit waits for at least.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

/// What one commit of a few jobs writes, about.
const PAGE_BYTES: usize = 8 << 10;
/// The file that is written over and over, like a segment of WAL.
const FILE_PAGES: u64 = 2_048;
/// The pause between two, as between commits.
const PAUSE: Duration = Duration::from_millis(2);

/// Writes a page and waits until it is kept, again and again; gives how long each took.
pub(super) fn syncs(folder: &Path, for_time: Duration) -> anyhow::Result<Vec<Duration>> {
    let path = folder.join("cabbage-bench-disk");
    let measured = measure(&path, for_time).with_context(|| format!("cannot write {}", path.display()));
    // There is none if it could not even be made.
    let _removed = fs::remove_file(&path);
    measured
}

fn measure(path: &Path, for_time: Duration) -> std::io::Result<Vec<Duration>> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let page = [0; PAGE_BYTES];
    for at in 0..FILE_PAGES {
        file.write_all_at(&page, at * PAGE_BYTES as u64)?;
    }
    file.sync_all()?;
    let (began, mut took) = (Instant::now(), Vec::new());
    for at in (0..FILE_PAGES).cycle() {
        if began.elapsed() >= for_time {
            break;
        }
        file.write_all_at(&page, at * PAGE_BYTES as u64)?;
        let start = Instant::now();
        file.sync_data()?;
        took.push(start.elapsed());
        thread::sleep(PAUSE);
    }
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_wrote_is_gone_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!syncs(folder.path(), Duration::from_millis(1)).unwrap().is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
