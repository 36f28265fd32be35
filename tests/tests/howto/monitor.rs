//! `monitor.md`: what operators ask. Its metrics are compared with the code's in `tests/docs`.

use crate::page::Page;

#[tokio::test]
async fn what_the_page_on_monitoring_says_can_be_typed() {
    Page::open("monitor").run().await;
}
