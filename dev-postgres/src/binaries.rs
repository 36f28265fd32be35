//! The server programs: those of the machine first, downloaded ones else.

use std::cmp::Reverse;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::account::{Account, NoAccount};
use crate::download::{self, Cache, DownloadError};

/// The oldest major version cabbage works with.
pub const OLDEST_MAJOR: u32 = 15;

/// The major version that is downloaded when any will do.
const DOWNLOADED_MAJOR: u32 = 18;

/// Names a folder of server programs, to be used before all others.
const BIN_VARIABLE: &str = "CABBAGE_POSTGRES_BIN";
/// `no` hides the machine's own PostgreSQL.
const SYSTEM_VARIABLE: &str = "CABBAGE_POSTGRES_SYSTEM";
/// `no` forbids downloads.
const FETCH_VARIABLE: &str = "CABBAGE_POSTGRES_FETCH";

/// The programs a usable folder must hold.
const PROGRAMS: [&str; 3] = ["postgres", "initdb", "pg_ctl"];

/// Folders in which packages keep one sub-folder per major version: parent,
/// what the sub-folder's name starts with, and the way on to the programs.
const PACKAGE_FOLDERS: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),          // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"),                   // the packages of postgresql.org for Red Hat
    ("/usr/libexec", "postgresql", ""),          // Alpine
    ("/opt/homebrew/opt", "postgresql@", "bin"), // Homebrew on Apple processors
    ("/usr/local/opt", "postgresql@", "bin"),    // Homebrew on Intel processors
];

/// Which PostgreSQL is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VersionWish {
    /// Any that cabbage works with: [`OLDEST_MAJOR`] or newer.
    #[default]
    Any,
    /// This major version and no other.
    Major(u32),
}

impl VersionWish {
    fn is_met_by(self, major: u32) -> bool {
        match self {
            Self::Any => major >= OLDEST_MAJOR,
            Self::Major(wanted) => major == wanted,
        }
    }

    fn major_to_download(self) -> u32 {
        match self {
            Self::Any => DOWNLOADED_MAJOR,
            Self::Major(wanted) => wanted,
        }
    }
}

impl std::fmt::Display for VersionWish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => write!(f, "PostgreSQL {OLDEST_MAJOR} or newer"),
            Self::Major(major) => write!(f, "PostgreSQL {major}"),
        }
    }
}

/// A folder with `postgres`, `initdb` and `pg_ctl` that run on this machine,
/// as the account servers run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    folder: PathBuf,
    version: String,
    major: u32,
}

/// Why no server programs were found. Every message names a remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BinariesError {
    /// `CABBAGE_POSTGRES_BIN` names a folder that cannot be used.
    #[error(
        "CABBAGE_POSTGRES_BIN names {}, which cannot be used: {reason}; set it to the folder \
         that holds `postgres` and `initdb`, or unset it", .folder.display()
    )]
    Override {
        /// The folder named.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The machine has none that fits, and downloads are switched off.
    #[error(
        "{wish} is not on this machine and CABBAGE_POSTGRES_FETCH=no forbids downloading it; \
         install it (for instance `apt-get install postgresql`), name its folder of programs in \
         CABBAGE_POSTGRES_BIN, or unset CABBAGE_POSTGRES_FETCH"
    )]
    Missing {
        /// What was wanted.
        wish: VersionWish,
    },
    /// The machine has none that fits, and the download failed.
    #[error(
        "{wish} is not on this machine and downloading it failed: {source}; check the network \
         and HTTPS_PROXY, install it (for instance `apt-get install postgresql`), or name its \
         folder of programs in CABBAGE_POSTGRES_BIN"
    )]
    Download {
        /// What was wanted.
        wish: VersionWish,
        /// What failed.
        source: DownloadError,
    },
    /// What was downloaded does not run here.
    #[error(
        "the PostgreSQL downloaded to {} does not run on this machine: {reason}; install \
         PostgreSQL from the system's packages and name its folder of programs in \
         CABBAGE_POSTGRES_BIN", .folder.display()
    )]
    DownloadUnusable {
        /// The folder of the downloaded programs.
        folder: PathBuf,
        /// What happened when one was run.
        reason: String,
    },
    /// The process runs as root and has nobody to give way to.
    #[error(transparent)]
    NoAccount(#[from] NoAccount),
}

impl Binaries {
    /// Finds server programs: the folder named by `CABBAGE_POSTGRES_BIN`,
    /// then `PATH`, then the folders packages install to (newest first), then
    /// what was downloaded before; else downloads them, which takes seconds
    /// and some 60 MB of disk.
    pub async fn find(wish: VersionWish) -> Result<Self, BinariesError> {
        Search::from_environment(Account::for_servers()?).run(wish).await
    }

    /// Finds server programs of exactly this major version.
    pub async fn version(major: u32) -> Result<Self, BinariesError> {
        Self::find(VersionWish::Major(major)).await
    }

    /// The folder that holds the programs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of one program, such as `postgres`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The major version, such as 18.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The version as the server spells it, such as `18.1`.
    pub fn full_version(&self) -> &str {
        &self.version
    }

    /// Looks at a folder; the error says what is wrong with it.
    fn probe(folder: &Path, account: &Account) -> Result<Self, String> {
        // Distributions put single links into /usr/bin; the programs look for
        // each other, and for their shared files, next to the link's target.
        let postgres =
            fs::canonicalize(folder.join("postgres")).map_err(|error| format!("no `postgres` in it ({error})"))?;
        let folder = postgres.parent().unwrap_or(folder).to_path_buf();
        if let Some(missing) = PROGRAMS.iter().find(|name| !folder.join(name).is_file()) {
            return Err(format!("no `{missing}` in {}", folder.display()));
        }
        let output = account
            .command(&postgres)
            .arg("--version")
            .output()
            .map_err(|error| format!("`postgres` does not run as {}: {error}", account.name()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (version, major) = parse_version(&text).ok_or_else(|| {
            let complaint = String::from_utf8_lossy(&output.stderr);
            format!("`postgres --version` did not answer with a version: {}{}", text.trim(), complaint.trim())
        })?;
        Ok(Self { folder, version, major })
    }
}

/// One search, with everything it depends on stated.
#[derive(Debug)]
struct Search {
    account: Account,
    named: Option<PathBuf>,
    system: Vec<PathBuf>,
    fetch: bool,
    cache: Cache,
}

impl Search {
    fn from_environment(account: Account) -> Self {
        let system = if is_no(env::var_os(SYSTEM_VARIABLE)) { Vec::new() } else { system_folders() };
        Self {
            account,
            named: env::var_os(BIN_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from),
            system,
            fetch: !is_no(env::var_os(FETCH_VARIABLE)),
            cache: Cache::of_this_user(),
        }
    }

    async fn run(self, wish: VersionWish) -> Result<Binaries, BinariesError> {
        if let Some(folder) = &self.named {
            let named = Binaries::probe(folder, &self.account).and_then(|binaries| {
                if binaries.major >= OLDEST_MAJOR {
                    Ok(binaries)
                } else {
                    Err(format!("it holds version {}, and cabbage needs {OLDEST_MAJOR} or newer", binaries.version))
                }
            });
            match named {
                Ok(binaries) if wish.is_met_by(binaries.major) => return Ok(binaries),
                // A test that demands the oldest or the newest gets it, even
                // where the folder named holds something in between.
                Ok(_) => {}
                // Falling back silently would hide a typing error.
                Err(reason) => {
                    return Err(BinariesError::Override { folder: folder.clone(), reason });
                }
            }
        }

        for folder in &self.system {
            match Binaries::probe(folder, &self.account) {
                Ok(binaries) if wish.is_met_by(binaries.major) => return Ok(binaries),
                Ok(_) => {}
                Err(reason) => tracing::debug!(folder = %folder.display(), reason, "passed over"),
            }
        }

        let major = wish.major_to_download();
        if let Some(folder) = self.cache.newest(major) {
            match Binaries::probe(&folder, &self.account) {
                Ok(binaries) => return Ok(binaries),
                Err(reason) => return Err(BinariesError::DownloadUnusable { folder, reason }),
            }
        }
        if !self.fetch {
            return Err(BinariesError::Missing { wish });
        }
        let folder =
            download::download(&self.cache, major).await.map_err(|source| BinariesError::Download { wish, source })?;
        Binaries::probe(&folder, &self.account).map_err(|reason| BinariesError::DownloadUnusable { folder, reason })
    }
}

fn is_no(value: Option<OsString>) -> bool {
    value.is_some_and(|value| value == "no" || value == "0" || value == "false")
}

/// `PATH`, then the packages' folders with the newest version first.
fn system_folders() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).filter(|folder| folder.join("postgres").exists()).collect();
    let mut packaged: Vec<(u32, PathBuf)> = PACKAGE_FOLDERS
        .iter()
        .flat_map(|(parent, prefix, rest)| versioned_folders(Path::new(parent), prefix, rest))
        .collect();
    packaged.sort_by_key(|(major, _)| Reverse(*major));
    folders.extend(packaged.into_iter().map(|(_, folder)| folder));
    folders
}

fn versioned_folders(parent: &Path, prefix: &str, rest: &str) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name();
            let major = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((major, entry.path().join(rest)))
        })
        .collect()
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-1)` and its like,
/// `19devel` and `19beta1` included.
fn parse_version(text: &str) -> Option<(String, u32)> {
    let version = text.strip_prefix("postgres (PostgreSQL) ")?;
    let version = version.split_whitespace().next()?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    let major = version[..digits].parse().ok()?;
    Some((version.to_owned(), major))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(folder: &Path) -> Search {
        Search {
            account: Account::for_servers().unwrap(),
            named: None,
            system: Vec::new(),
            fetch: false,
            cache: Cache::at(folder),
        }
    }

    #[test]
    fn versions_are_read_as_servers_print_them() {
        for (text, version, major) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", "15.18", 15),
            ("postgres (PostgreSQL) 18.6\n", "18.6", 18),
            ("postgres (PostgreSQL) 19beta1\n", "19beta1", 19),
            ("postgres (PostgreSQL) 20devel\n", "20devel", 20),
        ] {
            assert_eq!(parse_version(text), Some((version.to_owned(), major)));
        }
        assert_eq!(parse_version("mysqld 8"), None);
    }

    #[test]
    fn any_means_the_oldest_supported_or_newer() {
        assert!(!VersionWish::Any.is_met_by(14));
        assert!(VersionWish::Any.is_met_by(15));
        assert!(VersionWish::Any.is_met_by(21));
        assert!(!VersionWish::Major(15).is_met_by(16));
    }

    #[test]
    fn package_folders_are_recognised_by_their_version() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["pgsql-14", "pgsql-17", "pgsql-old", "share"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        let mut found = versioned_folders(parent.path(), "pgsql-", "bin");
        found.sort();
        assert_eq!(found, [(14, parent.path().join("pgsql-14/bin")), (17, parent.path().join("pgsql-17/bin"))]);
    }

    #[tokio::test]
    async fn missing_binaries_error_names_the_remedy() {
        let empty = tempfile::tempdir().unwrap();
        let error = search(empty.path()).run(VersionWish::Any).await.unwrap_err();
        assert!(matches!(error, BinariesError::Missing { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("apt-get install postgresql"), "{text}");
        assert!(text.contains("CABBAGE_POSTGRES_BIN"), "{text}");
    }

    #[tokio::test]
    async fn folder_named_without_programs_is_an_error_and_no_fallback() {
        let empty = tempfile::tempdir().unwrap();
        let search =
            Search { named: Some(empty.path().to_path_buf()), system: system_folders(), ..search(empty.path()) };
        let error = search.run(VersionWish::Any).await.unwrap_err();
        assert!(matches!(error, BinariesError::Override { .. }), "{error}");
        assert!(error.to_string().contains("no `postgres` in it"), "{error}");
    }
}
