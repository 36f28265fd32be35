//! What people who know other queues expect of one, through a real broker, on both stores: deferring, order, locks,
//! failures, stops. `docs/behaviours.md` says which test shows which behaviour.

mod applications;
mod both;
mod cancel;
mod concurrency;
mod database;
mod defer;
mod ends;
mod failures;
mod gone;
mod leases;
mod lists;
mod locks;
mod log;
mod middleware;
mod office;
mod operators;
mod order;
mod page;
mod periodic;
mod queueing;
mod restart;
mod retries;
mod scene;
mod stop;
mod tasks;
