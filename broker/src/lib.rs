//! The broker of cabbage: owns the jobs of a cell in PostgreSQL, and pushes them to connected workers.
//!
//! [`Broker::start`] runs one within a tokio runtime, by [`BrokerArgs`]. Inside, [`core`] decides and never waits,
//! [`store`] is the seam to the database, [`cell`] is the shell that drives the one with the other, [`grpc`] is the wire,
//! and [`relay`] is how a broker serves a cell that another broker owns.

pub mod args;
pub mod cell;
pub mod clock;
pub mod core;
mod duties;
pub mod grpc;
pub mod health;
pub mod relay;
pub mod run;
mod runtime;
pub mod serve;
pub mod store;
pub mod telemetry;
pub mod unfinished;

pub use args::BrokerArgs;
pub use run::{Broker, BrokerError};
pub use runtime::runtime;
