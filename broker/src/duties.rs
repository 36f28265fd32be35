//! Duties of an owner that are not its commits: signs of life, checkpoints, partitions and retention, on a connection of
//! their own; and the upkeep of closed partitions, on another.

mod keeper;
mod retention;
mod upkeep;

pub(crate) use keeper::{DutyTask, Horizon};
pub(crate) use upkeep::UpkeepTask;
