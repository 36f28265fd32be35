//! `docs/behaviours.md` names tests, and tells of all that are here.

use std::{fs, path::Path};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All of this suite.
fn suite() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour");
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    files.map(|path| fs::read_to_string(path).expect("a text")).collect()
}

/// The tests that a cell of the table names, and the file of each that is not of this suite: `` `name` (file) ``.
fn named(cell: &str) -> Vec<(&str, Option<&str>)> {
    let mut parts = cell.split('`').skip(1);
    let mut named = Vec::new();
    while let (Some(name), Some(after)) = (parts.next(), parts.next()) {
        let file = after.trim_start().strip_prefix('(').and_then(|text| text.split_once(')')).map(|(file, _)| file);
        named.push((name, file));
    }
    named
}

/// The last cells of all rows.
fn cells(page: &str) -> Vec<&str> {
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| In Procrastinate"));
    rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next()).collect()
}

#[test]
fn the_page_names_tests_that_exist() {
    let (page, suite) = (read("docs/behaviours.md"), suite());
    let mut rows = 0;
    for (name, file) in cells(&page).into_iter().flat_map(named) {
        rows += 1;
        let text = file.map_or_else(|| suite.clone(), read);
        assert!(text.contains(&format!("fn {name}(")), "no test `{name}` in {}", file.unwrap_or("this suite"));
    }
    assert!(rows > 100, "{rows} tests in the table");
}

#[test]
fn the_page_tells_of_every_behaviour_that_is_shown_here() {
    let page = read("docs/behaviours.md");
    let named: Vec<_> = cells(&page).into_iter().flat_map(named).map(|(name, _)| name).collect();
    let suite = suite();
    let shown = suite.split("on_both_stores! {\n").skip(1).filter_map(|rest| rest.split('}').next());
    let shown: Vec<_> =
        shown.flat_map(|block| block.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect();
    assert!(shown.len() > 80, "{} behaviours", shown.len());
    for name in shown {
        assert!(named.contains(&name), "`{name}` is not on the page");
    }
}
