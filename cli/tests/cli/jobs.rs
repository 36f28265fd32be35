//! Deferring jobs and looking at them, with the real program against a real broker.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Stdio,
};

use crate::support::{Dev, Ran, program};

#[test]
fn a_deferred_job_is_shown_listed_and_cancelled() {
    let dev = Dev::in_memory();
    let deferred = dev.run(&["defer", "mail", r#"{"big": 123456789012345678901234567890}"#, "--metadata", "a=b"]);
    assert_eq!((deferred.code, deferred.out.as_str(), deferred.err.as_str()), (0, "1\n", ""));

    let shown = dev.run(&["job", "get", "1", "-o", "json"]);
    assert!(shown.out.contains("123456789012345678901234567890"), "{shown:?}");
    let job = shown.json();
    assert_eq!((&job["id"], &job["state"], &job["waiting_for"]), (&"1".into(), &"waiting".into(), &"unserved".into()));
    assert_eq!(job["spec"]["metadata"]["a"], "b");

    let listed = dev.run(&["job", "list"]);
    assert!(listed.out.lines().nth(1).is_some_and(|row| row.starts_with("1 ")), "{listed:?}");

    let cancelled = dev.run(&["job", "cancel", "1"]);
    assert_eq!((cancelled.code, cancelled.out.as_str()), (0, "1 cancelled\n"));
    assert_eq!(dev.run(&["job", "get", "1", "-o", "json"]).json()["state"], "cancelled");
}

#[test]
fn what_is_not_there_has_its_own_exit_code() {
    let dev = Dev::in_memory();
    for line in [["job", "get", "42"], ["job", "cancel", "42"]] {
        let ran = dev.run(&line);
        assert_eq!((ran.code, ran.out.as_str()), (3, ""), "{ran:?}");
        assert!(ran.err.contains("job 42"), "{ran:?}");
    }
}

#[test]
fn a_taken_queueing_lock_is_a_conflict_unless_it_is_ignored() {
    let dev = Dev::in_memory();
    let line = ["defer", "mail", "--queueing-lock", "q"];
    assert_eq!(dev.run(&line).out, "1\n");
    let second = dev.run(&line);
    assert_eq!((second.code, second.out.as_str()), (4, ""));
    assert!(second.err.contains("job 1") && second.err.contains("--ignore-duplicate"), "{second:?}");
    let ignored = dev.run(&[&line[..], &["--ignore-duplicate"]].concat());
    assert_eq!((ignored.code, ignored.out.as_str()), (0, "1\n"));
    assert!(ignored.err.contains("already enqueued") && ignored.err.contains("(ignored)"), "{ignored:?}");
    assert_eq!(dev.run(&["job", "list", "-o", "json"]).json()["jobs"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_request_id_gives_the_same_answer_again_and_refuses_other_content() {
    let dev = Dev::in_memory();
    let line = ["defer", "mail", "--request-id", "r"];
    assert_eq!(dev.run(&line).out, "1\n");
    let again = dev.run(&line);
    assert_eq!((again.code, again.out.as_str()), (0, "1\n"));
    assert!(again.err.contains("made before"), "{again:?}");
    assert_eq!(dev.run(&["defer", "other", "--request-id", "r"]).code, 4);
    assert_eq!(dev.run(&["defer", "mail", "--request-id", "other"]).out, "2\n");
}

#[test]
fn every_option_of_a_job_arrives() {
    let dev = Dev::in_memory();
    let line = "defer mail --queue q --priority -7 --lock l --lock-mode strict --queueing-lock k --in 1h \
                --deadline 2099-01-01T00:00:00Z --timeout 90s --max-attempts 4 --wait 1s --linear 2s --exponential 3s \
                --max-wait 1m --jitter 0.5 --metadata a=1 --metadata b=2";
    let deferred = dev.run(&line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(deferred.code, 0, "{deferred:?}");
    let job = dev.run(&["job", "get", "1", "-o", "json"]).json();
    let spec = &job["spec"];
    assert_eq!(job["state"], "scheduled");
    for (field, value) in [
        ("queue", "q"),
        ("lock", "l"),
        ("lock_mode", "strict"),
        ("queueing_lock", "k"),
        ("deadline", "2099-01-01T00:00:00.000000Z"),
        ("attempt_timeout", "90s"),
    ] {
        assert_eq!(spec[field], value, "{field}: {spec}");
    }
    assert_eq!((spec["priority"].as_i64(), spec["metadata"]["b"].as_str()), (Some(-7), Some("2")));
    let retry = &spec["retry"];
    assert_eq!((retry["max_attempts"].as_i64(), retry["jitter"].as_f64()), (Some(4), Some(0.5)));
    assert_eq!((&retry["wait"], &retry["linear_wait"]), (&"1s".into(), &"2s".into()));
    assert_eq!((&retry["exponential_wait"], &retry["max_wait"]), (&"3s".into(), &"60s".into()));
}

#[test]
fn arguments_come_from_a_file_or_a_pipe() {
    let dev = Dev::in_memory();
    let file = std::env::temp_dir().join(format!("cabbage-cli-test-{}.json", std::process::id()));
    std::fs::write(&file, "{\"from\": \"file\"}\n").unwrap();
    assert_eq!(dev.run(&["defer", "mail", &format!("@{}", file.display())]).code, 0);
    std::fs::remove_file(&file).unwrap();
    let mut child = program()
        .args(["defer", "mail", "-", "--broker", &dev.broker])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"[\"pipe\"]").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(dev.run(&["job", "get", "1", "-o", "json"]).json()["spec"]["args"]["from"], "file");
    assert_eq!(dev.run(&["job", "get", "2", "-o", "json"]).json()["spec"]["args"][0], "pipe");
}

#[test]
fn lists_are_filtered_and_go_on_page_by_page() {
    let dev = Dev::in_memory();
    for task in ["a", "b", "a", "b", "a"] {
        assert_eq!(dev.run(&["defer", task]).code, 0);
    }
    let ids = |page: &serde_json::Value| -> Vec<String> {
        page["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
    };
    let line = ["job", "list", "--task", "a", "-n", "2", "-o", "json"];
    let first = dev.run(&line).json();
    assert_eq!(ids(&first), ["5", "3"]);
    let token = first["next_page_token"].as_str().unwrap();
    let second = dev.run(&[&line[..], &["--page-token", token]].concat()).json();
    assert_eq!(ids(&second), ["1"]);
    assert_eq!(ids(&dev.run(&["job", "list", "--state", "succeeded,failed", "-o", "json"]).json()), [""; 0]);
}

#[test]
fn bad_input_names_the_field_the_limit_and_the_remedy() {
    let dev = Dev::in_memory();
    for (line, words) in [
        (&["defer", "mail", "--priority", "101"][..], &["priority", "101", "100"][..]),
        (&["defer", "mail", "{name: Ada}"], &["JSON", "quote"]),
        (&["defer", "mail", "--at", "2031-01-01T00:00:00"], &["--at", "no zone", "2031-01-01T00:00:00Z"]),
        (&["defer", "mail", "--in", "90"], &["--in", "90s"]),
        (&["defer", "mail", "--in", "1s", "--at", "2031-01-01T00:00:00Z"], &["--in", "--at"]),
        (&["defer", "mail", "--in", "-1s"], &["--in", "zero or more", "90s"]),
        (&["defer", "mail", "--in", "36501days"], &["schedule_in", "36500 days"]),
        (&["defer", "mail", "--max-attempts", "2", "--jitter", "-1"], &["job.retry.jitter", "0 to 1"]),
        (&["defer", "mail", "--priority", "3000000000"], &["--priority", "-100 to 100"]),
        (&["defer", "mail", "--at", "2031-12-31T23:59:60Z"], &["--at", "leap seconds"]),
        (&["defer", "mail", "--metadata", "a"], &["KEY=VALUE"]),
        (&["defer", "mail", "--metadata", "a=b", "--metadata", "a=c"], &["--metadata", "twice"]),
        (&["job", "get", "first"], &["whole number"]),
        (&["job", "list", "--state", "done"], &["succeeded"]),
    ] {
        let ran = dev.run(line);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{line:?}: {ran:?}");
        assert!(words.iter().all(|word| ran.err.contains(word)), "{line:?}: {ran:?}");
    }
}

#[test]
fn without_a_broker_calls_say_where_they_looked_and_what_to_do() {
    let ran = Ran::of(program().args(["defer", "mail", "--broker", "http://127.0.0.1:1"]));
    assert_eq!((ran.code, ran.out.as_str()), (6, ""));
    assert!(ran.err.contains("http://127.0.0.1:1") && ran.err.contains("cabbage-cli dev"), "{ran:?}");
}

#[test]
fn a_broker_that_is_gone_is_left_for_the_next_address() {
    let dev = Dev::in_memory();
    let both = format!("http://127.0.0.1:1,{}", dev.broker);
    let ran = Ran::of(program().args(["defer", "mail", "--broker", &both]));
    assert_eq!((ran.code, ran.out.as_str()), (0, "1\n"), "{ran:?}");
}

#[test]
fn a_job_that_is_not_final_in_time_has_its_own_exit_code() {
    let dev = Dev::in_memory();
    let ran = dev.run(&["defer", "mail", "--await=10ms"]);
    assert_eq!((ran.code, ran.out.as_str()), (7, "1\n"));
    assert!(ran.err.contains("waiting"), "{ran:?}");
    // A program gets the id too.
    let ran = dev.run(&["defer", "mail", "--await=10ms", "-o", "json"]);
    assert_eq!((ran.code, &ran.json()["job_id"]), (7, &"2".into()), "{ran:?}");
}

#[test]
fn a_connection_that_breaks_leaves_the_outcome_unknown_and_the_message_says_how_to_repeat() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let broker = format!("http://{}", listener.local_addr().unwrap());
    // Ends with the test's process. Each connection is closed once the call has come.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().read(&mut [0; 1_024]);
        }
    });
    let line = ["defer", "mail", "--request-id", "mine", "--broker", &broker, "--call-timeout", "300ms"];
    let ran = Ran::of(program().args(line));
    assert_eq!((ran.code, ran.out.as_str()), (7, ""), "{ran:?}");
    assert!(ran.err.contains("--request-id mine"), "{ran:?}");
    let read = Ran::of(program().args(["job", "get", "1", "--broker", &broker, "--call-timeout", "300ms"]));
    assert_eq!(read.code, 6, "{read:?}");
}
