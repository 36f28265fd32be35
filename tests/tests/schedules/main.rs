//! Periodic jobs end to end, on both stores: real brokers, the SDK's client and its workers (C12).

#[path = "../broker/memory.rs"]
mod memory;
#[path = "../broker/postgres.rs"]
mod postgres;
mod ticks;
