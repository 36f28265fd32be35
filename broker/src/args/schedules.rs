//! How many schedules there may be, and how late their ticks (C12, C14).

use std::time::Duration;

use clap::Args;

use crate::core::limits::Limits;

/// Schedules.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Schedules")]
pub struct ScheduleArgs {
    /// Schedules of the cell at most. What there is stays, also over a lower limit; only new ones are refused.
    #[arg(long, env = "CABBAGE_SCHEDULES_MAX", value_name = "SCHEDULES",
          default_value_t = Limits::default().schedules_max)]
    pub schedules_max: usize,

    /// How late a tick may be under the rule `skip` for missed ticks, in milliseconds; later it is missed.
    #[arg(long, env = "CABBAGE_TICK_GRACE_MS", value_name = "MS", default_value_t = 60_000)]
    pub tick_grace_ms: u64,
}

impl ScheduleArgs {
    /// How late a tick may be under the rule `skip`.
    pub fn tick_grace(&self) -> Duration {
        Duration::from_millis(self.tick_grace_ms)
    }
}

impl Default for ScheduleArgs {
    fn default() -> Self {
        let limits = Limits::default();
        Self { schedules_max: limits.schedules_max, tick_grace_ms: limits.tick_grace.as_millis() as u64 }
    }
}
