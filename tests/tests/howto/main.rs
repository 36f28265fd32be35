//! The pages in `docs`: whatever they tell a reader to type is typed here, and the code that they show is run.
//!
//! A new page gets a file with one test or more: make what the page takes for granted, say what stands for its made-up
//! names, and run it ([`page::Page`]).

mod backup;
mod cancel;
mod connect;
mod deploy;
mod from_procrastinate;
mod locks;
mod middleware;
mod monitor;
mod other_languages;
mod page;
mod periodic;
#[path = "../broker/postgres.rs"]
mod postgres;
mod queueing_locks;
mod results;
mod retention;
mod retries;
mod scene;
mod schedule;
mod testing;
#[path = "../optional/tool.rs"]
mod tool;
mod transactions;

use std::{fs, path::Path};

/// No page goes untested.
#[test]
fn every_page_has_a_test() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/howto");
    for page in fs::read_dir(page::folder()).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let name = page.file_stem().expect("a name").to_string_lossy().replace('-', "_");
        assert!(tests.join(format!("{name}.rs")).is_file(), "{} has no test {name}.rs", page.display());
    }
}
