#![doc = include_str!("../README.md")]

mod apply;
mod error;
mod schema;
mod step;

pub use apply::{Status, prepare, prepare_until, status};
pub use error::MigrateError;
pub use schema::{Schema, SchemaNameError};
pub use step::{STEPS, Step};
