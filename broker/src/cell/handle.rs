//! The handle of a cell: how the rest of the broker reaches whoever decides.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    core::{
        decide::{LiveJob, WaitingFor},
        effect::{CallId, LinkId, Reply},
        event::{Event, Hello},
        limits::Limits,
        place::Place,
        queues::QueueNow,
        types::{Format, JobId, QueueNo, Term, Timestamp},
    },
    duties::Horizon,
    store::{Keep, Owner, Store, StoreError},
    telemetry::Metrics,
};

use super::{
    LinkMessage,
    admission::{Admission, Full},
    input::{Input, SLOW_INPUT},
    names::Names,
    standby,
    vigil::{Standby, Vigil},
};

/// What a cell is run with.
#[derive(Clone, Debug)]
pub struct CellSettings {
    /// Where other brokers and workers find this broker.
    pub address: String,
    /// The core's limits and intervals.
    pub limits: Limits,
    /// Bytes of arguments of waiting jobs that are kept in memory.
    pub arguments_bytes_max: usize,
    /// How often a broker that stands by tries to take the term.
    pub standby_poll: Duration,
    /// How long things are kept.
    pub keep: Keep,
    /// The highest format of the log that this broker reads and writes.
    pub highest_format: Format,
}

/// A cell. Cheap to clone; the cell runs until [`Self::stop`].
#[derive(Clone)]
pub struct Cell {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    keep: Keep,
    role: watch::Receiver<Role>,
    admission: Admission,
    /// The last number of a call or stream.
    numbers: AtomicU64,
    address: Arc<str>,
    highest_format: Format,
    vigil: Arc<Vigil>,
}

/// What this broker is for the cell.
#[derive(Clone)]
pub enum Role {
    /// Not ready, and why.
    Starting(Arc<str>),
    /// Another broker owns the cell, this one if it is known; this broker follows its log.
    Following(Option<Owner>),
    /// This broker owns the cell.
    Owning(Owned),
    /// It was stopped.
    Stopped,
}

/// The way to the owner's task, for one term.
#[derive(Clone)]
pub struct Owned {
    /// The term.
    pub term: Term,
    /// Names of queues and tasks.
    pub names: Arc<Names>,
    /// Cancelled when the term ends.
    pub over: CancellationToken,
    /// How far it has come.
    pub(super) horizon: watch::Receiver<Horizon>,
    pub(super) inputs: mpsc::Sender<Input>,
}

/// What the owner knows of a job at this moment.
#[derive(Clone, Debug)]
pub struct JobNow {
    /// It is in memory.
    pub live: Option<LiveJob>,
    /// The name of the queue that it is in, or of that of its place.
    pub queue: Option<Arc<str>>,
    /// If it waits, here or in its place: what for.
    pub waiting_for: Option<WaitingFor>,
    /// The database's time, about.
    pub now: Timestamp,
}

/// Why the owner did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// This broker does not own the cell. Nothing was done.
    #[error("this broker does not own the cell")]
    NotOwner {
        /// The address of the broker that does, if it is known.
        owner: Option<Arc<str>>,
    },
    /// Too much is waiting already. Nothing was done.
    #[error("too much is waiting: {limit} ({value})")]
    Busy {
        /// Which limit was reached.
        limit: &'static str,
        /// Its value.
        value: u64,
    },
    /// The term ended before the answer: nobody knows yet what came of it.
    #[error("the term ended before the answer; what came of the call is not known")]
    OutcomeUnknown,
}

impl From<Full> for CallError {
    fn from(full: Full) -> Self {
        Self::Busy { limit: full.limit, value: full.value }
    }
}

impl Cell {
    /// Starts to serve the cell of this store. The task ends, with the term released, after [`Self::stop`]; or with an
    /// error, if the database cannot serve from the start and waiting does not help.
    pub fn start(
        store: Arc<dyn Store>,
        settings: CellSettings,
        metrics: Metrics,
    ) -> (Self, JoinHandle<Result<(), StoreError>>) {
        let (sender, role) = watch::channel(Role::Starting("the schema was not checked yet".into()));
        let vigil = Arc::new(Vigil::default());
        let inner = Inner {
            store: Arc::clone(&store),
            keep: settings.keep,
            role,
            admission: Admission::new(),
            numbers: AtomicU64::new(0),
            address: settings.address.as_str().into(),
            highest_format: settings.highest_format,
            vigil: Arc::clone(&vigil),
        };
        let task = tokio::spawn(standby::run(store, settings, metrics, sender, vigil));
        (Self { inner: Arc::new(inner) }, task)
    }

    /// Ends the cell in order: what was taken in is committed, the term is released.
    pub fn stop(&self) {
        self.inner.vigil.stop.cancel();
    }

    /// Gives the term back in order, as [`Self::stop`] does, and stands by again; for a moment without trying to take
    /// it. Does nothing where this broker does not own the cell.
    pub fn hand_over(&self) {
        self.inner.vigil.hand_over();
    }

    /// Leaves the term to other brokers from now on: this one is about to stop. One that owns the cell goes on until it
    /// hands it over, or stops.
    pub fn leave(&self) {
        self.inner.vigil.leave();
    }

    /// Cancelled when this broker leaves the term to others.
    pub(crate) fn leaving(&self) -> CancellationToken {
        self.inner.vigil.leaving().clone()
    }

    /// The owner is about to go, or seems to be gone: the log is followed closely for a while, and the term is tried to be
    /// taken often, if so told.
    pub fn watch_closely(&self, how: Standby) {
        self.inner.vigil.watch_closely(how);
    }

    /// Whether there is a way to the owner that this broker knows. Without one, it is looked at every step who owns the
    /// cell now.
    pub fn reach_owner(&self, is_reached: bool) {
        self.inner.vigil.reach_owner(is_reached);
    }

    /// The number of the last row of the log that this broker has folded while it stands by.
    pub fn folded(&self) -> watch::Receiver<u64> {
        self.inner.vigil.folded()
    }

    /// The address that this broker advertises.
    pub fn address(&self) -> &Arc<str> {
        &self.inner.address
    }

    /// The highest format of the log that this broker reads and writes.
    pub fn highest_format(&self) -> Format {
        self.inner.highest_format
    }

    /// Why this broker can neither follow nor own the cell until a newer one replaces it. `None`: it can.
    pub fn refusal(&self) -> Option<Arc<str>> {
        self.inner.vigil.refusal()
    }

    /// The store, for reads that need no owner.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// How long things are kept while this broker owns the cell.
    pub fn keep(&self) -> Keep {
        self.inner.keep
    }

    /// What this broker is for the cell now.
    pub fn role(&self) -> Role {
        self.inner.role.borrow().clone()
    }

    /// Waits until the role changes, and gives it; `None` once the cell has ended.
    pub fn watch(&self) -> watch::Receiver<Role> {
        self.inner.role.clone()
    }

    /// The way to the owner's task, if this broker owns the cell.
    pub fn owned(&self) -> Result<Owned, CallError> {
        match &*self.inner.role.borrow() {
            Role::Owning(owned) if !owned.over.is_cancelled() => Ok(owned.clone()),
            Role::Following(owner) => {
                Err(CallError::NotOwner { owner: owner.as_ref().map(|owner| owner.address.clone()) })
            }
            // A term that has ended: its task is about to say so.
            Role::Owning(_) | Role::Starting(_) | Role::Stopped => Err(CallError::NotOwner { owner: None }),
        }
    }

    /// Makes a call that changes something, and waits for the answer after its commit. `bytes`: what it holds, about.
    pub async fn call(&self, bytes: usize, event: impl FnOnce(CallId) -> Event) -> Result<Reply, CallError> {
        let owned = self.owned()?;
        let _admitted = self.inner.admission.admit(bytes)?;
        let call = CallId(self.number());
        let (answer, reply) = oneshot::channel();
        owned.send(Input::Call { call, event: event(call), answer }).await?;
        reply.await.map_err(|_| CallError::OutcomeUnknown)
    }

    /// What the owner knows now of these jobs. With each, where the store says that it lies.
    pub async fn look(&self, jobs: Vec<(JobId, Option<Place>)>) -> Result<Vec<JobNow>, CallError> {
        let owned = self.owned()?;
        let (answer, reply) = oneshot::channel();
        owned.send(Input::Look { jobs, answer }).await?;
        reply.await.map_err(|_| CallError::NotOwner { owner: None })
    }

    /// What is in these queues now.
    pub async fn queues(&self, queues: Vec<QueueNo>) -> Result<Vec<QueueNow>, CallError> {
        let owned = self.owned()?;
        let (answer, reply) = oneshot::channel();
        owned.send(Input::Queues { queues, answer }).await?;
        reply.await.map_err(|_| CallError::NotOwner { owner: None })
    }

    /// Gives a receiver that is woken when the job becomes final, or when it must be looked at again.
    pub async fn wait(&self, job: JobId) -> Result<oneshot::Receiver<()>, CallError> {
        let owned = self.owned()?;
        let (waiter, woken) = oneshot::channel();
        owned.send(Input::Wait { job, waiter }).await?;
        Ok(woken)
    }

    /// A number for a new stream.
    pub fn new_link(&self) -> LinkId {
        LinkId(self.number())
    }

    fn number(&self) -> u64 {
        self.inner.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Owned {
    /// The number of the last row of the log.
    pub fn last_log(&self) -> u64 {
        self.horizon.borrow().next_log.saturating_sub(1)
    }

    /// The format of what is written.
    pub fn format(&self) -> Format {
        self.horizon.borrow().format
    }

    /// A worker introduces itself. What is for it goes to the outbox.
    pub async fn open(&self, hello: Box<Hello>, outbox: mpsc::Sender<LinkMessage>) -> Result<(), CallError> {
        self.send(Input::Opened { hello, outbox }).await
    }

    /// What came in one frame of a stream. Waits while the owner has too much to do.
    pub async fn frame(&self, events: Vec<Event>) -> Result<(), CallError> {
        self.send(Input::Frame(events)).await
    }

    /// A stream ended: the transport said so (`reported`), or it was cut for silence.
    pub async fn ended(&self, link: LinkId, reported: bool) -> Result<(), CallError> {
        self.send(Input::Ended { link, reported }).await
    }

    async fn send(&self, input: Input) -> Result<(), CallError> {
        match self.inputs.try_send(input) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(CallError::NotOwner { owner: None }),
            Err(mpsc::error::TrySendError::Full(input)) => {
                let send = self.inputs.send(input);
                tokio::pin!(send);
                loop {
                    if let Ok(sent) = tokio::time::timeout(SLOW_INPUT, &mut send).await {
                        return sent.map_err(|_| CallError::NotOwner { owner: None });
                    }
                    tracing::warn!("the owner takes nothing in; a stream waits");
                }
            }
        }
    }
}
