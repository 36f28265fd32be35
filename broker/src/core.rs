//! The core of a cell: folds facts into memory, and decides.
//!
//! Synchronous and without a clock or randomness of its own: events and `now` go in, a [`batch::Batch`] and
//! [`effect::Question`]s come out. The same events at the same times give the same decisions.

pub mod batch;
pub mod decide;
pub mod effect;
pub mod event;
pub mod fact;
pub mod job;
pub mod limits;
pub mod pages;
pub mod place;
pub mod state;
pub mod types;
