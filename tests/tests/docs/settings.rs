//! `settings.md`: the broker's options as clap knows them.
//!
//! `CABBAGE_WRITE_DOCS=1 cargo test -p cabbage-tests --test docs` writes them into the page.

use std::{collections::BTreeMap, env, fmt::Write as _, fs};

use cabbage_broker::BrokerArgs;
use clap::{Arg, Args as _, Command};

use crate::{read, root};

const PAGE: &str = "docs/settings.md";
const BEGIN: &str = "<!-- The options, as the code has them. -->\n";
const END: &str = "<!-- The end of the options. -->\n";

/// A table for each heading of the help.
fn tables() -> String {
    let command = BrokerArgs::augment_args(Command::new("cabbage-broker"));
    let mut headings: BTreeMap<usize, (&str, String)> = BTreeMap::new();
    for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
        let heading = arg.get_help_heading().unwrap_or("Addresses and store");
        let place = headings.values().position(|(known, _)| *known == heading).unwrap_or(headings.len());
        headings.entry(place).or_insert_with(|| (heading, String::new())).1.push_str(&row(arg));
    }
    let mut text = String::new();
    for (heading, rows) in headings.values() {
        let _ = write!(text, "\n## {heading}\n\n| option | variable | default | meaning |\n|---|---|---|---|\n{rows}");
    }
    text + "\n"
}

fn row(arg: &Arg) -> String {
    let option = arg.get_long().unwrap_or_default();
    let variable = arg.get_env().unwrap_or_default().to_string_lossy();
    let default: Vec<_> =
        arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut meaning = help.split_whitespace().collect::<Vec<_>>().join(" ");
    if !meaning.ends_with('.') {
        meaning.push('.');
    }
    let values: Vec<_> = arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if arg.get_action().takes_values() && !values.is_empty() {
        let _ = write!(meaning, " One of {}.", values.join(", "));
    }
    format!("| `--{option}` | `{variable}` | {} | {} |\n", default.join(" "), meaning.replace('|', "\\|"))
}

#[test]
fn every_option_of_the_broker_is_on_the_page_as_it_is() {
    let (page, tables) = (read(PAGE), tables());
    let (before, rest) = page.split_once(BEGIN).expect("a mark where the options begin");
    let (shown, after) = rest.split_once(END).expect("a mark where they end");
    if env::var_os("CABBAGE_WRITE_DOCS").is_some() {
        fs::write(root().join(PAGE), format!("{before}{BEGIN}{tables}{END}{after}")).expect("the page is written");
        return;
    }
    assert_eq!(shown, tables, "CABBAGE_WRITE_DOCS=1 cargo test -p cabbage-tests --test docs writes {PAGE} anew");
}

#[test]
fn every_option_has_a_variable_and_says_what_it_is() {
    let command = BrokerArgs::augment_args(Command::new("cabbage-broker"));
    for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
        assert!(arg.get_env().is_some_and(|name| name.to_string_lossy().starts_with("CABBAGE_")), "{arg}");
        assert!(arg.get_help().is_some(), "{arg}");
    }
}
