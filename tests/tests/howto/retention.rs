//! `retention.md`: brokers that keep jobs for other times, and what to ask the database.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, raw_sql};

use crate::{page::Page, postgres};

#[tokio::test]
async fn what_the_page_on_retention_says_can_be_typed() -> anyhow::Result<()> {
    let page = Page::open("retention").stand_in("cabbage-broker --keep", "cabbage-broker --store memory --keep");
    page.run().await;
    let (broker, kept) = postgres::start(|_| {}).await;
    let mut database = PgConnection::connect(kept.url()).await?;
    for question in page.sql() {
        raw_sql(AssertSqlSafe(question)).execute(&mut database).await?;
    }
    broker.shutdown().await?;
    Ok(())
}
