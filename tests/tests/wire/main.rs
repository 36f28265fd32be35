//! Whoever breaks the protocol gets the documented error, and harms nobody else.
//!
//! Every test runs beside a worker and a client that keep the rules ([`scene::Scene`]), and looks after them at its end.

mod connections;
mod frames;
mod limits;
#[path = "../broker/memory.rs"]
mod memory;
mod methods;
mod raw;
mod refused;
mod repeats;
mod results;
mod scene;
mod stalls;
mod texts;
mod times;
mod unknown;
mod worker;
