//! A running broker: its parts, how they start, and in which order they stop.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    args::{ArgsError, BrokerArgs, StoreKind},
    cell::{Cell, CellSettings, Role},
    core::{ask::By, types::Term},
    grpc::StreamSettings,
    health::{self, Admin},
    relay::{self, Guests, HandOverError, Relay, Way},
    serve::{self, RoutesError},
    store::{
        Store, StoreError,
        memory::MemoryStore,
        postgres::{PgSettings, PgStore, SettingsError},
    },
    telemetry::{Metrics, MetricsError},
};

/// How long a worker may not read before its stream is cut.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// The part of the grace of a stop in which calls and streams that are still here are passed on to the next owner.
const PASS_ON: f64 = 0.75;

/// How long a stop waits before the term is released, so that workers hear of it before their streams end.
const DRAIN_NOTICE: Duration = Duration::from_millis(50);

/// A broker that runs. Dropping it does not stop it; see [`Self::shutdown`].
pub struct Broker {
    grpc_address: SocketAddr,
    admin_address: SocketAddr,
    stop_grace: Duration,
    cell: Cell,
    relay: Relay,
    guests: Guests,
    draining: CancellationToken,
    /// Ends the servers.
    closing: CancellationToken,
    cell_task: JoinHandle<Result<(), StoreError>>,
    grpc_task: JoinHandle<io::Result<()>>,
    admin_task: JoinHandle<io::Result<()>>,
}

/// A broker could not be started, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The settings cannot be.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// The log's filter is malformed.
    #[error("the log level cannot be read: {0}")]
    Log(#[from] tracing_subscriber::filter::ParseError),
    /// The settings of the database cannot be.
    #[error(transparent)]
    Database(#[from] SettingsError),
    /// The store cannot be used, and waiting does not help.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The metrics cannot be set up.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The routes cannot be set up.
    #[error(transparent)]
    Routes(#[from] RoutesError),
    /// A part ended by itself.
    #[error("a part of the broker ended by itself: {0}")]
    Ended(String),
    /// A part did not end within the grace of a stop.
    #[error("the stop took longer than its grace: {0}")]
    StopTimeout(&'static str),
}

impl Broker {
    /// Starts a broker on the store that its settings name. Needs a tokio runtime, and does not wait for the database:
    /// until the schema is checked and the cell is owned or followed, the broker is not ready.
    pub async fn start(args: &BrokerArgs) -> Result<Self, BrokerError> {
        let store: Arc<dyn Store> = match args.store {
            StoreKind::Postgres => {
                let require_synchronous = args.require_synchronous;
                Arc::new(PgStore::new(PgSettings { require_synchronous, ..args.database.settings() })?)
            }
            StoreKind::Memory => Arc::new(MemoryStore::on_wall_clock()),
        };
        Self::start_on(args, store).await
    }

    /// Starts a broker on a store that is there already, such as one that tests share.
    pub async fn start_on(args: &BrokerArgs, store: Arc<dyn Store>) -> Result<Self, BrokerError> {
        args.check()?;
        say(args);
        let metrics = Metrics::new()?;
        let counted = Arc::clone(&store);
        metrics.show_statements(move || counted.statements());
        let listener = listen(args.listen).await?;
        let admin_listener = listen(args.admin_listen).await?;
        let address = |listener: &TcpListener, address| {
            listener.local_addr().map_err(|source| BrokerError::Listen { address, source })
        };
        let grpc_address = address(&listener, args.listen)?;
        let admin_address = address(&admin_listener, args.admin_listen)?;
        let stop_grace = Duration::from_millis(args.intervals.stop_grace_ms);
        let limits = args.limits();
        let settings = CellSettings {
            address: args.advertise.clone().unwrap_or_else(|| grpc_address.to_string()),
            limits: limits.clone(),
            arguments_bytes_max: args.memory.memory_arguments_mib << 20,
            standby_poll: Duration::from_millis(args.intervals.standby_poll_ms),
            keep: args.retention.keep(),
            highest_format: args.formats.highest(),
        };
        let (cell, cell_task) = Cell::start(store, settings, metrics.clone());
        let (draining, closing) = (CancellationToken::new(), CancellationToken::new());
        let streams = StreamSettings {
            beat: Duration::from_millis(args.intervals.beat_ms),
            send_timeout: SEND_TIMEOUT,
            drain: stop_grace,
            limits,
            draining: draining.clone(),
            metrics: metrics.clone(),
        };
        let hold = Duration::from_millis(args.intervals.relay_hold_ms);
        let (relay, guests) = (Relay::start(&cell, hold, metrics.clone()), Guests::default());
        tokio::spawn(relay::raise_formats(cell.clone(), guests.clone(), args.formats.patience()));
        show_brokers(&metrics, &cell, &guests);
        let (routes, reporter) = serve::routes(&relay, &guests, &streams, args.reflection)?;
        health::report_nothing(&reporter).await;
        tokio::spawn(health::report(reporter, relay.clone(), draining.clone()));
        let grpc_task = tokio::spawn(serve::serve(listener, routes, closing.clone()));
        let admin = Admin { relay: relay.clone(), metrics, draining: draining.clone() };
        let admin_task = tokio::spawn(health::serve(admin_listener, admin, closing.clone().cancelled_owned()));
        tracing::info!(%grpc_address, %admin_address, "the broker listens");
        Ok(Self {
            grpc_address,
            admin_address,
            stop_grace,
            cell,
            relay,
            guests,
            draining,
            closing,
            cell_task,
            grpc_task,
            admin_task,
        })
    }

    /// Where clients and workers find it.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where operators find it.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The cell that it serves.
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    /// Waits until this broker owns the cell, or was stopped.
    pub async fn owns(&self) -> bool {
        let mut role = self.cell.watch();
        let role = role.wait_for(|role| matches!(role, Role::Owning(_) | Role::Stopped)).await;
        role.is_ok_and(|role| matches!(*role, Role::Owning(_)))
    }

    /// The term of the owner that calls and workers are passed on to; `None`: there is none, or it is this broker.
    pub fn relays_to(&self) -> Option<Term> {
        match self.relay.now() {
            Some(Way::There(link)) => Some(link.term()),
            Some(Way::Here(_)) | None => None,
        }
    }

    /// Waits until a part of the broker ends by itself, which it should not, and says which; or why the database cannot
    /// serve from the start.
    pub async fn ended(&mut self) -> BrokerError {
        let (part, how) = tokio::select! {
            ended = &mut self.cell_task => match ended {
                Ok(Err(error)) => return error.into(),
                ended => ("the cell", format!("{ended:?}")),
            },
            ended = &mut self.grpc_task => ("the gRPC server", format!("{ended:?}")),
            ended = &mut self.admin_task => ("the HTTP server", format!("{ended:?}")),
        };
        BrokerError::Ended(format!("{part}: {how}"))
    }

    /// Stops in order: not ready any more, workers are told, what was taken in is committed, the cell is handed over to a
    /// broker that follows, which gets the calls that still come until the connections are closed; or the term is
    /// released. All of it within the grace of the settings; whatever lasts longer is left behind.
    pub async fn shutdown(self) -> Result<(), BrokerError> {
        let began = Instant::now();
        let until = began + self.stop_grace;
        tracing::info!(grace = ?self.stop_grace, "the broker stops");
        self.draining.cancel();
        self.cell.leave();
        tokio::time::sleep(DRAIN_NOTICE).await;
        let by = By { who: Arc::clone(self.cell.address()), why: "this broker stops".into() };
        match timeout_at(until, self.guests.hand_over(&self.cell, None, by)).await {
            Ok(Ok(term)) => tracing::info!(term = term.number, "another broker owns the cell"),
            // The usual case of a broker that is alone, or never owned it.
            Ok(Err(HandOverError::NotOwner | HandOverError::NoFollower(_))) => {}
            Ok(Err(error @ (HandOverError::NotRecorded(_) | HandOverError::Refused(_) | HandOverError::NotTaken))) => {
                tracing::warn!(%error, "the cell was not handed over");
            }
            Err(_) => tracing::warn!("the cell was not handed over within the grace of the stop"),
        }
        let (grpc, admin) = (self.grpc_task.abort_handle(), self.admin_task.abort_handle());
        let mut servers = Box::pin(async { tokio::join!(self.grpc_task, self.admin_task) });
        let mut closed = false;
        if matches!(self.cell.role(), Role::Following(_)) || matches!(self.relay.now(), Some(Way::There(_))) {
            // Another broker owns the cell: what comes before its client has heard that we go is passed on.
            self.closing.cancel();
            closed = timeout_at(began + self.stop_grace.mul_f64(PASS_ON), &mut servers).await.is_ok();
        }
        self.cell.stop();
        let cell = timeout_at(until, self.cell_task).await;
        self.closing.cancel();
        closed = closed || timeout_at(until, servers).await.is_ok();
        if cell.is_err() {
            return Err(BrokerError::StopTimeout("the last commit, or the release of the term"));
        }
        if !closed {
            // Connections that a client holds open end here.
            grpc.abort();
            admin.abort();
            tracing::warn!("connections were still open at the end of the grace");
        }
        tracing::info!("the broker stopped");
        Ok(())
    }
}

fn show_brokers(metrics: &Metrics, cell: &Cell, guests: &Guests) {
    let (here, owner, guests) = (cell.clone(), cell.clone(), guests.clone());
    let term = move || match here.role() {
        Role::Owning(owned) => owned.term.number,
        Role::Following(Some(owner)) => owner.term.number,
        Role::Following(None) | Role::Starting(_) | Role::Stopped => 0,
    };
    let lags = move || {
        let Ok(owned) = owner.owned() else { return Vec::new() };
        let last = owned.last_log();
        guests.all().into_iter().map(|guest| (guest.address, last.saturating_sub(guest.log_number))).collect()
    };
    metrics.show_brokers(term, lags);
}

async fn listen(address: SocketAddr) -> Result<TcpListener, BrokerError> {
    TcpListener::bind(address).await.map_err(|source| BrokerError::Listen { address, source })
}

fn say(args: &BrokerArgs) {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), settings = ?args, "starts");
    if args.insecure {
        tracing::warn!(
            "--insecure: whoever reaches {} can defer and run jobs, and traffic is not encrypted",
            args.listen
        );
    }
    if args.store == StoreKind::Memory {
        tracing::warn!("--store memory: every job is lost when this broker ends");
    }
}
