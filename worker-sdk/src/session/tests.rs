//! The session, driven by hand: time is a number here.

mod jobs;
mod log;
mod rig;
mod stop;
mod streams;
