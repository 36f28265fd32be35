//! The wire's files keep the rules that `proto/buf.yaml` names, and every part of them has a comment.

#[path = "optional/tool.rs"]
mod tool;

use std::process::{Command, Stdio};

use tool::{not_run, works};

/// Where this is 1, the suite must run.
const DEMANDED_BY: &str = "CABBAGE_TESTS_REQUIRE_NODE";

/// How npm runs buf, which is fetched at the first use.
const BUF: [&str; 4] = ["exec", "--yes", "@bufbuild/buf", "--"];

#[test]
fn buf_finds_nothing_to_complain_about() {
    if !works("node", &["--version"]) || !works("npm", &["--version"]) {
        return not_run("node or npm is missing", DEMANDED_BY);
    }
    let version = [&BUF[..], &["--version"]].concat();
    if !works("npm", &version) {
        return not_run("npm cannot fetch @bufbuild/buf", DEMANDED_BY);
    }
    let lint = Command::new("npm")
        .args(BUF)
        .arg("lint")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../proto"))
        .stdin(Stdio::null())
        .output()
        .expect("npm runs");
    let said = [lint.stdout, lint.stderr].concat();
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&said));
}
