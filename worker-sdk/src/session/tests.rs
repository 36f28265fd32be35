//! The session, driven by hand: time is a number here.

mod jobs;
mod rig;
mod stop;
mod streams;
