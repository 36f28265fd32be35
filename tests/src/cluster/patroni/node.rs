//! One server, and the Patroni that watches over it.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use super::{Configuration, PATRONI, SETPRIV, programs_of_postgres};
use crate::cluster::{
    free_address,
    process::{Launch, Process},
    wait_until,
};

/// The account that servers run as.
const ACCOUNT: &str = "postgres";
/// How long a killed server may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// One server. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Node {
    number: usize,
    /// Of the server.
    pub(super) postgres: SocketAddr,
    /// Of its Patroni.
    pub(super) patroni: SocketAddr,
    folder: PathBuf,
    watcher: Option<Process>,
    /// What was stopped, in that order.
    stopped: Vec<Pid>,
}

impl Node {
    pub(super) fn start(
        number: usize,
        configuration: &Configuration,
        folder: &Path,
        logs: &Path,
    ) -> anyhow::Result<Self> {
        let folder = folder.join(format!("node-{number}"));
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        let owned = Command::new("chown").arg(ACCOUNT).arg(&folder).status().context("run chown")?;
        anyhow::ensure!(owned.success(), "{} cannot be given to {ACCOUNT}", folder.display());
        let (postgres, patroni) = (free_address()?, free_address()?);
        let mut node = Self { number, postgres, patroni, folder: folder.clone(), watcher: None, stopped: Vec::new() };
        let text = configuration.of_node(&node, &folder, &programs_of_postgres()?);
        fs::write(node.file(), serde_json::to_vec_pretty(&text)?)?;
        node.restart(logs)?;
        Ok(node)
    }

    pub(super) fn name(&self) -> String {
        format!("node-{}", self.number)
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn file(&self) -> PathBuf {
        self.folder.join("patroni.yml")
    }

    /// Starts Patroni, which starts the server or takes it as it is.
    pub(super) fn restart(&mut self, logs: &Path) -> anyhow::Result<()> {
        // If this program is ended by somebody, Patroni ends too, and its server with it.
        let account = [("--reuid", ACCOUNT), ("--regid", ACCOUNT), ("--pdeathsig", "TERM")];
        let account = account.map(|(option, value)| (option, value.to_owned()));
        let name = self.name();
        let launch = Launch::of(Path::new(SETPRIV), &name).options(account).flag("--init-groups");
        self.watcher = Some(launch.flag(PATRONI).flag(&self.file().display().to_string()).spawn(logs)?);
        Ok(())
    }

    /// Kills Patroni only.
    pub(super) async fn abandon(&mut self) -> anyhow::Result<()> {
        self.watcher.take().context("it is watched over")?.kill().await
    }

    /// Kills the server. Its sessions end by themselves.
    pub(super) async fn kill_server(&mut self) -> anyhow::Result<()> {
        let server = self.server().context("the server runs")?;
        kill_process(server, Signal::KILL)?;
        wait_until("the killed server is gone", GONE_WITHIN, async || Ok(!self.is_server(server))).await
    }

    /// Stops Patroni, the server and its sessions. What the server forks meanwhile is stopped too, since it goes first.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        let server = self.server().context("the server runs")?;
        self.watcher.as_ref().context("it is watched over")?.signal(Signal::STOP)?;
        self.stopped.push(server);
        kill_process(server, Signal::STOP)?;
        for child in children(server)? {
            // One that has ended since needs no stop.
            if kill_process(child, Signal::STOP).is_ok() {
                self.stopped.push(child);
            }
        }
        Ok(())
    }

    /// Lets all go on, the server before Patroni: for a moment it is a primary as it was.
    pub(super) fn go_on(&mut self) -> anyhow::Result<()> {
        for process in self.stopped.drain(..).rev() {
            // A session whose client has gone may have been ended.
            let _gone = kill_process(process, Signal::CONT);
        }
        self.watcher.as_ref().context("it is watched over")?.signal(Signal::CONT)
    }

    /// The process of the server, if it runs.
    fn server(&self) -> Option<Pid> {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let process = Pid::from_raw(file.lines().next()?.trim().parse().ok()?)?;
        // One that was killed leaves its file behind.
        self.is_server(process).then_some(process)
    }

    /// Whether this process is the server. One that has ended has no command line, and another one has another.
    fn is_server(&self, process: Pid) -> bool {
        let command = fs::read(format!("/proc/{}/cmdline", process.as_raw_nonzero())).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&self.data().display().to_string())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // First who would start the server again. Whoever has ended already needs no signal.
        if let Some(watcher) = &self.watcher {
            drop(watcher.signal(Signal::KILL));
        }
        let sessions = self.server().map(|server| (server, children(server).unwrap_or_default()));
        for process in sessions.into_iter().flat_map(|(server, sessions)| [vec![server], sessions].concat()) {
            let _gone = kill_process(process, Signal::KILL);
        }
    }
}

/// The processes that a process has started and that have not ended.
fn children(parent: Pid) -> anyhow::Result<Vec<Pid>> {
    let parent = parent.as_raw_nonzero();
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    Ok(text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect())
}
