//! A small disk for PostgreSQL, which can be filled. It lives in memory, and to mount it takes root.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
};

use anyhow::Context as _;
use tempfile::TempDir;

/// What is written at once to fill it.
const PIECE_BYTES: usize = 64 << 10;

/// Whether this process may mount one.
pub fn may_mount() -> bool {
    rustix::process::geteuid().is_root()
}

/// The disk. Dropping it takes it away.
#[derive(Debug)]
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    pub(super) fn mount(mib: u32) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("cabbage-disk-").tempdir()?;
        // The server runs as another user.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let options = format!("size={mib}m,mode=0755");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).output();
        let mounted = mounted.context("run mount")?;
        let said = String::from_utf8_lossy(&mounted.stderr);
        anyhow::ensure!(mounted.status.success(), "no disk of its own for PostgreSQL, which takes root: {said}");
        Ok(Self { folder })
    }

    /// Where PostgreSQL is to live.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("postgres")
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("ballast")
    }

    /// Fills it to the last byte.
    pub fn fill(&self) -> io::Result<()> {
        let mut ballast = File::options().create(true).append(true).open(self.ballast())?;
        for size in [PIECE_BYTES, 512, 1] {
            let piece = vec![0; size];
            loop {
                match ballast.write_all(&piece) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Makes room again.
    pub fn empty(&self) -> io::Result<()> {
        fs::remove_file(self.ballast())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still uses it keeps it until then. If it cannot be taken away, its folder stays, and says so.
        let unmounted = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} could not be unmounted", self.folder.path().display());
        }
    }
}
