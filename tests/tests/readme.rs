//! The README's first two shell blocks are the two commands that must work word for word.

use std::{fs, path::Path};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn shell_blocks(text: &str) -> Vec<&str> {
    text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).map(str::trim).collect()
}

#[test]
fn first_two_shell_blocks_run_the_demo_and_the_tests() {
    let readme = read("README.md");
    let blocks = shell_blocks(&readme);
    assert_eq!(blocks[0], "cargo run -p cabbage-cli -- dev --demo");
    assert_eq!(blocks[1], "cargo test --workspace");
}

#[test]
fn ci_runs_the_test_command_of_the_readme_word_for_word() {
    let readme = read("README.md");
    let command = shell_blocks(&readme)[1];
    assert!(read(".ci/run").lines().any(|line| line.trim() == command), ".ci/run runs `{command}`");
}
