//! How long something on this machine waited for a core or for a disk, as the kernel counts it.

use std::{fs, time::Duration};

/// The time that at least one task has waited until now. Zero where the kernel does not tell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pressure {
    pub(super) cpu: Duration,
    pub(super) disk: Duration,
}

impl Pressure {
    pub(super) fn read() -> Self {
        let read = |of: &str| fs::read_to_string(format!("/proc/pressure/{of}")).ok().and_then(|text| total(&text));
        Self { cpu: read("cpu").unwrap_or_default(), disk: read("io").unwrap_or_default() }
    }
}

/// The total of the line for some tasks; that for all of them at once says less.
fn total(text: &str) -> Option<Duration> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    let micros = some.split(' ').find_map(|word| word.strip_prefix("total="))?.parse().ok()?;
    Some(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_that_of_some_tasks() {
        let text = "some avg10=63.41 avg60=51.64 avg300=29.65 total=5984058844\nfull avg10=0.00 total=7\n";
        assert_eq!(total(text), Some(Duration::from_micros(5_984_058_844)));
        assert_eq!(total("some avg10=0.00"), None);
    }
}
