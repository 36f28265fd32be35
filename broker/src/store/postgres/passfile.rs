//! The password file, as libpq reads it: `host:port:database:user:password`, a line each, the first that fits.

use std::{
    env, fs,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The largest file that is read.
const PASSFILE_BYTES_MAX: u64 = 1 << 20;

/// The bits of a mode that let others than the owner in.
const OTHERS: u32 = 0o077;

/// Whose password is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The host, or the folder of a socket.
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// Why a file was passed over.
#[derive(Debug, thiserror::Error)]
pub(super) enum PassfileError {
    #[error("the password file {path} cannot be read: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the password file {0} is passed over, since others may read it: chmod 600 {0}")]
    Open(PathBuf),
    #[error("the password file {0} is passed over: it is no plain file, or larger than 1 MiB")]
    NoFile(PathBuf),
}

/// `.pgpass` in the folder of the user.
pub(super) fn default_path() -> Option<PathBuf> {
    env::home_dir().map(|home| home.join(".pgpass"))
}

/// The password, if the file has one. A file that is not there has none.
pub(super) fn look_up(path: &Path, wanted: Wanted<'_>) -> Result<Option<String>, PassfileError> {
    let unreadable = |source| PassfileError::Unreadable { path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > PASSFILE_BYTES_MAX {
        return Err(PassfileError::NoFile(path.to_owned()));
    }
    if metadata.permissions().mode() & OTHERS != 0 {
        return Err(PassfileError::Open(path.to_owned()));
    }
    let mut text = String::new();
    file.take(PASSFILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text.lines().find_map(|line| password(line, wanted)))
}

fn password(line: &str, wanted: Wanted<'_>) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let port = wanted.port.to_string();
    let mut rest = line;
    for value in [wanted.host, &port, wanted.database, wanted.user] {
        let (field, behind) = field(rest)?;
        if field != "*" && unescape(field) != value {
            return None;
        }
        rest = behind;
    }
    Some(unescape(rest)).filter(|password| !password.is_empty())
}

/// Up to the next `:` that no `\` stands before, and what is behind it.
fn field(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            ':' if !escaped => return Some((&text[..at], &text[at + 1..])),
            letter => escaped = letter == '\\' && !escaped,
        }
    }
    None
}

fn unescape(text: &str) -> String {
    let mut letters = text.chars();
    let mut plain = String::with_capacity(text.len());
    while let Some(letter) = letters.next() {
        plain.push(if letter == '\\' { letters.next().unwrap_or('\\') } else { letter });
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, process};

    use super::*;

    const WANTED: Wanted<'static> = Wanted { host: "db", port: 5432, database: "app", user: "me" };

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let found = |text: &str| text.lines().find_map(|line| password(line, WANTED));
        assert_eq!(found("db:5432:app:me:one").as_deref(), Some("one"));
        assert_eq!(found("# db:5432:app:me:no\nother:*:*:*:no\n*:*:*:me:two\n*:*:*:*:three").as_deref(), Some("two"));
        assert_eq!(found("db:5433:*:*:no\ndb:*:ap:*:no\ndb:*:*:you:no"), None);
        assert_eq!(found("db:5432:app:me:"), None);
        assert_eq!(found("db:5432:app\n\n"), None);
    }

    #[test]
    fn colons_and_backslashes_are_escaped() {
        let wanted = Wanted { host: "::1", user: r"a\b", ..WANTED };
        assert_eq!(password(r"\:\:1:5432:app:a\\b:p\:w\\d: ", wanted).as_deref(), Some(r"p:w\d: "));
    }

    #[test]
    fn a_file_that_others_may_read_is_passed_over() {
        let path = env::temp_dir().join(format!("cabbage-pgpass-{}", process::id()));
        assert!(matches!(look_up(&path, WANTED), Ok(None)));
        fs::write(&path, "*:*:*:*:secret\n").expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("a mode");
        let open = look_up(&path, WANTED);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode");
        let private = look_up(&path, WANTED);
        fs::remove_file(&path).expect("it is there");
        assert!(matches!(open, Err(PassfileError::Open(_))));
        assert_eq!(private.expect("readable").as_deref(), Some("secret"));
        assert!(matches!(look_up(&env::temp_dir(), WANTED), Err(PassfileError::NoFile(_))));
    }
}
