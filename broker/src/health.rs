//! Whether the broker lives and serves: for gRPC by service, and by HTTP on the second port.
//!
//! `/livez` says that the process runs, and nothing else. `/readyz` says whether it serves, and if not, why. `/metrics`
//! is read by Prometheus.

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{cell::Role, relay::Relay, telemetry::Metrics, unfinished::unfinished};

/// How long the database may take to answer a question for readiness.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The services that health is reported for. The empty name is the broker as a whole.
const WORKER_SERVICE: &str = "cabbage.v1.WorkerService";
const SERVICES: [&str; 6] = [
    "",
    "cabbage.v1.JobService",
    "cabbage.v1.QueueService",
    "cabbage.v1.ScheduleService",
    "cabbage.v1.AdminService",
    WORKER_SERVICE,
];

/// How often it is looked whether the owner can still be reached.
const LOOK: Duration = Duration::from_secs(1);

/// Reports each service by what this broker is for the cell, until the cell has ended. When the broker begins to stop,
/// the worker service goes first.
pub async fn report(reporter: HealthReporter, relay: Relay, draining: CancellationToken) {
    let mut role = relay.cell().watch();
    loop {
        let serves = serves(&role.borrow_and_update()) && relay.trouble().is_none();
        for service in SERVICES {
            let serves = serves && (service != WORKER_SERVICE || !draining.is_cancelled());
            let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
            reporter.set_service_status(service, status).await;
        }
        tokio::select! {
            changed = role.changed() => if changed.is_err() {
                return;
            },
            () = draining.cancelled(), if !draining.is_cancelled() => {}
            () = sleep(LOOK) => {}
        }
    }
}

/// Before the schema was checked, nothing is served.
pub async fn report_nothing(reporter: &HealthReporter) {
    for service in SERVICES {
        reporter.set_service_status(service, ServingStatus::NotServing).await;
    }
}

fn serves(role: &Role) -> bool {
    match role {
        Role::Owning(_) | Role::Following(_) => true,
        Role::Starting(_) | Role::Stopped => false,
    }
}

/// What the second port shows.
#[derive(Clone)]
pub struct Admin {
    /// The way to the owner of the cell.
    pub relay: Relay,
    /// The numbers.
    pub metrics: Metrics,
    /// Cancelled when the broker begins to stop.
    pub draining: CancellationToken,
}

/// Serves the second port until it is told to stop.
pub async fn serve(
    listener: TcpListener,
    admin: Admin,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(admin));
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let not_ready = |why: String| (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response();
    if admin.draining.is_cancelled() {
        return not_ready("the broker stops".to_owned());
    }
    if let Some(why) = admin.relay.trouble() {
        return not_ready(why.to_string());
    }
    let cell = admin.relay.cell();
    let role = match cell.role() {
        Role::Starting(why) => return not_ready(why.to_string()),
        Role::Stopped => return not_ready("the cell was given back".to_owned()),
        Role::Owning(owned) => format!("owns the cell, term {}", owned.term.number),
        Role::Following(Some(owner)) => format!("follows {}", owner.address),
        Role::Following(None) => "follows another broker".to_owned(),
    };
    match timeout(PING_TIMEOUT, cell.store().ping()).await {
        Ok(Ok(_)) => format!("ready: {role}\n").into_response(),
        Ok(Err(error)) => not_ready(error.to_string()),
        Err(_) => not_ready(format!("the database did not answer within {PING_TIMEOUT:?}")),
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    // Only the owner knows. One that loses the cell meanwhile shows none: the next owner does.
    let unfinished = unfinished(admin.relay.cell()).await.unwrap_or_default();
    match admin.metrics.render(&unfinished) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
