//! The gRPC server: its routes, and how connections are treated.

use std::{io, time::Duration};

use axum::{
    middleware::{from_fn_with_state, map_response},
    response::Response,
};
use cabbage_proto::{
    relay::v1::relay_service_server::RelayServiceServer,
    v1::{
        admin_service_server::AdminServiceServer, job_service_server::JobServiceServer,
        queue_service_server::QueueServiceServer, schedule_service_server::ScheduleServiceServer,
        worker_service_server::WorkerServiceServer,
    },
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::server::HealthReporter;

use crate::{
    grpc::{
        AdminCalls, JobCalls, MESSAGE_BYTES_MAX, QueueCalls, ScheduleCalls, StreamSettings, WorkerCalls,
        status::{Reason, explained},
    },
    relay::{self, Guests, LINK_FRAME_BYTES_MAX, Relay, RelayCalls},
};

/// A connection that does not answer a ping in time is dead. (Beats of workers cross proxies; these find the rest.)
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Calls and streams of one connection at once.
const CONNECTION_STREAMS_MAX: u32 = 1_024;

/// Of those, calls that were given up by their callers before they were looked at. A broker that stood still for a while
/// finds many at once; with the default of 20 it would break the connection, and with it all other calls.
const GIVEN_UP_STREAMS_MAX: usize = CONNECTION_STREAMS_MAX as usize;

/// What may be under way to us, for a stream and for a connection. A connection holds several large batches, so that
/// one stream that waits does not stop the others.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The headers of one call.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// The routes could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the reflection service cannot be made: {0}")]
pub struct RoutesError(String);

/// Every call that the broker answers, or passes on to the owner of the cell; and the health of its services.
pub fn routes(
    relay: &Relay,
    guests: &Guests,
    streams: &StreamSettings,
    reflection: bool,
) -> Result<(Routes, HealthReporter), RoutesError> {
    let cell = relay.cell();
    let (reporter, health) = tonic_health::server::health_reporter();
    let jobs = JobServiceServer::new(JobCalls::new(cell.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let schedules = ScheduleServiceServer::new(ScheduleCalls::new(cell.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let workers = WorkerServiceServer::new(WorkerCalls::new(relay.clone(), streams.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let queues = QueueServiceServer::new(QueueCalls::new(cell.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let admin = AdminServiceServer::new(AdminCalls::new(cell.clone(), guests.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let mut routes = Routes::new(jobs)
        .add_service(queues)
        .add_service(schedules)
        .add_service(admin)
        .add_service(workers)
        .add_service(health);
    if reflection {
        let described = |builder: tonic_reflection::server::Builder<'static>| {
            builder
                .register_encoded_file_descriptor_set(cabbage_proto::DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let failed = |error: tonic_reflection::server::Error| RoutesError(error.to_string());
        let newer = described(tonic_reflection::server::Builder::configure()).build_v1().map_err(failed)?;
        let older = described(tonic_reflection::server::Builder::configure()).build_v1alpha().map_err(failed)?;
        routes = routes.add_service(newer).add_service(older);
    }
    // What is not served says so in the same words as everything else.
    let router = routes.into_axum_router().fallback(|uri: axum::http::Uri| async move {
        let text = format!("this broker does not serve {}", uri.path());
        Reason::NotImplemented.status(text).into_http::<axum::body::Body>()
    });
    let answers = router.layer(map_response(explain));
    // What a link brings was held back and passed on by the broker that sent it, and is only answered here.
    let links = RelayCalls::new(cell.clone(), answers.clone(), streams.clone(), guests.clone());
    let links = RelayServiceServer::new(links).max_decoding_message_size(LINK_FRAME_BYTES_MAX);
    let relayed = answers.layer(from_fn_with_state(relay.clone(), relay::relay));
    Ok((Routes::from(relayed).add_service(links), reporter))
}

/// What the transport refuses by itself (messages that are too large or malformed, calls that do not exist) is said in
/// the same words too.
async fn explain(response: Response) -> Response {
    match Status::from_header_map(response.headers()).and_then(|status| explained(&status)) {
        Some(status) => status.into_http(),
        None => response,
    }
}

/// Serves until it is told to stop and every call has ended. Streams may last for days: whoever stops this ends them,
/// and has a timer of its own.
pub async fn serve(listener: TcpListener, routes: Routes, stop: CancellationToken) -> io::Result<()> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(GIVEN_UP_STREAMS_MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
        .map_err(io::Error::other)
}
