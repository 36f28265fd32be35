//! What `initdb` makes: a cluster, of one major version for good.

use std::fs;
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::binaries::{Binaries, OLDEST_MAJOR, VersionWish};
use crate::error::ServerError;
use crate::folder::Folder;
use crate::options::Durability;

/// The superuser of every cluster made here.
pub(crate) const USER: &str = "cabbage";

/// Makes the cluster beside its place and moves it there when it is complete:
/// an interrupted `initdb` leaves nothing that looks like a cluster.
pub(crate) async fn make(
    binaries: &Binaries,
    account: &Account,
    folder: &Folder,
    password_file: PathBuf,
    durability: Durability,
) -> Result<(), ServerError> {
    let failed = |source| ServerError::Folder { path: folder.root().to_path_buf(), source };
    let nursery = folder.make_nursery(account).map_err(failed)?;
    let program = binaries.program("initdb");
    let mut command = account.command(&program);
    command
        .arg("--pgdata")
        .arg(nursery.path())
        .args(["--username", USER])
        // The C locale is the same on every system and in every version, and
        // compares bytes, which is what indexes on names want.
        .args(["--encoding", "UTF8", "--locale", "C"])
        // Nobody else reaches the socket: its folder has mode 0700. The
        // loopback interface is everybody's, so there a password is asked for.
        .args(["--auth-local", "trust", "--auth-host", "scram-sha-256"])
        .arg("--pwfile")
        .arg(password_file)
        .arg("--no-instructions");
    if durability == Durability::Off {
        command.arg("--no-sync");
    }
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("running a program does not panic")
        .map_err(|source| ServerError::Program { program, source })?;
    if !output.status.success() {
        let printed = [output.stdout, output.stderr].concat();
        return Err(ServerError::Initdb {
            status: output.status,
            output: String::from_utf8_lossy(&printed).trim().to_owned(),
        });
    }
    fs::rename(nursery.keep(), folder.data()).map_err(failed)
}

/// The version to look for: an existing cluster knows its own.
pub(crate) fn version_for(wish: VersionWish, existing: Option<u32>, path: &Path) -> Result<VersionWish, ServerError> {
    let Some(found) = existing else {
        return Ok(wish);
    };
    let fits = match wish {
        VersionWish::Any => found >= OLDEST_MAJOR,
        VersionWish::Major(major) => found == major,
    };
    if fits {
        Ok(VersionWish::Major(found))
    } else {
        Err(ServerError::VersionMismatch { path: path.to_path_buf(), found, wish })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_cluster_decides_the_version() {
        let path = Path::new("/data");
        let of = |wish, existing| version_for(wish, existing, path);
        assert_eq!(of(VersionWish::Any, None).unwrap(), VersionWish::Any);
        assert_eq!(of(VersionWish::Any, Some(17)).unwrap(), VersionWish::Major(17));
        assert_eq!(of(VersionWish::Major(17), Some(17)).unwrap(), VersionWish::Major(17));
        for wish in [VersionWish::Major(18), VersionWish::Any] {
            let error = of(wish, Some(14)).unwrap_err();
            assert!(matches!(error, ServerError::VersionMismatch { .. }));
        }
    }
}
