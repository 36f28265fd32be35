//! The shell end to end on the in-memory store, with a worker that is written by hand: one test for each promise of
//! the wire that is not the core's.

mod calls;
mod database;
mod peer;
mod streams;
mod verbs;
