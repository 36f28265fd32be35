//! What is tested over several rooms at once: suites that run on both stores, whole clusters of real processes, faults,
//! and the checker of histories.
//!
//! - [`history`]: what clients, workers and the database say that happened.
//! - [`checker`]: whether that keeps the contract, clause by clause.
//! - [`load`]: the seeded mixture of jobs, and the schedules; [`witness`]: what brokers answer to workers.
//! - [`cluster`]: PostgreSQL, brokers, workers and clients as real processes.
//! - [`proxy`]: a cable between two parties, that can be cut.
//! - [`secured`]: a PostgreSQL that asks for passwords, certificates and encryption.
//! - [`faults`]: what is done to them, and how soon they recover (C13).

pub mod checker;
pub mod cluster;
pub mod faults;
pub mod history;
pub mod lifeline;
pub mod load;
pub mod proxy;
pub mod secured;
pub mod witness;
