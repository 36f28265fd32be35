//! Duties of an owner that are not its commits: signs of life, checkpoints and partitions, on a connection of their own.

mod keeper;

pub(crate) use keeper::{DutyTask, Horizon};
