//! Schedules, with the real program against a real broker.

use crate::support::Dev;

#[test]
fn a_schedule_is_put_shown_paused_resumed_run_and_deleted() {
    let dev = Dev::in_memory();
    let put = dev.run(&["schedule", "put", "nightly", "30 2 * * *", "clean", "[1]", "--time-zone", "Europe/Berlin"]);
    assert_eq!((put.code, put.err.as_str()), (0, ""), "{put:?}");
    assert!(put.out.contains("30 2 * * *  in Europe/Berlin") && put.out.contains("\nnext "), "{put:?}");

    let listed = dev.run(&["schedule", "list", "-o", "json"]).json();
    let schedule = &listed["schedules"][0];
    assert_eq!(
        (&schedule["name"], &schedule["args"], &schedule["paused"]),
        (&"nightly".into(), &serde_json::json!([1]), &false.into())
    );
    assert_eq!(schedule["next_ticks"].as_array().map(Vec::len), Some(10));

    let paused =
        dev.run(&["schedule", "pause", "nightly", "--reason", "too loud", "--actor", "ada", "-o", "json"]).json();
    assert_eq!((&paused["paused"], paused["next_ticks"].as_array().map(Vec::len)), (&true.into(), Some(0)));
    assert_eq!((&paused["paused_by"], &paused["pause_reason"]), (&"ada".into(), &"too loud".into()));
    let shown = dev.run(&["schedule", "show", "nightly"]);
    assert!(shown.out.contains(" by ada\nwhy       too loud\n"), "{shown:?}");
    assert_eq!(dev.run(&["schedule", "resume", "nightly", "-o", "json"]).json()["paused"], false);

    let run = dev.run(&["schedule", "run", "nightly"]);
    assert_eq!((run.code, run.out.as_str()), (0, "1\n"), "{run:?}");
    let job = dev.run(&["job", "get", "1", "-o", "json"]).json();
    assert_eq!(job["spec"]["metadata"]["cabbage.schedule"], "nightly");

    assert_eq!(dev.run(&["schedule", "delete", "nightly"]).out, "nightly deleted\n");
    for verb in ["show", "pause", "resume", "run", "delete"] {
        let gone = dev.run(&["schedule", verb, "nightly"]);
        assert_eq!((gone.code, gone.out.as_str()), (3, ""), "{gone:?}");
    }
}

#[test]
fn a_schedule_shows_all_options_of_its_job() {
    let dev = Dev::in_memory();
    let mut line = vec!["schedule", "put", "nightly", "30 2 * * *", "clean", "--time-zone=UTC", "--lock", "l"];
    line.extend(["--priority", "5", "--max-attempts", "3", "--timeout", "10s"]);
    line.extend(["--queueing-lock", "q", "--metadata", "team=a"]);
    assert_eq!(dev.run(&line).code, 0);
    let job = &dev.run(&["schedule", "show", "nightly", "-o", "json"]).json()["job"];
    assert_eq!((&job["task"], &job["priority"], &job["lock"]), (&"clean".into(), &5.into(), &"l".into()));
    assert_eq!((&job["retry"]["max_attempts"], &job["attempt_timeout"]), (&3.into(), &"10s".into()));
    assert_eq!((&job["queueing_lock"], &job["metadata"]["team"]), (&"q".into(), &"a".into()));
    let shown = dev.run(&["schedule", "show", "nightly"]).out;
    let options = ["priority 5", "lock l (first-startable)", "queueing lock q", "timeout 10s", "3 attempts", "team=a"];
    for option in options {
        assert!(shown.contains(option), "{option} in {shown}");
    }
}

#[test]
fn what_is_no_schedule_is_refused_with_its_field_and_a_remedy() {
    let dev = Dev::in_memory();
    for (line, says) in [
        (["schedule", "put", "n", "* * *", "t", "--time-zone=UTC"], "schedule.cron: has 3 fields; give 5"),
        (["schedule", "put", "n", "0 0 30 2 *", "t", "--time-zone=UTC"], "schedule.cron: never comes"),
        (["schedule", "put", "n", "0 0 * * *", "t", "--time-zone=Berlin"], "write it like Europe/Berlin"),
        (["schedule", "put", "n", "0 0 * * *", "t", "--in=1h"], "schedule.job.schedule_in"),
    ] {
        let refused = dev.run(&line);
        assert_eq!((refused.code, refused.out.as_str()), (2, ""), "{refused:?}");
        assert!(refused.err.contains(says), "{refused:?}");
    }
}
