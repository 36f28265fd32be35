//! Another process of this program, which talks in lines.
//!
//! It ends when its standard input does, so none is left behind if this process dies.

use std::{env, process::Stdio, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines, Stdin, stdin},
    process::{self, ChildStdin, ChildStdout},
    time::timeout,
};

/// How long a process may take to say something that is due.
const LINE_TIMEOUT: Duration = Duration::from_mins(1);
/// How long it may take to end.
const EXIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A child process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    process: process::Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts this program with other arguments. What it logs goes where ours goes.
    pub(crate) fn start(name: &str, args: &[String]) -> anyhow::Result<Self> {
        let program = env::current_exe().context("cannot find this program")?;
        let mut process = process::Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            // Ctrl-C goes to the parent, which ends its children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the {name}"))?;
        let input = process.stdin.take();
        let output = process.stdout.take().context("a piped output")?;
        Ok(Self { name: name.to_owned(), process, input, output: BufReader::new(output).lines() })
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// The next line that begins with this word, without it. Others are passed over.
    pub(crate) async fn expect(&mut self, word: &str) -> anyhow::Result<String> {
        let read = async {
            while let Some(line) = self.output.next_line().await? {
                if let Some(rest) = line.strip_prefix(word) {
                    return Ok(rest.trim().to_owned());
                }
            }
            bail!("the {} ended before it said {word:?}", self.name)
        };
        timeout(LINE_TIMEOUT, read).await.map_err(|_| anyhow!("the {} did not say {word:?} in time", self.name))?
    }

    /// The next line; `None` at the end.
    pub(crate) async fn line(&mut self) -> anyhow::Result<Option<String>> {
        Ok(self.output.next_line().await?)
    }

    pub(crate) async fn tell(&mut self, word: &str) -> anyhow::Result<()> {
        let input = self.input.as_mut().with_context(|| format!("the {} listens no more", self.name))?;
        input.write_all(format!("{word}\n").as_bytes()).await.with_context(|| format!("the {} is gone", self.name))
    }

    /// Kills it, as `kill -9` does, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.process.kill().await.with_context(|| format!("cannot kill the {}", self.name))
    }

    /// Closes its input, which tells it to end, and waits until it has.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.input.take());
        let ended = timeout(EXIT_TIMEOUT, self.process.wait()).await;
        let status = ended.map_err(|_| anyhow!("the {} did not end in time", self.name))??;
        if status.success() { Ok(()) } else { bail!("the {} ended with {status}", self.name) }
    }
}

/// The child's side: what the parent tells, line by line. The end of it means: stop.
#[derive(Debug)]
pub(crate) struct Parent {
    input: Lines<BufReader<Stdin>>,
}

impl Parent {
    pub(crate) fn listen() -> Self {
        Self { input: BufReader::new(stdin()).lines() }
    }

    /// Waits for this word; false if the parent wants us to end instead.
    pub(crate) async fn waits_for(&mut self, word: &str) -> bool {
        while let Ok(Some(line)) = self.input.next_line().await {
            if line == word {
                return true;
            }
        }
        false
    }
}
