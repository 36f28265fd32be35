//! One page, how its blocks of shell are run, and what its blocks of Rust are compared with.
//!
//! Each block that is fenced as `sh` is a terminal session of its own, run by bash from top to bottom, and the first
//! command that fails fails the test. What a block exports ends with it; files in the folder and in `~`, which are the
//! same, stay for the next one. `cabbage-broker …` returns once the broker serves, as if it were left running in
//! another terminal; the next `cabbage-broker` takes its place. A block that is fenced as `text` right after one of shell
//! is what that one prints, compared but for numbers and the width of columns: ids, times and ports differ.
//!
//! What is fenced as `rust` stands, line by line, in the page's test, where it is compiled and run ([`Page::code_is_in`]).
//! Blocks in other languages are not run.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use cabbage_tests::cluster::Programs;
use cabbage_worker::testing::TestBroker;
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

/// Where the pages on how to do things are.
pub(crate) fn folder() -> PathBuf {
    docs().join("how-to")
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// A page that is being followed. Dropping it ends the broker that it started.
pub(crate) struct Page {
    text: String,
    home: TempDir,
    /// What the page calls it, and what it is here.
    stand_ins: Vec<(String, String)>,
    /// The broker that commands talk to, where the page starts none.
    broker: Option<String>,
}

impl Page {
    /// The page of this name in `docs/how-to`.
    pub(crate) fn open(name: &str) -> Self {
        Self::at(&format!("how-to/{name}.md"))
    }

    /// The page at this path in `docs`.
    pub(crate) fn at(path: &str) -> Self {
        let path = docs().join(path);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { text, home: TempDir::new().expect("a folder"), stand_ins: Vec::new(), broker: None }
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

    /// Says which broker the commands of the page talk to, where the page starts none.
    pub(crate) fn on(mut self, broker: &TestBroker) -> Self {
        self.broker = Some(broker.address().to_owned());
        self
    }

    /// Compares what is fenced as `rust` with the test that runs it: each block stands there, indented as it may be.
    pub(crate) fn code_is_in(self, test: &str) -> Self {
        let test: Vec<&str> = test.lines().collect();
        for block in blocks(&self.text).filter(|block| block.language == "rust") {
            let code: Vec<&str> = block.text.lines().collect();
            let stands_there = test.windows(code.len()).any(|lines| is_indented(lines, &code));
            assert!(stands_there, "the test of the page does not run this:\n{}", block.text);
        }
        self
    }

    /// What is fenced as `sql`, for a test that asks the database itself.
    pub(crate) fn sql(&self) -> Vec<String> {
        blocks(&self.text).filter(|block| block.language == "sql").map(|block| self.real(block.text)).collect()
    }

    /// Runs all blocks of shell.
    pub(crate) async fn run(&self) {
        let programs = Programs::find().await.expect("the programs are built");
        let programs = programs.cli.parent().expect("a folder").to_owned();
        let path = env::join_paths(
            std::iter::once(programs).chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
        );
        let path = path.expect("folders without a colon");
        let (broker, admin) = (self.broker.clone().unwrap_or_else(free_address), free_address());
        let mut blocks = blocks(&self.text).filter(|block| block.language != "rust").peekable();
        let mut ran = 0;
        while let Some(block) = blocks.next() {
            if block.language != "sh" {
                continue;
            }
            let code = self.real(block.text);
            let mut command = Command::new("bash");
            command.arg("-c").arg(format!("{PRELUDE}{code}"));
            // Nothing of the tester's own but where programs are.
            command.env_clear().env("PATH", &path).env("HOME", self.home()).current_dir(self.home());
            command.env("CABBAGE_LISTEN", &broker).env("CABBAGE_BROKER", &broker);
            command.env("CABBAGE_ADMIN_LISTEN", &admin).env("CABBAGE_ADMIN", format!("http://{admin}"));
            let log = fs::File::create(self.home().join("block.log")).expect("a file");
            command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log).kill_on_drop(true);
            let mut child = command.spawn().expect("bash runs");
            let status = timeout(BLOCK_TIMEOUT, child.wait()).await;
            let said = || fs::read_to_string(self.home().join("block.log")).unwrap_or_default();
            let status = status.unwrap_or_else(|_| panic!("not within {BLOCK_TIMEOUT:?}: {code}\n{}", said()));
            let status = status.expect("bash ends");
            assert!(status.success(), "{status}: {code}\n{}", said());
            if let Some(shown) = blocks.next_if(|next| next.language == "text") {
                let (said, shown) = (said(), self.real(shown.text));
                assert_eq!(alike(&said), alike(&shown), "{code}\nprints:\n{said}\nand not:\n{shown}");
            }
            ran += 1;
        }
        assert!(ran > 0, "the page has nothing to type");
    }

    /// With real names.
    fn real(&self, block: &str) -> String {
        self.stand_ins.iter().fold(block.to_owned(), |block, (written, meant)| block.replace(written, meant))
    }
}

/// What stands between two fences.
struct Block<'a> {
    language: &'a str,
    text: &'a str,
}

fn blocks(page: &str) -> impl Iterator<Item = Block<'_>> {
    page.split("\n```").collect::<Vec<_>>().into_iter().skip(1).step_by(2).map(|block| {
        let (language, text) = block.split_once('\n').unwrap_or((block, ""));
        Block { language, text }
    })
}

/// Whether the lines are these, each with the same blanks in front.
fn is_indented(lines: &[&str], code: &[&str]) -> bool {
    let indent = lines[0].len() - lines[0].trim_start().len();
    lines.iter().zip(code).all(|(line, code)| match line.get(indent..) {
        Some(line) => line == *code,
        None => line.trim().is_empty() && code.is_empty(),
    })
}

/// What is left if numbers and widths do not matter.
fn alike(text: &str) -> String {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = text.trim().lines().map(words).collect();
    let mut alike = String::with_capacity(text.len());
    for character in lines.join("\n").chars() {
        if !character.is_ascii_digit() {
            alike.push(character);
        } else if !alike.ends_with('0') {
            alike.push('0');
        }
    }
    alike
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
