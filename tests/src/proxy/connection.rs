//! One connection over a cable.

use std::{io, net::SocketAddr};

use rand::{Rng as _, rngs::StdRng};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::sleep,
};

use super::weather::{Direction, Flow, Weather};

/// The most bytes that are passed on at once.
const PIECE_BYTES: usize = 16 << 10;

/// A client that came, and the server that it wants.
pub(super) struct Connection {
    client: TcpStream,
    server: SocketAddr,
    weather: watch::Receiver<Weather>,
    swallowed: watch::Sender<u64>,
    random: StdRng,
    age: u64,
}

impl Connection {
    pub(super) fn new(
        client: TcpStream,
        server: SocketAddr,
        weather: watch::Receiver<Weather>,
        swallowed: watch::Sender<u64>,
        random: StdRng,
    ) -> Self {
        let age = weather.borrow().age;
        Self { client, server, weather, swallowed, random, age }
    }

    /// Passes everything on until both have said all, or one of them breaks, or the cable does.
    pub(super) async fn carry(self) {
        let Self { mut client, server, mut weather, swallowed, random, age } = self;
        let Some(mut server) = connect(server, &mut weather, age).await else {
            return reset([&client]);
        };
        // Small pieces are not to wait for others: nobody else makes them wait either.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ended = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let pump = |direction| Pump {
                direction,
                weather: weather.clone(),
                swallowed: swallowed.clone(),
                random: random.clone(),
                age,
                spoiled: false,
            };
            let requests = pump(Direction::ToServer).run(from_client, to_server);
            let answers = pump(Direction::ToClient).run(from_server, to_client);
            tokio::select! {
                ended = async { tokio::try_join!(requests, answers) } => ended.is_ok(),
                () = broken(weather.clone(), age) => false,
            }
        };
        if !ended {
            reset([&client, &server]);
        }
    }
}

/// Opens the way to the server, once it is open at all.
async fn connect(server: SocketAddr, weather: &mut watch::Receiver<Weather>, age: u64) -> Option<TcpStream> {
    let breaks = broken(weather.clone(), age);
    let opens = async {
        weather.wait_for(Weather::lets_connect).await.ok()?;
        TcpStream::connect(server).await.ok()
    };
    tokio::select! {
        biased;
        () = breaks => None,
        server = opens => server,
    }
}

/// Waits until a connection of this age is to be reset.
async fn broken(mut weather: watch::Receiver<Weather>, age: u64) {
    // Without the proxy there is no cable: the same.
    let _ = weather.wait_for(|weather| weather.breaks(age)).await;
}

/// Lets the sockets end with a reset.
fn reset<const N: usize>(sockets: [&TcpStream; N]) {
    for socket in sockets {
        // One that cannot be told any more has ended already.
        let _ = socket.set_zero_linger();
    }
}

/// One direction of a connection.
struct Pump {
    direction: Direction,
    weather: watch::Receiver<Weather>,
    swallowed: watch::Sender<u64>,
    random: StdRng,
    age: u64,
    /// Bytes are missing: once others would arrive, it breaks.
    spoiled: bool,
}

impl Pump {
    async fn run(mut self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            // What is held back is not even read.
            self.until(|flow| flow != Flow::Held).await?;
            let read = if self.spoiled {
                tokio::select! {
                    read = from.read(&mut piece) => read?,
                    healed = self.until(|flow| flow != Flow::Swallowed) => return healed.and(Err(spoiled())),
                }
            } else {
                from.read(&mut piece).await?
            };
            match self.until(|flow| flow != Flow::Held).await? {
                Flow::Swallowed => {
                    self.spoiled = true;
                    if read == 0 {
                        // That the sender has said all is not noticed either.
                        self.until(|flow| flow != Flow::Swallowed).await?;
                        return Err(spoiled());
                    }
                    self.swallowed.send_modify(|swallowed| *swallowed += read as u64);
                    continue;
                }
                Flow::Late(most) => sleep(self.random.random_range(most / 10..=most)).await,
                Flow::Passed | Flow::Held => {}
            }
            if read == 0 {
                return to.shutdown().await;
            }
            to.write_all(&piece[..read]).await?;
        }
    }

    /// Waits until the flow of this direction is so.
    async fn until(&mut self, is_so: impl Fn(Flow) -> bool) -> io::Result<Flow> {
        let (direction, age) = (self.direction, self.age);
        match self.weather.wait_for(|weather| is_so(weather.flow(direction, age))).await {
            Ok(weather) => Ok(weather.flow(direction, age)),
            Err(_) => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

fn spoiled() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}
