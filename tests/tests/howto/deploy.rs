//! `deploy.md`: a broker with its settings in a file.

use cabbage_dev_postgres::TestServer;

use crate::page::Page;

#[tokio::test]
async fn what_the_page_on_deploying_says_can_be_typed() {
    let server = TestServer::shared(None).await.expect("a server");
    let database = server.database().await.expect("a database");
    // The file is read by a shell, to which the `&` of a URL would mean something.
    let page = Page::open("deploy")
        .stand_in(
            "CABBAGE_DATABASE_URL=postgres://queue@db.example.com/app",
            format!("CABBAGE_DATABASE_URL='{database}'"),
        )
        .stand_in("postgres://queue@db.example.com/app", format!("'{database}'"));
    page.run().await;
}
