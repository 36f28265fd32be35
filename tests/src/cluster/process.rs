//! One process of a cluster.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    sync::watch,
    time::timeout,
};

/// A process with its output in files of the cluster's folder. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    child: Mutex<Child>,
    /// The programs of the tests end when this does: so none is left behind by whoever started it.
    _lifeline: ChildStdin,
    progress: watch::Receiver<u64>,
}

/// A process to start.
pub(super) struct Launch<'a> {
    program: &'a Path,
    name: &'a str,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

impl<'a> Launch<'a> {
    pub(super) fn of(program: &'a Path, name: &'a str) -> Self {
        Self { program, name, arguments: Vec::new(), environment: Vec::new() }
    }

    pub(super) fn options<'b>(mut self, options: impl IntoIterator<Item = (&'b str, String)>) -> Self {
        self.arguments.extend(options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]));
        self
    }

    pub(super) fn flag(mut self, flag: &str) -> Self {
        self.arguments.push(flag.to_owned());
        self
    }

    pub(super) fn environment(mut self, environment: Vec<(&'static str, String)>) -> Self {
        self.environment.extend(environment);
        self
    }

    /// Starts it. Lines `answered <count>` of its output are its progress.
    pub(super) fn spawn(self, folder: &Path) -> anyhow::Result<Process> {
        let Self { program, name, arguments, environment } = self;
        let log = File::options().create(true).append(true).open(folder.join(format!("{name}.log")))?;
        let mut command = Command::new(program);
        command.args(arguments).envs(environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.try_clone()?).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let pid = child.id().and_then(|id| Pid::from_raw(id as i32)).context("a process has an id")?;
        let output = child.stdout.take().context("its output is piped")?;
        let lifeline = child.stdin.take().context("its input is piped")?;
        let (told, progress) = watch::channel(0);
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                match line.strip_prefix("answered ").and_then(|count| count.parse::<u64>().ok()) {
                    Some(count) => {
                        told.send_replace(count);
                    }
                    // Whatever else it says belongs to its log; there is nobody to tell if that cannot be written.
                    None => drop(writeln!(&log, "{line}")),
                }
            }
        });
        Ok(Process { name: name.to_owned(), pid, child: Mutex::new(child), _lifeline: lifeline, progress })
    }
}

impl Process {
    /// Its name, and that of its log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it said of its progress.
    pub fn progress(&self) -> u64 {
        *self.progress.borrow()
    }

    /// Whether it has not ended. A stopped process has not.
    pub fn is_running(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(self.pid, signal).with_context(|| format!("signal {signal:?} to {}", self.name))
    }

    /// Kills it, as `kill -9` does, and waits for its end.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)?;
        self.ended(Duration::from_secs(10)).await?;
        Ok(())
    }

    /// Waits for its end.
    pub async fn ended(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let ended = timeout(within, child.wait()).await;
        Ok(ended.with_context(|| format!("{} did not end within {within:?}", self.name))??)
    }
}
