//! A worker for jobs that do nothing, as fast as they come; stop it with Ctrl-C.

use std::time::Duration;

use cabbage_worker::{Context, TaskError, Worker};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::var("CABBAGE_BROKER").unwrap_or_else(|_| "127.0.0.1:7733".to_owned());
    let worker = Worker::builder(&address)
        .function("noop", |(): (), _: Context| async { Ok::<_, TaskError>(()) })
        .concurrency(2_000)
        .prefetch(4_000)
        .handle_signals()
        .build()?;
    let handle = worker.handle();
    let report = tokio::spawn(async move {
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let counters = handle.status().counters;
            println!("{} jobs/s", counters.recorded - before);
            before = counters.recorded;
        }
    });
    let status = worker.run().await;
    report.abort();
    println!("{:?}", status.counters);
    Ok(())
}
