//! A TCP proxy that is a bad cable: it passes on what two parties say to each other until it is told to cut, to swallow,
//! to hold back or to dawdle.
//!
//! What a real network does and what stands for it here:
//!
//! | in the network | here |
//! |---|---|
//! | a peer's system answers with a reset | [`Proxy::cut`]: open connections are reset, and so is whoever comes |
//! | a firewall forgets a connection: each side still thinks that it is there | [`Proxy::forget`]: nothing arrives any more, for ever |
//! | so does a peer's system | [`Proxy::swallow`]: nothing arrives any more; after [`Proxy::heal`] the connection is reset |
//! | a cable is unplugged for a while: what was sent arrives late | [`Proxy::hold`]: all of it arrives after [`Proxy::heal`] |
//! | a reply gets lost after the work was done | [`Proxy::swallow`] of one direction, then [`Proxy::reset`] |
//! | a slow or crowded path | [`Proxy::dawdle`] |

mod connection;
#[cfg(test)]
mod tests;
mod weather;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

use rand::{SeedableRng as _, rngs::StdRng};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use connection::Connection;
use weather::Weather;
pub use weather::{Direction, Flow};

/// A cable to one server. Dropping it resets what is open.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    /// Bytes that were swallowed so far.
    swallowed: watch::Sender<u64>,
    _listening: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Listens on a port of its own, within the runtime that it is called in. The seed draws how late things come.
    pub fn start(server: SocketAddr, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let (weather, swallowed) = (watch::Sender::new(Weather::default()), watch::Sender::new(0));
        let (forecast, counter) = (weather.subscribe(), swallowed.clone());
        let listening = tokio::spawn(async move {
            for number in 0.. {
                // Without a file descriptor left there is nothing to do but to try again.
                let Ok((client, _)) = listener.accept().await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let random = StdRng::seed_from_u64(seed.wrapping_add(number));
                let connection = Connection::new(client, server, forecast.clone(), counter.clone(), random);
                tokio::spawn(connection.carry());
            }
        });
        Ok(Self { address, weather, swallowed, _listening: AbortOnDropHandle::new(listening) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets all that is open, and whoever comes, until it heals.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.is_cut = true);
    }

    /// Resets all that is open. Whoever comes is served.
    pub fn reset(&self) {
        self.weather.send_modify(|weather| weather.age += 1);
    }

    /// Swallows what is sent in this direction, ends included, and lets nobody notice: the connection is half-open.
    /// What lost bytes is reset when it heals.
    pub fn swallow(&self, direction: Direction) {
        self.weather.send_modify(|weather| *weather.flow_mut(direction) = Flow::Swallowed);
    }

    /// Swallows both directions.
    pub fn swallow_all(&self) {
        for direction in Direction::BOTH {
            self.swallow(direction);
        }
    }

    /// Swallows all that is open, for ever: no healing helps, only a new connection does.
    pub fn forget(&self) {
        self.weather.send_modify(|weather| {
            weather.age += 1;
            weather.forgotten = weather.age;
        });
    }

    /// Holds back what is sent in either direction until it heals.
    pub fn hold(&self) {
        self.weather.send_modify(|weather| {
            (weather.to_server, weather.to_client) = (Flow::Held, Flow::Held);
        });
    }

    /// Lets everything be late, by up to `most` for each piece.
    pub fn dawdle(&self, most: Duration) {
        self.weather.send_modify(|weather| {
            (weather.to_server, weather.to_client) = (Flow::Late(most), Flow::Late(most));
        });
    }

    /// Passes everything on again.
    pub fn heal(&self) {
        self.weather.send_modify(|weather| {
            let Weather { age, forgotten, .. } = *weather;
            *weather = Weather { age, forgotten, ..Weather::default() };
        });
    }

    /// How many bytes were swallowed since the start.
    pub fn swallowed(&self) -> u64 {
        *self.swallowed.borrow()
    }

    /// Waits until more bytes were swallowed than these.
    pub async fn swallowed_more(&self, than: u64) {
        // It is there as long as this is borrowed.
        let _ = self.swallowed.subscribe().wait_for(|swallowed| *swallowed > than).await;
    }
}
