//! Decisions of the core that the simulation meets too seldom, each set up by hand.

mod inbox;
mod look_ups;
mod refusals;
mod retention;
mod rig;
mod room;
mod schedules;
mod sessions;
