//! Python with what `clients/python` needs: packages in a folder of their own, and generated stubs. And Python with what
//! applications use to reach PostgreSQL.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;
use tokio::process::Command as TokioCommand;

use crate::tool::{not_run, works};

/// Where this is 1, the suite must run.
const DEMANDED_BY: &str = "CABBAGE_TESTS_REQUIRE_PYTHON";

const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients/python");

/// The programs of `clients/python`, ready to run.
pub(crate) struct Room {
    python: PathBuf,
    stubs: TempDir,
}

impl Room {
    /// `None`, said aloud, where the machine has no Python that can do this.
    pub(crate) fn open() -> Option<Self> {
        let python = python_with("python", &Path::new(PROGRAMS).join("requirements.txt"))?;
        let stubs = TempDir::new().expect("a folder");
        let generate = Path::new(PROGRAMS).join("generate.sh");
        run(Command::new(generate).arg(stubs.path()).env("PYTHON", &python)).expect("stubs are generated");
        Some(Self { python, stubs })
    }

    /// One of the programs. It ends with this test.
    pub(crate) fn program(&self, name: &str) -> TokioCommand {
        let mut command = TokioCommand::new(&self.python);
        command
            .arg(Path::new(PROGRAMS).join(name))
            .env("PYTHONPATH", self.stubs.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

/// Python that runs programs with psycopg. `None`, said aloud, where the machine has none.
pub(crate) fn python_with_psycopg() -> Option<PathBuf> {
    python_with("psycopg", &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/psycopg.txt"))
}

/// Python with the packages of this list. `None`, said aloud: the machine has none, or they cannot be installed.
fn python_with(name: &str, requirements: &Path) -> Option<PathBuf> {
    if !works("python3", &["-c", "import ensurepip, venv"]) {
        not_run("python3 is missing", DEMANDED_BY);
        return None;
    }
    let python = packages(name, requirements);
    if python.is_none() {
        not_run(&format!("pip cannot install the packages of {}", requirements.display()), DEMANDED_BY);
    }
    python
}

/// The interpreter of a folder that has the packages, made at the first use and kept below the target folder. `None`:
/// they cannot be installed.
fn packages(name: &str, requirements: &Path) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = folder.join("bin/python");
    let required = fs::read_to_string(requirements).expect("a list of packages");
    // Tests may run in several processes.
    let lock = File::create(folder.with_extension("lock")).expect("a file for a lock");
    lock.lock().expect("a lock");
    let complete = folder.join("complete");
    let is_complete = fs::read_to_string(&complete).is_ok_and(|has| has == required);
    if is_complete && run(Command::new(&python).arg("--version")).is_ok() {
        return Some(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder)).expect("a folder for packages is made");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(requirements);
    if let Err(error) = run(&mut pip) {
        eprintln!("{error}");
        return None;
    }
    fs::write(complete, required).expect("the folder is marked as complete");
    Some(python)
}

/// Runs a command to its end; gives what it printed if it fails.
fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}
