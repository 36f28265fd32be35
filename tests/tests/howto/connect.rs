//! `connect.md`: a database that asks for passwords, certificates and encryption, and a host that is away.

use std::fs;

use cabbage_tests::secured::{Secured, tell};

use crate::page::Page;

#[tokio::test]
async fn what_the_page_on_connections_says_can_be_typed() {
    let server = Secured::shared().await;
    let page = Page::open("connect")
        // One of the two is away. Both have the port of the one that is there.
        .stand_in("db1.example.com:5432", "127.0.0.1:1")
        .stand_in("db1.example.com", "127.0.0.2")
        .stand_in("db2.example.com", "127.0.0.1")
        .stand_in("db.example.com", "127.0.0.1")
        .stand_in("/var/run/postgresql", server.socket().display().to_string())
        .stand_in("5432", server.port());
    for (name, file) in [("root.crt", "ours.crt"), ("robot.crt", "robot.crt"), ("robot.key", "robot.key")] {
        fs::copy(server.file(file), page.home().join(name)).expect("a file");
    }
    // As the page says it, and a role that logs in by certificate.
    let roles = ["ALTER ROLE queue PASSWORD 'secret'", "CREATE ROLE robot LOGIN IN ROLE queue"];
    tell(&server.socket_url("postgres"), &roles.map(str::to_owned)).await;
    page.run().await;
}
