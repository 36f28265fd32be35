//! One page, and how its blocks of shell are run.
//!
//! Each block that is fenced as `sh` is a terminal session of its own, run by bash from top to bottom, and the first
//! command that fails fails the test. What a block exports ends with it; files in the folder and in `~`, which are the
//! same, stay for the next one. `cabbage-broker …` returns once the broker serves, as if it were left running in
//! another terminal; the next `cabbage-broker` takes its place. Blocks in other languages are not run.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use cabbage_tests::cluster::Programs;
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

/// How long one block may take, on a busy machine.
const BLOCK_TIMEOUT: Duration = Duration::from_mins(3);

/// What goes before each block.
const PRELUDE: &str = r#"
set -euo pipefail
stop-broker() {
    [ -e broker.pid ] || return 0
    kill "$(cat broker.pid)" 2>/dev/null || true
    while kill -0 "$(cat broker.pid)" 2>/dev/null; do sleep 0.05; done
    rm broker.pid
}
cabbage-broker() {
    stop-broker
    command cabbage-broker "$@" > broker.log 2>&1 &
    echo $! > broker.pid
    until cabbage-cli health > /dev/null 2>&1; do
        kill -0 "$(cat broker.pid)" 2>/dev/null || { cat broker.log >&2; return 1; }
        sleep 0.05
    done
}
"#;

/// Where the pages are.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/how-to")
}

/// A page that is being followed. Dropping it ends the broker that it started.
pub(crate) struct Page {
    text: String,
    home: TempDir,
    /// What the page calls it, and what it is here.
    stand_ins: Vec<(String, String)>,
}

impl Page {
    /// The page of this name.
    pub(crate) fn open(name: &str) -> Self {
        let path = folder().join(format!("{name}.md"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { text, home: TempDir::new().expect("a folder"), stand_ins: Vec::new() }
    }

    /// The folder in which the reader types.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Says what a made-up name of the page stands for, such as `db.example.com`. Longer names go first.
    pub(crate) fn stand_in(mut self, written: &str, meant: impl Into<String>) -> Self {
        assert!(self.text.contains(written), "the page does not speak of {written}");
        self.stand_ins.push((written.to_owned(), meant.into()));
        self
    }

    /// Runs all blocks.
    pub(crate) async fn run(&self) {
        let programs = Programs::find().await.expect("the programs are built");
        let programs = programs.cli.parent().expect("a folder").to_owned();
        let path = env::join_paths(
            std::iter::once(programs).chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
        );
        let path = path.expect("folders without a colon");
        let (broker, admin) = (free_address(), free_address());
        let blocks = self.blocks();
        assert!(!blocks.is_empty(), "the page has nothing to type");
        for block in blocks {
            let mut command = Command::new("bash");
            command.arg("-c").arg(format!("{PRELUDE}{block}"));
            // Nothing of the tester's own but where programs are.
            command.env_clear().env("PATH", &path).env("HOME", self.home()).current_dir(self.home());
            command.env("CABBAGE_LISTEN", &broker).env("CABBAGE_BROKER", &broker);
            command.env("CABBAGE_ADMIN_LISTEN", &admin).env("CABBAGE_ADMIN", format!("http://{admin}"));
            let log = fs::File::create(self.home().join("block.log")).expect("a file");
            command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log).kill_on_drop(true);
            let mut child = command.spawn().expect("bash runs");
            let status = timeout(BLOCK_TIMEOUT, child.wait()).await;
            let said = || fs::read_to_string(self.home().join("block.log")).unwrap_or_default();
            let status = status.unwrap_or_else(|_| panic!("not within {BLOCK_TIMEOUT:?}: {block}\n{}", said()));
            let status = status.expect("bash ends");
            assert!(status.success(), "{status}: {block}\n{}", said());
        }
    }

    /// What is fenced as `sh`, with real names.
    fn blocks(&self) -> Vec<String> {
        let blocks = self.text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
        let real = |block: &str| {
            self.stand_ins.iter().fold(block.to_owned(), |block, (written, meant)| block.replace(written, meant))
        };
        blocks.map(real).collect()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // By its id, as the page's own shell wrote it down.
        let stop = format!("{PRELUDE}stop-broker");
        let _ = std::process::Command::new("bash").arg("-c").arg(stop).current_dir(self.home()).status();
    }
}

/// An address that nobody listens on.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string()
}
