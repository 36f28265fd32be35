//! The real program, against real brokers on free ports.

mod bench;
mod dev;
mod jobs;
mod schedules;
mod support;
mod usage;
mod verbs;
