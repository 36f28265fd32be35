//! The pages in `docs/how-to`: whatever they tell a reader to type is typed here.
//!
//! A new page gets a file with one test: make what the page takes for granted, say what stands for its made-up names,
//! and run it ([`page::Page`]).

mod connect;
mod page;
mod periodic;

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
