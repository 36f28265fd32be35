//! CPU time of processes, as the kernel counts it.

use std::{fs, time::Duration};

/// The CPU time that the process has used until now. `None`: this system does not tell.
pub(crate) fn of_process(pid: u32) -> Option<Duration> {
    Some(stat(pid)?.own)
}

/// The CPU time of a PostgreSQL server: its main process, its children, and the children that are gone.
pub(crate) fn of_server(postmaster: u32) -> Option<Duration> {
    let main = stat(postmaster)?;
    let children = fs::read_dir("/proc").ok()?.filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        stat(pid).filter(|stat| stat.parent == postmaster)
    });
    Some(main.own + main.waited_for + children.map(|child| child.own).sum::<Duration>())
}

/// How long the threads of a process have waited for a core until now, all together.
pub(crate) fn waited_by_process(pid: u32) -> Option<Duration> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let waited = |thread: std::io::Result<fs::DirEntry>| {
        waited(&fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?)
    };
    Some(threads.filter_map(waited).sum())
}

/// Of a line of three numbers: the time on a core, the time waiting for one, both in nanoseconds, and how often.
fn waited(schedstat: &str) -> Option<Duration> {
    Some(Duration::from_nanos(schedstat.split_whitespace().nth(1)?.parse().ok()?))
}

struct Stat {
    parent: u32,
    own: Duration,
    /// Of children that have ended and were waited for.
    waited_for: Duration,
}

fn stat(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, rustix::param::clock_ticks_per_second())
}

/// Fields are counted from the end of the name, which may hold anything.
fn parse(text: &str, ticks_per_second: u64) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    let time = |ticks: u64| Duration::from_nanos(ticks * (1_000_000_000 / ticks_per_second));
    Some(Stat {
        parent: number(1)? as u32,
        own: time(number(11)? + number(12)?),
        waited_for: time(number(13)? + number(14)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_and_blanks_do_not_shift_the_fields() {
        let text = "42 (a ) b) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 1 0";
        let stat = parse(text, 100).unwrap();
        assert_eq!((stat.parent, stat.own), (7, Duration::from_secs(2)));
        assert_eq!(stat.waited_for, Duration::from_millis(500));
    }

    #[test]
    fn the_wait_for_a_core_is_the_second_number() {
        assert_eq!(waited("201601 431924 2\n"), Some(Duration::from_nanos(431_924)));
        assert_eq!(waited(""), None);
    }

    #[test]
    fn this_process_has_a_time() {
        if fs::exists("/proc/self/stat").unwrap_or(false) {
            assert!(of_process(std::process::id()).is_some());
        }
    }
}
