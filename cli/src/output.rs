//! What goes to standard output (data) and to standard error (talk).

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

use clap::{Args, ValueEnum};
use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};

/// How to print.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputArgs {
    /// How to print: for people, or for programs
    #[arg(short = 'o', long = "output", value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// A form of output. The text for people may change at any time; the JSON only gains fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text for people
    Table,
    /// JSON for programs
    Json,
}

impl OutputArgs {
    /// Prints one thing in the form that was asked for.
    pub(crate) fn print(self, for_people: impl FnOnce() -> String, for_programs: &impl Serialize) -> Outcome {
        let text = match self.format {
            Format::Table => for_people(),
            Format::Json => serde_json::to_string_pretty(for_programs).map_err(anyhow::Error::from)?,
        };
        print_line(&text)
    }
}

/// Writes to standard output. A reader who has seen enough (`| head`) is no failure.
pub(crate) fn print_line(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failure, format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Says something to the person, on standard error. There is nothing to be done if nobody listens.
pub(crate) fn say(what: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{what}");
}

/// Whether to colour what goes to this stream.
pub(crate) fn colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// An empty table in the one style that we use: no lines, so that it can be cut and grepped.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if colour(&io::stdout()) {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(header.iter().map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    table
}

/// The lines of a table: no blanks before the first column, two between, none at the end.
pub(crate) fn lines(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}
