//! Encryption, in all modes of libpq.

use cabbage_tests::secured::{PASSWORD, Secured};

use crate::run::{Ran, migrate};

async fn connect(dsn: &str, sslmode: &str, more: &[(&str, &str)]) -> Ran {
    let variables = [&[("PGPASSWORD", PASSWORD), ("PGSSLMODE", sslmode)], more].concat();
    migrate(&["--database-url", dsn], &variables).await
}

#[tokio::test]
async fn each_mode_encrypts_as_far_as_it_promises() {
    let server = Secured::shared().await;
    let (encrypted, plain) = (server.dsn("encrypted"), server.dsn("plain"));
    connect(&encrypted, "disable", &[]).await.fails(5, &["28000", "pg_hba.conf"]);
    connect(&plain, "disable", &[]).await.succeeds();
    for mode in ["allow", "prefer"] {
        connect(&encrypted, mode, &[]).await.succeeds();
        connect(&plain, mode, &[]).await.succeeds();
    }
    connect(&encrypted, "require", &[]).await.succeeds();
    connect(&plain, "require", &[]).await.fails(5, &["28000", "pg_hba.conf"]);
}

#[tokio::test]
async fn a_certificate_is_checked_as_far_as_the_mode_says() {
    let server = Secured::shared().await;
    let dsn = server.dsn("encrypted");
    let (ours, theirs) = (server.file("ours.crt"), server.file("theirs.crt"));
    for mode in ["verify-ca", "verify-full"] {
        connect(&dsn, mode, &[("PGSSLROOTCERT", &ours)]).await.succeeds();
        let ran = connect(&dsn, mode, &[("PGSSLROOTCERT", &theirs)]).await;
        ran.fails(4, &["a certificate that is not trusted", "sslrootcert"]);
    }
    // Whoever names an authority wants it to be asked, as in libpq.
    connect(&dsn, "require", &[("PGSSLROOTCERT", &theirs)]).await.fails(4, &["not trusted"]);
    connect(&dsn, "verify-full", &[]).await.fails(4, &["not trusted"]);
    let by_name = dsn.replace("127.0.0.1", "localhost");
    connect(&by_name, "verify-ca", &[("PGSSLROOTCERT", &ours)]).await.succeeds();
    let ran = connect(&by_name, "verify-full", &[("PGSSLROOTCERT", &ours)]).await;
    ran.fails(4, &["localhost:", "a certificate for another name", "verify-ca"]);
}

#[tokio::test]
async fn a_role_can_log_in_by_certificate() {
    let server = Secured::shared().await;
    let dsn = server.dsn("certified");
    let file = |name: &str| server.file(name);
    let (certificate, key) = (file("queue.crt"), file("queue.key"));
    connect(&dsn, "require", &[("PGSSLCERT", &certificate), ("PGSSLKEY", &key)]).await.succeeds();
    let options = ["--database-sslcert", &certificate, "--database-sslkey", &key, "--database-sslmode", "require"];
    migrate(&[&["--database-url", &dsn], &options[..]].concat(), &[]).await.succeeds();
    connect(&dsn, "require", &[]).await.fails(5, &["28000", "sslcert and sslkey"]);
    let (certificate, key) = (file("stranger.crt"), file("stranger.key"));
    let ran = connect(&dsn, "require", &[("PGSSLCERT", &certificate), ("PGSSLKEY", &key)]).await;
    ran.fails(4, &["does not take our certificate", "sslcert"]);
}

#[tokio::test]
async fn files_that_do_not_hold_what_they_should_are_named() {
    let server = Secured::shared().await;
    let dsn = server.dsn("encrypted");
    let (certificate, key) = (server.file("queue.crt"), server.file("queue.key"));
    let missing = server.file("missing.crt");
    connect(&dsn, "verify-full", &[("PGSSLROOTCERT", &missing)])
        .await
        .fails(2, &["PGSSLROOTCERT", &missing, "cannot be read"]);
    connect(&dsn, "verify-full", &[("PGSSLROOTCERT", &key)]).await.fails(2, &["PGSSLROOTCERT", "no certificate"]);
    connect(&dsn, "require", &[("PGSSLCERT", &certificate), ("PGSSLKEY", &certificate)])
        .await
        .fails(2, &["PGSSLKEY", "no private key"]);
    connect(&dsn, "require", &[("PGSSLCERT", &certificate)]).await.fails(2, &["PGSSLCERT", "sslkey"]);
    let other = server.file("robot.key");
    connect(&dsn, "require", &[("PGSSLCERT", &certificate), ("PGSSLKEY", &other)])
        .await
        .fails(2, &["PGSSLCERT", &certificate, "PGSSLKEY", &other, "belong together"]);
}
