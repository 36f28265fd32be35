//! `bench` with the real program: that it checks what it measures. Its figures are not looked at.

use serde_json::Value;

use crate::support::{Dev, Ran, program};

/// Runs a verb; gives its report.
fn measured(mut run: impl FnMut(&[&str]) -> Ran, args: &[&str]) -> Value {
    let args: Vec<&str> = ["bench"].into_iter().chain(args.iter().copied()).chain(["-o", "json"]).collect();
    let ran = run(&args);
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.json()
}

fn assert_clean(check: &Value, jobs: u64) {
    assert_eq!(check["jobs"].as_u64(), Some(jobs), "{check}");
    let tally = |field: &str| check["tally"][field].as_u64();
    assert_eq!((tally("ran"), tally("lost"), tally("doubled")), (Some(jobs), Some(0), Some(0)), "{check}");
}

#[test]
fn each_load_is_measured_and_checked_on_a_given_broker() {
    let dev = Dev::in_memory();
    let on_dev = |args: &[&str]| {
        let args: Vec<&str> = args.iter().copied().chain(["--broker", &dev.broker]).collect();
        measured(|args| dev.run(args), &args)
    };
    let drain = on_dev(&["drain", "--jobs", "3000"]);
    assert_clean(&drain["checks"][0], 3_000);
    assert_eq!(drain["checks"][0]["listed"].as_u64(), Some(3_000));
    assert_clean(&on_dev(&["e2e", "--jobs", "3000"])["checks"][0], 3_001);
    assert_clean(&on_dev(&["defer", "--jobs", "1000"])["checks"][0], 3_000);
    assert_clean(&on_dev(&["defer", "--jobs", "1000", "--batch", "100", "--stock"])["checks"][0], 3_000);
    let backlog = on_dev(&["backlog", "--jobs", "3000", "--short", "1000"]);
    assert_clean(&backlog["checks"][0], 1_000);
    assert_clean(&backlog["checks"][1], 3_000);
    let latency = on_dev(&["latency", "--rate", "200", "--seconds", "1"]);
    assert_clean(&latency["check"], 600);
    assert_eq!((latency["start"]["count"].as_u64(), latency["result"]["count"].as_u64()), (Some(200), Some(200)));
}

#[test]
fn a_takeover_is_measured_on_brokers_of_its_own() {
    let report = measured(|args| Ran::of(program().args(args)), &["takeover", "--jobs", "1000", "--rounds", "2"]);
    assert_eq!((report["kept"].as_u64(), report["escaped"].as_u64()), (Some(1_000), Some(0)), "{report}");
    assert_eq!(report["rounds_ms"].as_array().map(Vec::len), Some(2), "{report}");
}

#[test]
fn idle_streams_are_measured_and_then_get_jobs() {
    let report = measured(|args| Ran::of(program().args(args)), &["stream", "--streams", "5", "--seconds", "1"]);
    assert_eq!(report["rows"][1]["streams"].as_u64(), Some(5), "{report}");
    assert_clean(&report["check"], 10_050);
}

#[test]
fn loads_are_compared_with_the_bare_statements() {
    let own = |args: &[&str]| measured(|args| Ran::of(program().args(args)), args);
    let drain = own(&["drain", "--jobs", "3000", "--bare", "--old-snapshot"]);
    let e2e = own(&["e2e", "--jobs", "3000", "--bare"]);
    for (report, jobs, at_least) in [(&drain, 3_000, 8), (&e2e, 3_001, 3)] {
        assert_clean(&report["checks"][0], jobs);
        let phases = report["phases"].as_array().expect("phases");
        assert!(phases.len() >= at_least, "{report}");
        for phase in phases {
            assert!(phase["jobs"].as_u64() >= Some(3_000), "{phase}");
        }
        assert!(report["ratios"].as_array().is_some_and(|ratios| !ratios.is_empty()), "{report}");
    }
}

#[test]
fn crowds_of_each_kind_are_measured_and_none_of_them_runs() {
    let little = ["--jobs", "2000", "--burst", "1000", "--bursts", "1", "--probes", "10"];
    for (verb, crowds) in [("crowd", 4), ("locked", 1)] {
        let locks: &[&str] = if verb == "locked" { &["--locks", "3"] } else { &[] };
        let args: Vec<_> = [verb].iter().chain(&little).chain(locks).copied().collect();
        let report = measured(|args| Ran::of(program().args(args)), &args);
        let rows = report["rows"].as_array().expect("rows");
        assert_eq!(rows.len(), 2 * crowds, "{report}");
        for row in rows {
            assert_eq!((row["escaped"].as_u64(), row["waits"]["doubled"].as_u64()), (Some(0), Some(0)), "{row}");
        }
        assert!(rows[1]["takeover_ms"].as_f64().is_some(), "{report}");
    }
}
