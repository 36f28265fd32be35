//! Everything about the wire: what comes in is checked and becomes events; what was decided becomes messages.
//!
//! - [`check`]: wire to checked types, the only place where the limits of the contract are applied (C14).
//! - [`status`]: whatever goes wrong, as one exhaustive list of statuses and reasons.
//! - [`job_service`], [`queue_service`], [`schedule_service`], [`admin_service`], [`worker_service`]: the calls.
//!   [`stream`]: the stream of one worker.
//!
//! Calls of `cabbage.v1` that this broker does not serve answer `UNIMPLEMENTED`, with a reason.

mod actor;
mod admin_service;
mod answer;
mod check;
mod defer;
mod digest;
mod hello;
mod job_service;
mod json;
mod page;
mod queue_service;
mod results;
mod retention;
mod schedule;
mod schedule_service;
mod show;
pub mod status;
mod stream;
mod text;
mod verbs;
mod worker_service;

pub use admin_service::AdminCalls;
pub use job_service::JobCalls;
pub use queue_service::QueueCalls;
pub use schedule_service::ScheduleCalls;
pub use stream::{Incoming, Responses, StreamSettings};
pub(crate) use stream::{Out, broker_drain, open_relayed};
pub use worker_service::WorkerCalls;

/// The largest message in either direction, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
