//! The account a server runs as.
//!
//! PostgreSQL refuses to run as root, and containers and continuous
//! integration often are root. There the server, `initdb` included, runs as
//! `postgres` or, failing that, as `nobody`.

use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where user ids are looked up; reading it needs no unsafe code.
const PASSWD: &str = "/etc/passwd";

/// The accounts root gives way to, best first.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// Who runs the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Account {
    /// Whoever runs this process.
    Own,
    /// Another user, because this process runs as root.
    Other { name: String, uid: u32, gid: u32 },
}

/// Root with nobody to give way to.
#[derive(Debug, thiserror::Error)]
#[error(
    "PostgreSQL refuses to run as root, and {PASSWD} names neither `postgres` nor `nobody`: \
     run as an ordinary user, or create one with `useradd --system postgres`"
)]
pub struct NoAccount;

impl Account {
    /// The account servers run as when started by this process.
    pub(crate) fn for_servers() -> Result<Self, NoAccount> {
        if !is_root() {
            return Ok(Self::Own);
        }
        let passwd = std::fs::read_to_string(PASSWD).unwrap_or_default();
        UNPRIVILEGED.iter().find_map(|name| look_up(&passwd, name)).ok_or(NoAccount)
    }

    /// A command that will run as this account.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // The caller's folder may be closed to the account, and messages are
        // read by us, so they must be in one language.
        command.current_dir("/").env("LC_ALL", "C");
        if let Self::Other { uid, gid, .. } = self {
            // Setting the uid as root also drops root's supplementary groups.
            command.uid(*uid).gid(*gid);
        }
        command
    }

    /// Hands `path` itself, not what it contains, to this account.
    pub(crate) fn own(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid, .. } => chown(path, Some(*uid), Some(*gid)),
        }
    }

    /// The first folder on the way to `path` that this account cannot enter.
    ///
    /// Asked only for another account: for our own, the system's message on
    /// the operation that fails is as good.
    pub(crate) fn closed_folder(&self, path: &Path) -> Option<PathBuf> {
        let Self::Other { uid, gid, .. } = self else {
            return None;
        };
        let mut ancestors: Vec<_> = path.ancestors().skip(1).collect();
        ancestors.reverse();
        ancestors
            .into_iter()
            .find(|folder| {
                folder
                    .metadata()
                    .is_ok_and(|metadata| !may_enter(metadata.mode(), metadata.uid(), metadata.gid(), *uid, *gid))
            })
            .map(Path::to_path_buf)
    }

    /// The account's name for messages.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Own => "the current user",
            Self::Other { name, .. } => name,
        }
    }
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn may_enter(mode: u32, owner: u32, group: u32, uid: u32, gid: u32) -> bool {
    let execute = if owner == uid {
        0o100
    } else if group == gid {
        0o010
    } else {
        0o001
    };
    mode & execute != 0
}

fn look_up(passwd: &str, wanted: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| *name == wanted)?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        // An alias of root would be refused like root.
        (uid != 0).then(|| Account::Other { name: name.to_owned(), uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "root:x:0:0:root:/root:/bin/bash\n\
        nobody:x:65534:65533:nobody:/nonexistent:/usr/sbin/nologin\n\
        toor:x:0:0::/root:/bin/sh\n\
        broken:x:\n";

    #[test]
    fn account_is_found_by_its_whole_name() {
        assert_eq!(look_up(SAMPLE, "nobody"), Some(Account::Other { name: "nobody".into(), uid: 65534, gid: 65533 }));
        assert_eq!(look_up(SAMPLE, "body"), None);
        assert_eq!(look_up(SAMPLE, "broken"), None);
    }

    #[test]
    fn alias_of_root_is_no_refuge() {
        assert_eq!(look_up(SAMPLE, "toor"), None);
    }

    #[test]
    fn folder_of_mode_0700_is_closed_to_others() {
        assert!(may_enter(0o40700, 7, 7, 7, 7));
        assert!(!may_enter(0o40700, 0, 0, 7, 7));
        assert!(may_enter(0o40710, 0, 7, 7, 7));
        assert!(may_enter(0o40701, 0, 0, 7, 7));
    }
}
