//! How a broker serves a cell that another broker owns: it passes calls and workers' streams on to the owner.
//!
//! One link, a stream of gRPC, goes from each broker that follows to the owner, and carries everything: a thousand
//! workers of one relay are a thousand numbers on one socket of the owner, and many calls share one frame.
//!
//! On the side that follows:
//! - [`way`]: the task that keeps a link to whoever owns the cell, and the handle that says where calls go.
//! - [`link`]: the link itself; [`calls`] puts calls on it and holds them back while nobody owns the cell, and [`repeats`]
//!   says which of them may be made again; [`worker`] puts a worker's stream on it.
//!
//! On the side of the owner:
//! - [`host`]: `RelayService`, which takes links; [`guests`]: who follows, how far, and to whom the cell is handed over;
//!   [`formats`]: what all of them can read.
//!
//! [`parts`] and [`window`] are what both have in common.

mod calls;
mod formats;
mod guests;
mod host;
mod link;
mod parts;
mod repeats;
mod way;
mod window;
mod worker;

pub use calls::{Relayed, relay};
pub(crate) use formats::raise_formats;
pub use guests::{Guest, Guests, HandOverError};
pub use host::{RelayCalls, RelayedFrames};
pub use link::Link;
pub use parts::FRAME_BYTES_MAX as LINK_FRAME_BYTES_MAX;
pub use way::{Relay, Way};
pub(crate) use worker::{RelayedEnd, serve};
