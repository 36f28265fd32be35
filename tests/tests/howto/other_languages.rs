//! `other-languages.md`: the client and the worker in Python. `tests/python` has more of them.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

use cabbage_worker::testing::TestBroker;

use crate::{
    page::Page,
    tool::{not_run, works},
};

/// Where this is 1, the page must be run.
const DEMANDED_BY: &str = "CABBAGE_TESTS_REQUIRE_PYTHON";

/// A command that ends well.
fn runs(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[tokio::test]
async fn what_the_page_on_other_languages_says_can_be_typed() {
    if !works("python3", &["-c", "import ensurepip, venv"]) {
        return not_run("python3 is missing", DEMANDED_BY);
    }
    let broker = TestBroker::start().await;
    let page = Page::open("other-languages").on(&broker);
    // A copy that is kept with its packages, so that these are fetched once.
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("howto-python");
    let lock = File::create(copy.with_extension("lock")).expect("a file for a lock");
    lock.lock().expect("a lock");
    let (root, clients) = (Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), copy.join("clients"));
    fs::create_dir_all(&clients).expect("a folder");
    for (from, to) in [("proto", &copy), ("clients/python", &clients)] {
        assert!(runs(Command::new("cp").arg("-r").arg(root.join(from)).arg(to)), "{from} is copied");
    }
    let packages = clients.join("python/.venv");
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    let has_packages = runs(Command::new("python3").args(["-m", "venv"]).arg(&packages))
        && runs(Command::new(packages.join("bin/python")).args(pip).arg(clients.join("python/requirements.txt")));
    if !has_packages {
        return not_run("pip cannot install the packages that clients/python requires", DEMANDED_BY);
    }
    for folder in ["proto", "clients"] {
        symlink(copy.join(folder), page.home().join(folder)).expect("a link");
    }
    page.run().await;
}
