//! Where the programs of a cluster are, and how they come there.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tokio::{process::Command, sync::OnceCell};

static BUILT: OnceCell<()> = OnceCell::const_new();

/// The programs that a cluster runs, and those that users do.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `cabbage-broker`.
    pub broker: PathBuf,
    /// `cabbage-cli`.
    pub cli: PathBuf,
    pub(super) worker: PathBuf,
    pub(super) client: PathBuf,
    folder: PathBuf,
}

impl Programs {
    /// Finds the programs beside this one. Under cargo they are built first, so that no old ones are tested; without it
    /// only if one is missing.
    pub async fn find() -> anyhow::Result<Self> {
        let this = env::current_exe()?;
        let mut folder = this.parent().context("a program lies in a folder")?;
        if folder.ends_with("deps") {
            folder = folder.parent().context("the folder of a profile")?;
        }
        let programs = Self {
            broker: program(folder, "cabbage-broker"),
            cli: program(folder, "cabbage-cli"),
            worker: program(folder, "fault-worker"),
            client: program(folder, "fault-client"),
            folder: folder.to_owned(),
        };
        let all = [&programs.broker, &programs.cli, &programs.worker, &programs.client];
        let is_complete = all.iter().all(|path| path.is_file());
        if env::var_os("CARGO").is_some() || !is_complete {
            // Once for all clusters of this process.
            BUILT.get_or_try_init(|| build(folder)).await?;
        }
        Ok(programs)
    }

    /// Another program beside them.
    pub(super) fn named(&self, name: &str) -> PathBuf {
        program(&self.folder, name)
    }
}

fn program(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}{}", env::consts::EXE_SUFFIX))
}

async fn build(folder: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "-p", "cabbage-broker", "-p", "cabbage-cli", "-p", "cabbage-tests", "--bins"]);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => {}
        Some(profile) => {
            command.args(["--profile", profile]);
        }
    }
    let status = command.status().await.context("run cargo")?;
    anyhow::ensure!(status.success(), "cargo could not build the programs: {status}");
    Ok(())
}
