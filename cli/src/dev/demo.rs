//! The example worker of `dev --demo`, and somebody who keeps giving it jobs.
//!
//! Both are ordinary users of the SDK, over the broker's own address: what they show is what every worker gets.

mod events;
mod producer;
mod tasks;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cabbage_worker::{Client, Worker, WorkerHandle};
use tokio::task::JoinHandle;

use crate::exit::{Exit, Failure, Outcome};
use events::Events;

/// How long handlers may take to finish at the end.
const DRAIN: Duration = Duration::from_secs(5);
/// Handlers at once: few, so that one sees jobs wait.
const CONCURRENCY: usize = 4;

pub(crate) struct Demo {
    handle: WorkerHandle,
    worker: JoinHandle<cabbage_worker::Status>,
    producer: JoinHandle<()>,
    status: JoinHandle<()>,
    events: Arc<Events>,
}

impl Demo {
    pub(crate) fn start(broker: SocketAddr) -> Outcome<Self> {
        let address = format!("http://{broker}");
        let events = Arc::new(Events::default());
        let worker = Worker::builder(&address)
            .name("example worker")
            .concurrency(CONCURRENCY)
            .drain_timeout(DRAIN)
            .shared_state(Arc::clone(&events))
            .middleware(events::Tell(Arc::clone(&events)));
        let worker = tasks::register(worker).build();
        let worker = worker.map_err(|error| Failure::from_error(Exit::Failure, "cannot build the worker", &error))?;
        let client = Client::new(&address);
        let client = client.map_err(|error| Failure::from_error(Exit::Failure, "cannot build the client", &error))?;
        Ok(Self {
            handle: worker.handle(),
            worker: tokio::spawn(worker.run()),
            producer: tokio::spawn(producer::run(client.clone(), Arc::clone(&events))),
            status: tokio::spawn(events::status_lines(Arc::clone(&events))),
            events,
        })
    }

    /// Stops giving jobs, lets the worker finish what it runs, and says what was done.
    pub(crate) async fn stop(self) {
        self.producer.abort();
        self.status.abort();
        self.handle.stop();
        if let Err(error) = self.worker.await {
            tracing::error!(%error, "the example worker did not end well");
        }
        self.events.line(&self.events.status());
    }
}
