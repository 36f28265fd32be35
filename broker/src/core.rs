//! The core of a cell: folds facts into memory, and decides.
//!
//! Synchronous and without a clock or randomness of its own: events and `now` go in, a [`batch::Batch`] and
//! [`effect::Question`]s come out. The same events at the same times give the same decisions.

pub mod ask;
pub mod batch;
pub mod cron;
pub mod decide;
mod defer;
pub mod effect;
pub mod event;
pub mod fact;
mod finals;
mod ids;
pub mod inbox;
mod index;
mod intake;
pub mod job;
pub mod limits;
mod links;
mod load;
mod locks;
pub mod pages;
pub mod place;
mod questions;
pub mod queues;
pub mod rebuild;
mod recent;
mod record;
mod redo;
mod reschedule;
pub mod retention;
mod room;
pub mod schedule;
mod schedules;
mod sessions;
mod settle;
mod start;
pub mod state;
mod ticks;
pub mod types;
pub mod verbs;
