//! No link between pages leads nowhere, and the index knows every page.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{read, root};

fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md"), root().join("ARCHITECTURE.md"), root().join("CONTRIBUTING.md")];
    for folder in ["docs", "docs/how-to"] {
        let entries = fs::read_dir(root().join(folder)).expect("a folder").map(|entry| entry.expect("an entry").path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    pages
}

/// What a page links to, but for other sites.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    links.filter(|link| !link.contains("://"))
}

/// The word for a heading in a link.
fn anchor(heading: &str) -> String {
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    heading.trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

fn has_heading(page: &Path, wanted: &str) -> bool {
    let text = fs::read_to_string(page).unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix('#')).any(|line| anchor(line.trim_start_matches('#')) == wanted)
}

#[test]
fn every_link_leads_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        for link in links(&text) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let to = if path.is_empty() { page.clone() } else { page.parent().expect("a folder").join(path) };
            assert!(to.exists(), "{}: {link} leads nowhere", page.display());
            assert!(heading.is_empty() || has_heading(&to, heading), "{}: {link} has no such heading", page.display());
        }
    }
}

#[test]
fn the_index_knows_every_page() {
    let index = read("docs/README.md");
    let docs = fs::canonicalize(root().join("docs")).expect("a folder");
    for page in pages().iter().map(|page| fs::canonicalize(page).expect("a page")) {
        let Ok(page) = page.strip_prefix(&docs) else { continue };
        let page = page.to_string_lossy();
        assert!(page == "README.md" || index.contains(&format!("]({page})")), "docs/README.md does not know {page}");
    }
}
