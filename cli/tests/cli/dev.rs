//! `dev`, `health` and `migrate` with the real program.

use crate::support::{Dev, Ran, program};

#[test]
fn the_demo_does_what_a_person_defers() {
    let mut dev = Dev::start(&["--store", "memory", "--demo"]);
    let ran = dev.run(&["defer", "greet", r#"{"name": "Ada"}"#, "--await=30s"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.ends_with("\"Hello, Ada!\"\n"), "{ran:?}");
    dev.line_with("Hello, Ada!");
    assert!(dev.stop_by("INT").success());
}

#[test]
fn the_demo_shows_a_retry_a_lock_and_a_schedule() {
    let mut dev = Dev::start(&["--store", "memory", "--demo"]);
    dev.line_with("tried again");
    dev.line_with("flaky (attempt 2)");
    dev.line_with("step (lock sequence-1)");
    dev.line_with("done    remind");
    assert!(dev.stop_by("TERM").success());
}

#[test]
fn dev_ends_by_itself_when_asked_to() {
    assert!(Dev::start(&["--store", "memory", "--stop-after", "100ms"]).wait().success());
}

#[test]
fn a_port_that_is_taken_is_a_clear_error() {
    let dev = Dev::in_memory();
    let taken = dev.broker.trim_start_matches("http://");
    let ran = Ran::of(program().args(["dev", "--store", "memory", "--listen", taken, "--admin-listen", "127.0.0.1:0"]));
    assert_eq!((ran.code, ran.out.as_str()), (4, ""));
    assert!(ran.err.contains(taken) && ran.err.contains("--listen"), "{ran:?}");
}

#[test]
fn dev_lets_nobody_in_from_other_machines() {
    let ran = Ran::of(program().args(["dev", "--store", "memory", "--listen", "0.0.0.0:0"]));
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("0.0.0.0:0") && ran.err.contains("127.0.0.1"), "{ran:?}");
}

#[test]
fn health_asks_every_service_and_readyz() {
    let dev = Dev::in_memory();
    let ran = dev.run(&["health", "--admin", &dev.admin, "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let checks = ran.json();
    let names: Vec<_> = checks.as_array().unwrap().iter().map(|check| check["check"].as_str().unwrap()).collect();
    assert_eq!(names, ["broker", "cabbage.v1.JobService", "cabbage.v1.WorkerService", "/readyz"]);
    let nobody = dev.run(&["health", "--broker", "http://127.0.0.1:1"]);
    assert_eq!(nobody.code, 6, "{nobody:?}");
}

#[test]
fn jobs_in_a_kept_folder_are_there_the_next_time() {
    let folder = std::env::temp_dir().join(format!("cabbage-cli-data-{}", std::process::id()));
    let data = folder.to_str().unwrap();
    let dev = Dev::start(&["--data", data]);
    let deferred = dev.run(&["defer", "mail"]);
    assert_eq!(deferred.code, 0, "{deferred:?}");
    let id = deferred.out.trim().to_owned();
    assert!(dev.stop_by("TERM").success());
    let dev = Dev::start(&["--data", data]);
    assert_eq!(dev.run(&["job", "get", &id, "-o", "json"]).json()["state"], "waiting");
    assert!(dev.stop_by("INT").success());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_schema_is_made_once_and_its_status_has_exit_codes() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime
        .block_on(async { cabbage_dev_postgres::TestServer::shared(None).await.unwrap().database().await.unwrap() });
    let run = |args: &[&str]| Ran::of(program().arg("migrate").args(args).env("CABBAGE_DATABASE_URL", database.url()));
    assert_eq!(run(&["--status"]).code, 4);
    let first = run(&[]);
    assert_eq!(first.code, 0, "{first:?}");
    assert!(first.out.contains("from version 0"), "{first:?}");
    assert!(run(&[]).out.contains("nothing was done"));
    assert_eq!(run(&["--status"]).code, 0);
    assert_eq!(run(&["--schema", "Other"]).code, 2);
    let nobody = Ran::of(program().args(["migrate", "--database-url", "postgres://nobody@127.0.0.1:1/none"]));
    assert_eq!(nobody.code, 6, "{nobody:?}");
}
