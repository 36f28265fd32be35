//! What the SDK promises, on the real broker with its tables in memory: no scripted answers, no database.

mod cancel;
mod concurrency;
mod leases;
mod middleware;
mod retries;
mod scene;
mod stop;
mod tasks;
mod testing;
