//! `periodic.md`: nothing but a broker.

use crate::page::Page;

#[tokio::test]
async fn what_the_page_on_periodic_jobs_says_can_be_typed() {
    Page::open("periodic").run().await;
}
