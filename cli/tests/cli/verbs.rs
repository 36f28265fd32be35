//! Operators' verbs, with the real program against a real broker.

use crate::support::Dev;

#[test]
fn several_jobs_have_a_line_each_and_one_exit_code() {
    let dev = Dev::in_memory();
    for _ in 0..3 {
        assert_eq!(dev.run(&["defer", "mail"]).code, 0);
    }
    let cancelled = dev.run(&["job", "cancel", "1", "2", "--reason", "not needed"]);
    assert_eq!((cancelled.code, cancelled.out.as_str()), (0, "1 cancelled\n2 cancelled\n"));
    // What is refused to one does not stop the others; alike refusals keep their code, others are a plain failure.
    let retried = dev.run(&["job", "retry", "1", "3"]);
    assert_eq!((retried.code, retried.out.as_str()), (4, "1 waiting\n"), "{retried:?}");
    assert!(retried.err.contains("job 3") && retried.err.contains("not final"), "{retried:?}");
    let retried = dev.run(&["job", "retry", "3", "42", "2"]);
    assert_eq!((retried.code, retried.out.as_str()), (1, "2 waiting\n"), "{retried:?}");
    assert!(retried.err.contains("2 of 3 jobs"), "{retried:?}");
    let ran = dev.run(&["job", "retry", "42"]);
    assert_eq!((ran.code, ran.out.as_str()), (3, ""), "{ran:?}");
    let ran = dev.run(&["job", "retry", "1", "2", "--request-id", "r"]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
}

#[test]
fn a_job_is_moved_in_time_and_erased() {
    let dev = Dev::in_memory();
    assert_eq!(dev.run(&["defer", "mail", "--in", "2h"]).code, 0);
    assert_eq!(dev.run(&["job", "run-now", "1"]).out, "1 waiting\n");
    let moved = dev.run(&["job", "reschedule", "1", "--at", "2099-01-01T00:00:00Z"]);
    assert_eq!((moved.code, moved.out.as_str()), (0, "1 scheduled\n"), "{moved:?}");
    let job = dev.run(&["job", "show", "1", "-o", "json"]).json();
    assert_eq!((&job["state"], &job["due_at"]), (&"scheduled".into(), &"2099-01-01T00:00:00.000000Z".into()));
    let moved = dev.run(&["job", "reschedule", "1", "--in", "2h"]);
    assert_eq!((moved.code, moved.out.as_str()), (0, "1 scheduled\n"), "{moved:?}");
    for line in [&["job", "reschedule", "1"][..], &["job", "retry", "1", "--in=1s", "--at", "2099-01-01T00:00:00Z"]] {
        let refused = dev.run(line);
        assert!(refused.code == 2 && refused.err.contains("--in"), "{refused:?}");
    }
    let refused = dev.run(&["job", "reschedule", "1", "--at", "2099-01-01T00:00:00"]);
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("no zone"), "{refused:?}");
    let early = dev.run(&["job", "delete", "1"]);
    assert_eq!(early.code, 4);
    assert!(early.err.contains("cancel it first"), "{early:?}");
    assert_eq!(dev.run(&["job", "cancel", "1"]).code, 0);
    let deleted = dev.run(&["job", "delete", "1", "-o", "json"]);
    assert_eq!(deleted.json()["jobs"][0]["state"], "deleted");
    assert_eq!(dev.run(&["job", "get", "1"]).code, 3);
}

#[test]
fn a_final_job_is_run_again_after_a_while() {
    let dev = Dev::in_memory();
    assert_eq!(dev.run(&["defer", "mail"]).code, 0);
    assert_eq!(dev.run(&["job", "cancel", "1"]).code, 0);
    assert_eq!(dev.run(&["job", "retry", "1", "--in", "2h"]).out, "1 scheduled\n");
}

#[test]
fn a_queue_is_paused_shown_and_resumed() {
    let dev = Dev::in_memory();
    assert_eq!(dev.run(&["defer", "mail", "--queue", "bulk"]).code, 0);
    let paused = dev.run(&["queue", "pause", "bulk", "--reason", "the provider is down", "--actor", "ada"]);
    assert_eq!(paused.code, 0, "{paused:?}");
    assert!(paused.out.contains("by ada") && paused.out.contains("the provider is down"), "{paused:?}");
    assert_eq!(paused.err, "");
    // The first one counts, and who comes second is told.
    let again = dev.run(&["queue", "pause", "bulk", "--reason", "me too", "--actor", "bob"]);
    assert!(again.code == 0 && again.err.contains("was paused already, since "), "{again:?}");
    assert!(again.err.contains("by ada (the provider is down)"), "{again:?}");
    let queue = dev.run(&["queue", "show", "bulk", "-o", "json"]).json();
    assert_eq!((&queue["paused"], &queue["paused_by"]), (&true.into(), &"ada".into()));
    let count = &queue["counts"][0];
    assert_eq!((&count["state"], &count["waiting_for"]), (&"waiting".into(), &"paused".into()));
    let rows = dev.run(&["queue", "list"]);
    let row: Vec<_> = rows.out.lines().nth(1).expect("a row").split_whitespace().map(str::to_owned).collect();
    assert_eq!(row, ["bulk", "yes", "0", "1", "0", "0", "0", "0", "0"]);
    let resumed = dev.run(&["queue", "resume", "bulk", "-o", "json"]).json();
    assert_eq!(resumed["paused"], false);
    for verb in ["show", "resume"] {
        assert_eq!(dev.run(&["queue", verb, "nowhere"]).code, 3, "{verb}");
    }
}

#[test]
fn what_was_asked_is_shown_with_who_and_why() {
    let dev = Dev::in_memory();
    assert_eq!(dev.run(&["defer", "mail"]).code, 0);
    assert_eq!(dev.run(&["job", "cancel", "1", "--reason", "not needed", "--actor", "ada"]).code, 0);
    assert_eq!(dev.run(&["queue", "pause", "default", "--actor", "bob"]).code, 0);
    let audit = dev.run(&["audit", "-o", "json"]).json();
    let entries = audit["entries"].as_array().expect("a list");
    assert_eq!((&entries[0]["verb"], &entries[0]["queue"]), (&"pause".into(), &"default".into()));
    let cancel = &entries[1];
    assert_eq!((&cancel["verb"], &cancel["actor"]), (&"cancel".into(), &"ada".into()));
    assert_eq!((&cancel["job_id"], &cancel["reason"]), (&"1".into(), &"not needed".into()));
    let of_job = dev.run(&["audit", "--job", "1"]);
    assert_eq!(of_job.out.lines().count(), 2, "{of_job:?}");
    let shown = dev.run(&["job", "get", "1"]);
    assert!(shown.out.contains("not needed") && shown.out.contains("ada"), "{shown:?}");
}

#[test]
fn a_taken_queueing_lock_moves_the_waiting_job_if_it_is_told_to() {
    let dev = Dev::in_memory();
    let line = ["defer", "index", "[1]", "--queueing-lock", "page-7", "--on-conflict"];
    assert_eq!(dev.run(&[&line[..], &["reject"]].concat()).out, "1\n");
    let moved =
        dev.run(&["defer", "index", "[2]", "--in", "1h", "--queueing-lock", "page-7", "--on-conflict", "reschedule"]);
    assert_eq!((moved.code, moved.out.as_str()), (0, "1\n"), "{moved:?}");
    let job = dev.run(&["job", "get", "1", "-o", "json"]).json();
    assert_eq!((&job["state"], &job["spec"]["args"][0]), (&"scheduled".into(), &1.into()));
    assert_eq!(dev.run(&["defer", "index", "[3]", "--queueing-lock", "page-7", "--on-conflict", "replace"]).out, "1\n");
    let job = dev.run(&["job", "get", "1", "-o", "json"]).json();
    assert_eq!((&job["state"], &job["spec"]["args"][0]), (&"waiting".into(), &3.into()));
    assert_eq!(dev.run(&["defer", "index", "--on-conflict", "replace"]).code, 2);
}
