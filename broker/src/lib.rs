//! The broker of cabbage: owns the jobs of a cell in PostgreSQL, and pushes them to connected workers.

pub mod core;
pub mod store;
