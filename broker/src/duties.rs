//! Duties of an owner that are not its commits: signs of life, checkpoints, partitions and retention, on a connection of
//! their own.

mod keeper;
mod retention;

pub(crate) use keeper::{DutyTask, Horizon};
