//! The real program, against real brokers on free ports.

mod dev;
mod jobs;
mod support;
mod verbs;
