//! `errors.md`: every reason, code and exit code has its row.

use std::{collections::BTreeMap, fs};

use crate::{read, root, rows};

/// The arms of an exhaustive match in the source: what stands on either side of each arrow.
fn arms(source: &str, function: &str) -> Vec<(String, String)> {
    let body = source.split_once(&format!("fn {function}(self)")).expect("the function is there").1;
    let body = body.split_once("match self {").expect("it matches").1;
    let body = body.split_once("\n        }\n").expect("it ends").0;
    let comments = |line: &&str| !line.trim_start().starts_with("//");
    let body: String = body.lines().filter(comments).collect::<Vec<_>>().join(" ").replace(['{', '}'], " ");
    let mut arms = Vec::new();
    let mut variants = String::new();
    for part in body.split(',').flat_map(|part| part.split("Self::")).map(str::trim).filter(|part| !part.is_empty()) {
        let part = part.trim_end_matches('|').trim();
        let Some((last, value)) = part.split_once("=>") else {
            // A variant that shares the next arrow.
            variants.push_str(part);
            variants.push(' ');
            continue;
        };
        variants.push_str(last.trim());
        for variant in variants.split_whitespace() {
            arms.push((variant.to_owned(), value.split_whitespace().collect()));
        }
        variants.clear();
    }
    arms
}

/// `InvalidArgument` as `INVALID_ARGUMENT`.
fn shouted(word: &str) -> String {
    let mut shouted = String::new();
    for letter in word.chars() {
        if letter.is_uppercase() && !shouted.is_empty() {
            shouted.push('_');
        }
        shouted.extend(letter.to_uppercase());
    }
    shouted
}

#[test]
fn every_reason_has_a_row_with_its_code() {
    let (source, page) = (read("broker/src/grpc/status.rs"), read("docs/errors.md"));
    let words: BTreeMap<String, String> = arms(&source, "word").into_iter().collect();
    let codes = arms(&source, "code");
    assert!(words.len() >= 24 && codes.len() == words.len(), "the source is read: {words:?} {codes:?}");
    let rows = rows(&page);
    for (variant, code) in codes {
        let word = words[&variant].trim_matches('"');
        let code = shouted(code.trim_start_matches("Code::"));
        let (word, code) = (format!("`{word}`"), format!("`{code}`"));
        let has_row = rows.iter().any(|row| row.len() == 5 && row[0] == word && row[1] == code);
        assert!(has_row, "docs/errors.md has no row for {word} with {code}");
    }
}

#[test]
fn every_reason_on_the_page_is_one() {
    let (source, page) = (read("broker/src/grpc/status.rs"), read("docs/errors.md"));
    for row in rows(&page).iter().filter(|row| row.len() == 5 && row[0].starts_with('`')) {
        let word = row[0].trim_matches('`');
        assert!(source.contains(&format!("=> \"{word}\"")), "no broker ever says {word}");
    }
}

#[test]
fn every_code_of_a_settle_has_a_row() {
    let (source, page) = (read("proto/cabbage/v1/worker_service.proto"), read("docs/errors.md"));
    let codes = source.lines().filter_map(|line| line.trim().strip_prefix("SETTLE_CODE_")?.split_once(" = "));
    let codes: Vec<&str> = codes.map(|(code, _)| code).filter(|code| *code != "UNSPECIFIED").collect();
    assert!(codes.len() >= 8, "the source is read: {codes:?}");
    let rows = rows(&page);
    for code in codes {
        assert!(rows.iter().any(|row| row[0] == format!("`{code}`")), "docs/errors.md has no row for {code}");
    }
}

#[test]
fn every_reason_of_a_jobs_end_has_a_row() {
    let page = read("docs/errors.md");
    let rows = rows(&page);
    let mut found = 0;
    for file in fs::read_dir(root().join("broker/src/core")).expect("a folder").map(|entry| entry.expect("an entry")) {
        let source = fs::read_to_string(file.path()).expect("a source");
        let path = file.file_name();
        // All ways to write one.
        let openings = ["reason(\"", "reason: Some(Arc::from(\"", "Verdict::Failed, \"", "Verdict::Cancelled, \""];
        for opening in openings {
            for reason in source.split(opening).skip(1).filter_map(|rest| rest.split('"').next()) {
                let has_row = rows.iter().any(|row| row[0] == format!("`{reason}`"));
                assert!(has_row, "docs/errors.md has no row for {reason}, which {} gives", path.display());
                found += 1;
            }
        }
    }
    assert!(found >= 7, "the source is read");
}

#[test]
fn every_exit_code_has_a_row() {
    let (source, page) = (read("cli/src/exit.rs"), read("docs/errors.md"));
    let codes = source.lines().filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = ")?.1.parse().ok());
    let codes: Vec<u8> = codes.collect();
    assert!(codes.len() >= 7, "the source is read: {codes:?}");
    let rows = rows(&page);
    for code in codes {
        assert!(rows.iter().any(|row| row[0] == code.to_string()), "docs/errors.md has no row for exit code {code}");
    }
}
