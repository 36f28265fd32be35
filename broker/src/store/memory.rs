//! The in-memory store: the same seam without a database, for tests, simulation and `dev --store memory`.

mod inbox;
mod reads;
mod retention;
mod tables;

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

pub use self::inbox::InboxPosition;
pub use self::tables::{JobRow, Tables};
use super::{
    AuditEntry, AuditList, Checkpoint, CommitError, Committed, Duties, Inbox, JobView, Keep, List, Listed, LogPosition,
    LogRow, Owner, RelayKey, RetainAsk, Retained, RetentionNow, ScheduleRange, SchedulesAt, Store, StoreError,
    StoredJob, Tenure, Upkeep, Upkept, Writer,
};
use crate::core::{
    ask::{By, Verb},
    batch::Batch,
    effect::{Fetch, Fetched, Found, LookUp},
    inbox::{InboxJob, InboxRow, Intake, Look, Wish},
    job::JobSpec,
    types::{JobId, Term, Timestamp},
};

/// Where the store gets its time from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A cell in memory. Clones share it, as brokers share a database.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    /// How far the time of the cell is ahead of the clock.
    ahead: watch::Sender<Duration>,
    statements: AtomicU64,
    cell: Mutex<Cell>,
    bell: Notify,
}

struct Cell {
    tables: Tables,
    /// Dead as soon as neither connection of the owner lives.
    owner: Weak<Hold>,
    address: Arc<str>,
    since: Timestamp,
    key: Uuid,
}

/// What both connections of an owner hold: the lock of the cell.
struct Hold;

impl MemoryStore {
    /// An empty cell whose time is the clock's.
    pub fn new(clock: Clock) -> Self {
        let cell = Cell {
            tables: Tables::new(),
            owner: Weak::new(),
            address: "".into(),
            since: Timestamp(0),
            key: Uuid::nil(),
        };
        let ahead = watch::Sender::new(Duration::ZERO);
        let (statements, bell) = (AtomicU64::new(0), Notify::new());
        Self { shared: Arc::new(Shared { clock, ahead, statements, cell: Mutex::new(cell), bell }) }
    }

    /// An empty cell whose time is this machine's, which stands for a database and its clock.
    pub fn on_wall_clock() -> Self {
        Self::new(Arc::new(|| Timestamp(chrono::Utc::now().timestamp_micros())))
    }

    /// Sets the time of the cell ahead, as if so much had passed by the database's clock. Monotonic clocks, and so the
    /// timeouts of sessions, do not notice.
    pub fn advance(&self, by: Duration) {
        self.shared.ahead.send_modify(|ahead| *ahead = ahead.saturating_add(by));
    }

    /// The time of the cell.
    pub fn now(&self) -> Timestamp {
        self.shared.now()
    }

    /// Forgets every job and all that was decided, and takes the term away from its owner, who would know of them.
    /// Gives the term that this takes; whoever owns the cell afterwards has a higher one.
    pub fn clear(&self) -> Term {
        let term = {
            let mut cell = self.shared.cell();
            cell.owner = Weak::new();
            let number = cell.tables.term().number;
            cell.tables = Tables::after_term(number);
            cell.tables.take_term(rand::random())
        };
        // The owner learns of it at once, and not at its next commit.
        self.shared.ahead.send_modify(|_| ());
        term
    }

    /// Looks at the tables, for tests.
    pub fn inspect<T>(&self, look: impl FnOnce(&Tables) -> T) -> T {
        look(&self.shared.cell().tables)
    }

    /// Defers a job as an application does by SQL in a transaction that commits at once.
    pub fn defer(&self, spec: JobSpec) -> JobId {
        let written = self.shared.now();
        let mut cell = self.shared.cell();
        let id = cell.tables.draw_id();
        let job = InboxJob { id, args_bytes: spec.args.len() as u32, spec: Arc::new(spec), unrecordable: None };
        let number = cell.tables.draw_number();
        cell.tables.arrive([InboxRow { number, written, wish: Wish::Defer(job) }]);
        self.shared.bell.notify_one();
        id
    }

    /// Asks for something as an application does by SQL in a transaction that commits at once.
    pub fn ask(&self, verb: Verb, by: By) {
        let written = self.shared.now();
        let mut cell = self.shared.cell();
        let number = cell.tables.draw_number();
        cell.tables.arrive([InboxRow { number, written, wish: Wish::Ask { verb, by, unrecordable: None } }]);
        self.shared.bell.notify_one();
    }

    /// Takes the term away from its owner, as a standby does that finds it stopped.
    pub fn depose(&self, nonce: u64) -> Term {
        let mut cell = self.shared.cell();
        cell.owner = Weak::new();
        cell.tables.take_term(nonce)
    }

    fn read(&self) -> MutexGuard<'_, Cell> {
        self.shared.statements.fetch_add(1, Ordering::Relaxed);
        self.shared.cell()
    }
}

impl Shared {
    fn now(&self) -> Timestamp {
        (self.clock)().plus(*self.ahead.borrow())
    }

    fn cell(&self) -> MutexGuard<'_, Cell> {
        // A test that panics while it looks leaves the tables whole.
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn take_term(&self, address: &str) -> Result<Option<Tenure>, StoreError> {
        let now = self.shared.now();
        let mut cell = self.read();
        if cell.owner.strong_count() > 0 {
            return Ok(None);
        }
        let hold = Arc::new(Hold);
        cell.owner = Arc::downgrade(&hold);
        cell.address = address.into();
        cell.since = now;
        cell.key = Uuid::new_v4();
        let term = cell.tables.take_term(rand::random());
        drop(cell);
        let connection = || Connection {
            shared: self.shared.clone(),
            ahead: self.shared.ahead.subscribe(),
            term,
            _hold: hold.clone(),
        };
        Ok(Some(Tenure { term, writer: Box::new(connection()), duties: Box::new(connection()) }))
    }

    async fn owner(&self) -> Result<Option<Owner>, StoreError> {
        let cell = self.read();
        let term = cell.tables.term();
        Ok((term.number > 0).then(|| Owner {
            term,
            address: cell.address.clone(),
            since: cell.since,
            key: RelayKey(cell.key),
        }))
    }

    async fn load(&self) -> Result<Option<Checkpoint>, StoreError> {
        Ok(self.read().tables.load())
    }

    async fn follow(&self, after: LogPosition, limit: u32) -> Result<Vec<LogRow>, StoreError> {
        self.read().tables.follow(after, limit)
    }

    async fn look_up(&self, keys: LookUp) -> Result<Found, StoreError> {
        Ok(self.read().tables.look_up(&keys))
    }

    async fn fetch(&self, fetch: Fetch) -> Result<Fetched, StoreError> {
        Ok(self.read().tables.fetch(&fetch))
    }

    fn inbox(&self) -> Box<dyn Inbox> {
        Box::new(MemoryInbox { shared: self.shared.clone(), position: InboxPosition::default() })
    }

    fn upkeep(&self) -> Box<dyn Upkeep> {
        Box::new(NoUpkeep)
    }

    async fn specs(&self, jobs: &[JobId]) -> Result<Vec<StoredJob>, StoreError> {
        Ok(self.read().tables.specs(jobs))
    }

    async fn job(&self, job: JobId) -> Result<Option<JobView>, StoreError> {
        Ok(self.read().tables.job(job))
    }

    async fn list(&self, list: List) -> Result<Listed, StoreError> {
        Ok(self.read().tables.list(&list))
    }

    async fn request_ids(&self, after: &str, limit: u32) -> Result<Vec<Arc<str>>, StoreError> {
        Ok(self.read().tables.request_ids(after, limit))
    }

    async fn audit(&self, list: AuditList) -> Result<Vec<AuditEntry>, StoreError> {
        Ok(self.read().tables.list_audit(&list))
    }

    async fn retention(&self) -> Result<RetentionNow, StoreError> {
        let (kept_below, moved_below) = self.read().tables.bounds();
        Ok(RetentionNow { kept_below, moved_below, partitions: Vec::new() })
    }

    async fn schedules(&self, range: ScheduleRange, limit: u32) -> Result<SchedulesAt, StoreError> {
        let now = (self.shared.clock)();
        Ok(SchedulesAt { now, records: self.read().tables.schedules_in(&range, limit) })
    }

    async fn ping(&self) -> Result<Timestamp, StoreError> {
        let _cell = self.read();
        Ok(self.shared.now())
    }

    fn statements(&self) -> u64 {
        self.shared.statements.load(Ordering::Relaxed)
    }
}

/// The way into the inbox.
struct MemoryInbox {
    shared: Arc<Shared>,
    position: InboxPosition,
}

#[async_trait]
impl Inbox for MemoryInbox {
    async fn look(&mut self, look: Look) -> Result<Intake, StoreError> {
        self.shared.statements.fetch_add(1, Ordering::Relaxed);
        Ok(self.shared.cell().tables.look(&mut self.position, &look))
    }

    async fn rung(&mut self) {
        self.shared.bell.notified().await;
    }
}

/// There are no partitions.
struct NoUpkeep;

#[async_trait]
impl Upkeep for NoUpkeep {
    async fn next(&mut self) -> Result<Option<Upkept>, StoreError> {
        Ok(None)
    }
}

/// One of the owner's connections.
struct Connection {
    shared: Arc<Shared>,
    ahead: watch::Receiver<Duration>,
    term: Term,
    _hold: Arc<Hold>,
}

impl Connection {
    fn write(&self) -> MutexGuard<'_, Cell> {
        self.shared.statements.fetch_add(1, Ordering::Relaxed);
        self.shared.cell()
    }
}

#[async_trait]
impl Writer for Connection {
    async fn commit(&mut self, batch: &Batch) -> Result<Committed, CommitError> {
        let now = self.shared.now();
        self.write().tables.commit(now, self.term, batch)
    }

    async fn tick(&mut self) -> Result<Timestamp, CommitError> {
        self.write().tables.fenced(self.term)?;
        Ok(self.shared.now())
    }

    async fn reserve(&mut self, ids: u32) -> Result<Range<i64>, CommitError> {
        self.write().tables.reserve(self.term, ids)
    }

    async fn hurry(&mut self) {
        if self.ahead.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn release(self: Box<Self>) {}
}

#[async_trait]
impl Duties for Connection {
    async fn tick(&mut self) -> Result<(), CommitError> {
        self.write().tables.fenced(self.term)
    }

    async fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), CommitError> {
        let mut cell = self.write();
        cell.tables.fenced(self.term)?;
        cell.tables.checkpoint(checkpoint.clone());
        Ok(())
    }

    async fn partitions(&mut self, _next_id: JobId, _next_log: u64) -> Result<(), CommitError> {
        self.write().tables.fenced(self.term)
    }

    async fn retain(&mut self, keep: &Keep, ask: &RetainAsk) -> Result<Retained, CommitError> {
        let now = (self.shared.clock)();
        let mut cell = self.write();
        cell.tables.fenced(self.term)?;
        Ok(cell.tables.retain(now, keep, ask))
    }

    async fn release(self: Box<Self>) {}
}
