//! Clocks that are wrong: a small library that is built with the machine's C compiler and preloaded into a process.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tokio::process::Command;

/// How wrong they are.
const SHIFT_SECONDS: i64 = 3_600;

const SOURCE: &str = include_str!("clock_shift.c");

/// The library, built.
#[derive(Clone, Debug)]
pub(super) struct WrongClocks(PathBuf);

impl WrongClocks {
    pub(super) async fn build(folder: &Path) -> anyhow::Result<Self> {
        let (source, library) = (folder.join("clock_shift.c"), folder.join("clock_shift.so"));
        fs::write(&source, SOURCE)?;
        let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut command = Command::new(&compiler);
        command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
        let status = command.status().await.with_context(|| format!("run {}", compiler.display()))?;
        anyhow::ensure!(status.success(), "{} could not build {}: {status}", compiler.display(), source.display());
        Ok(Self(library))
    }

    /// The environment of a process of this number: its clock is an hour ahead, or behind.
    pub(super) fn environment(&self, number: usize) -> Vec<(&'static str, String)> {
        let shift = if number.is_multiple_of(2) { SHIFT_SECONDS } else { -SHIFT_SECONDS };
        vec![("LD_PRELOAD", self.0.display().to_string()), ("CABBAGE_TEST_CLOCK_SHIFT_SECONDS", shift.to_string())]
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    /// What `date` says in a process whose clock is this wrong, in seconds since 1970.
    async fn date(environment: Vec<(&'static str, String)>) -> u64 {
        let output = Command::new("date").arg("+%s").envs(environment).output().await.expect("a system with date");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
    }

    #[tokio::test]
    async fn a_process_with_a_wrong_clock_is_an_hour_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let clocks = WrongClocks::build(folder.path()).await.expect("a C compiler, as Rust needs one");
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
        let (ahead, behind) = (date(clocks.environment(0)).await, date(clocks.environment(1)).await);
        let hours = Duration::from_secs(ahead - behind).as_secs_f64() / 3_600.0;
        assert!((1.9..2.1).contains(&hours), "{ahead} and {behind}");
        assert!(ahead > now.as_secs() + 1_800 && behind + 1_800 < now.as_secs(), "{ahead} and {behind} at {now:?}");
    }
}
