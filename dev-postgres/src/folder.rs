//! The folders of one server.
//!
//! ```text
//! <home>/socket/            the unix socket; always temporary, its path is short
//! <root>/data/              what initdb makes; <root> is <home> or the folder kept
//! <root>/server.log
//! <root>/password           for TCP connections
//! ```

use std::env;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use uuid::Uuid;

use crate::account::Account;
use crate::error::ServerError;
use crate::options::Data;

/// What a socket's whole path may have on every system: 107 bytes on Linux,
/// 103 on macOS.
const SOCKET_PATH_LIMIT_BYTES: usize = 103;

/// The longest name of a socket in its folder.
const LONGEST_SOCKET_NAME: &str = ".s.PGSQL.65535.lock";

/// Where one server keeps what. Dropping it removes what is temporary.
#[derive(Debug)]
pub(crate) struct Folder {
    home: TempDir,
    root: PathBuf,
}

impl Folder {
    pub(crate) fn prepare(data: &Data, account: &Account) -> Result<Self, ServerError> {
        let home = make_home(account).map_err(|source| ServerError::Folder { path: env::temp_dir(), source })?;
        let root = match data {
            Data::Temporary => home.path().to_path_buf(),
            Data::Keep(path) => make_root(path, account)?,
        };
        Ok(Self { home, root })
    }

    /// What to remove when the server is gone for good.
    pub(crate) fn temporary(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("socket")
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("server.log")
    }

    /// The major version of the cluster that is there already, if one is.
    pub(crate) fn existing_major(&self) -> Result<Option<u32>, ServerError> {
        let path = self.data().join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => match text.trim().parse() {
                Ok(major) => Ok(Some(major)),
                Err(_) => Err(ServerError::NoCluster { path: self.data() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.data().exists() {
                    return Err(ServerError::NoCluster { path: self.data() });
                }
                Ok(None)
            }
            Err(source) => Err(ServerError::Folder { path, source }),
        }
    }

    /// The password for TCP connections, made up at first use.
    pub(crate) fn password(&self, account: &Account) -> io::Result<(PathBuf, String)> {
        let path = self.root.join("password");
        match fs::read_to_string(&path) {
            Ok(password) => return Ok((path, password.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let password = Uuid::new_v4().simple().to_string();
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        writeln!(file, "{password}")?;
        // initdb reads it as the server's account.
        account.own(&path)?;
        Ok((path, password))
    }

    /// An empty folder beside the data folder, for a cluster in the making.
    pub(crate) fn make_nursery(&self, account: &Account) -> io::Result<TempDir> {
        let nursery = tempfile::Builder::new().prefix("initdb-").permissions(private()).tempdir_in(&self.root)?;
        account.own(nursery.path())?;
        Ok(nursery)
    }
}

/// A folder of mode 0700 with a path short enough for sockets.
fn make_home(account: &Account) -> io::Result<TempDir> {
    let preferred = env::temp_dir();
    let sample = preferred.join("cabbage-XXXXXX/socket").join(LONGEST_SOCKET_NAME);
    let fits = sample.as_os_str().len() <= SOCKET_PATH_LIMIT_BYTES;
    let parent = if fits && account.closed_folder(&sample).is_none() { preferred } else { PathBuf::from("/tmp") };
    let home = tempfile::Builder::new().prefix("cabbage-").permissions(private()).tempdir_in(parent)?;
    account.own(home.path())?;
    let socket = home.path().join("socket");
    DirBuilder::new().mode(0o700).create(&socket)?;
    account.own(&socket)?;
    Ok(home)
}

/// What nobody but the owner may enter.
fn private() -> Permissions {
    Permissions::from_mode(0o700)
}

fn make_root(path: &Path, account: &Account) -> Result<PathBuf, ServerError> {
    let failed = |source| ServerError::Folder { path: path.to_path_buf(), source };
    fs::create_dir_all(path).map_err(failed)?;
    // The server runs with another working folder.
    let root = fs::canonicalize(path).map_err(failed)?;
    if let Some(closed) = account.closed_folder(&root.join("data")) {
        return Err(ServerError::ClosedFolder { path: root, closed, account: account.name().to_owned() });
    }
    Ok(root)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn socket_folder_is_private_and_short() {
        let account = Account::for_servers().unwrap();
        let folder = Folder::prepare(&Data::Temporary, &account).unwrap();
        let socket = folder.socket();
        assert_eq!(fs::metadata(folder.temporary()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o700);
        let longest = socket.join(LONGEST_SOCKET_NAME);
        assert!(longest.as_os_str().len() <= SOCKET_PATH_LIMIT_BYTES);
    }

    #[test]
    fn password_of_a_kept_folder_stays_the_same() {
        let account = Account::for_servers().unwrap();
        let folder = Folder::prepare(&Data::Temporary, &account).unwrap();
        let (path, first) = folder.password(&account).unwrap();
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(folder.password(&account).unwrap().1, first);
    }

    #[test]
    fn folder_that_holds_something_else_is_refused() {
        let account = Account::for_servers().unwrap();
        let folder = Folder::prepare(&Data::Temporary, &account).unwrap();
        assert!(matches!(folder.existing_major(), Ok(None)));
        fs::create_dir(folder.data()).unwrap();
        assert!(matches!(folder.existing_major(), Err(ServerError::NoCluster { .. })));
    }
}
