//! Where the address and the password may come from, and what goes before what.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use cabbage_tests::secured::{PASSWORD, Secured};
use tempfile::TempDir;

use crate::run::migrate;

fn passfile(folder: &Path, lines: &str, mode: u32) -> String {
    let path = folder.join(format!("passwords-{mode:o}"));
    fs::write(&path, lines).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
    path.display().to_string()
}

#[tokio::test]
async fn the_environment_of_libpq_is_enough() {
    let server = Secured::shared().await;
    let port = server.port();
    let variables = [
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", &port),
        ("PGUSER", "queue"),
        ("PGDATABASE", "app"),
        ("PGPASSWORD", PASSWORD),
        ("PGCONNECT_TIMEOUT", "30"),
        ("PGAPPNAME", "mine"),
        ("PGOPTIONS", "-c statement_timeout=60s"),
    ];
    migrate(&[], &variables).await.succeeds();
}

#[tokio::test]
async fn urls_keywords_and_single_options_name_the_same_database() {
    let server = Secured::shared().await;
    let port = server.port();
    let url = format!("postgres://queue:hard%20to%3A%20guess%5C@127.0.0.1:{port}/app?connect_timeout=30");
    migrate(&["--database-url", &url], &[]).await.succeeds();
    migrate(&[], &[("DATABASE_URL", url.as_str())]).await.succeeds();
    // An empty variable hides nothing.
    migrate(&[], &[("CABBAGE_DATABASE_URL", ""), ("DATABASE_URL", url.as_str())]).await.succeeds();
    let dsn = format!(r"{} password='hard to: guess\\'", server.dsn("app"));
    migrate(&["--database-url", &dsn], &[]).await.succeeds();
    let options = [
        "--database-host",
        "127.0.0.1",
        "--database-port",
        &port,
        "--database-user",
        "queue",
        "--database-name",
        "app",
    ];
    migrate(&[&options[..], &["--database-password", PASSWORD]].concat(), &[]).await.succeeds();
    let socket = server.socket().display().to_string();
    let socket_url = format!("postgres://queue@/app?host={socket}&port={port}&sslmode=verify-full");
    migrate(&["--database-url", &socket_url], &[]).await.succeeds();
}

#[tokio::test]
async fn options_go_before_the_url_and_the_url_before_the_environment() {
    let server = Secured::shared().await;
    let port = server.port();
    let wrong = [("PGHOST", "/no/host"), ("PGPORT", "1"), ("PGUSER", "nobody"), ("PGPASSWORD", "wrong")];
    let url = format!("postgres://queue:wrong@127.0.0.1:{port}/nothing");
    let options = ["--database-url", &url, "--database-name", "app", "--database-password", PASSWORD];
    migrate(&options, &wrong).await.succeeds();
    let ours = format!("postgres://queue@127.0.0.1:{port}/app");
    let other = [("DATABASE_URL", "postgres://nobody@127.0.0.1:1/no"), ("PGPASSWORD", PASSWORD)];
    migrate(&["--database-url", &ours], &other).await.succeeds();
    let variable = [other[0], other[1], ("CABBAGE_DATABASE_URL", ours.as_str())];
    migrate(&[], &variable).await.succeeds();
}

#[tokio::test]
async fn a_password_file_is_read_by_the_rules_of_libpq() {
    let server = Secured::shared().await;
    let folder = TempDir::new().expect("a folder");
    let escaped = PASSWORD.replace('\\', r"\\").replace(':', r"\:");
    let lines = format!("# mine\n127.0.0.1:1:*:*:wrong\n*:*:app:queue:{escaped}\n*:*:*:*:wrong\n");
    let file = passfile(folder.path(), &lines, 0o600);
    let dsn = server.dsn("app");
    migrate(&["--database-url", &dsn], &[("PGPASSFILE", &file)]).await.succeeds();
    migrate(&["--database-url", &dsn, "--database-passfile", &file], &[]).await.succeeds();
    migrate(&["--database-url", &format!("{dsn} passfile={file}")], &[]).await.succeeds();
    // A password that is said goes before the file.
    let said = migrate(&["--database-url", &dsn], &[("PGPASSFILE", &file), ("PGPASSWORD", "wrong")]).await;
    said.fails(5, &["28P01", "correct PGPASSWORD"]);

    fs::copy(&file, folder.path().join(".pgpass")).expect("a copy with the same mode");
    let home = folder.path().display().to_string();
    migrate(&["--database-url", &dsn], &[("HOME", &home)]).await.succeeds();
    // Another database has no line but the last.
    migrate(&["--database-url", &server.dsn("missing")], &[("HOME", &home)])
        .await
        .fails(5, &["28P01", "correct the first line for it in", ".pgpass"]);
}

#[tokio::test]
async fn a_password_file_that_others_may_read_is_passed_over_and_the_error_says_so() {
    let server = Secured::shared().await;
    let folder = TempDir::new().expect("a folder");
    let file = passfile(folder.path(), "*:*:*:*:something\n", 0o644);
    let ran = migrate(&["--database-url", &server.dsn("app")], &[("PGPASSFILE", &file)]).await;
    ran.fails(5, &["28P01", "no password was given", "chmod 600", &file]);
    assert!(!ran.err.contains("something"), "{}", ran.err);
}
