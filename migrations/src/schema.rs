//! The name of the schema that holds a cell.

use std::{fmt, str::FromStr};

/// The longest name: PostgreSQL cuts longer identifiers.
const NAME_BYTES_MAX: usize = 63;

/// A schema's name, checked: lower-case letters, digits and `_`, no digit first. So it is safe in any SQL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Schema(String);

/// A name that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name for a schema: use a-z, 0-9 and _, no digit first, at most {NAME_BYTES_MAX} bytes")]
pub struct SchemaNameError(String);

impl Schema {
    /// The bare name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The name in double quotes, since it may be a word that SQL reserves.
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

impl Default for Schema {
    /// `cabbage`
    fn default() -> Self {
        Self("cabbage".to_owned())
    }
}

impl FromStr for Schema {
    type Err = SchemaNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let goes_on_well = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if starts_well && goes_on_well && name.len() <= NAME_BYTES_MAX && !name.starts_with("pg_") {
            Ok(Self(name.to_owned()))
        } else {
            Err(SchemaNameError(name.to_owned()))
        }
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_identifiers_are_names() {
        for good in ["cabbage", "_", "a1_b", &"x".repeat(63)] {
            assert!(good.parse::<Schema>().is_ok(), "{good}");
        }
        for bad in ["", "1a", "A", "a-b", "a\"b", "a b", "a;", "ä", "pg_own", &"x".repeat(64)] {
            assert!(bad.parse::<Schema>().is_err(), "{bad}");
        }
    }
}
