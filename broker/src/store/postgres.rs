//! The store on PostgreSQL 15 and newer.
//!
//! An owner has two connections of its own, the writer's and the duties', and at times a third that keeps closed
//! partitions in order; reads have a few that they share. Every
//! statement opens with a comment that names it, for `pg_stat_statements`. No statement depends on statistics: the
//! connections turn off every plan but the one by index (storage.md, rule 13).
//!
//! Futures of `sqlx` must not be dropped in the middle of a statement. So reads run on tasks of their own, and an
//! owner's connection is given up when its future is dropped.

mod audit;
mod batch_rows;
mod bounds;
mod checkpoint;
mod commit;
mod connect;
mod dial;
mod dsn;
mod error;
mod failure;
mod fetch;
mod finished;
mod follow;
mod hosts;
mod inbox;
mod inbox_rows;
mod jobs;
mod kept_rows;
mod keywords;
mod lists;
mod look_up;
mod notices;
mod one_row;
mod packed;
mod parked_blocks;
mod partitions;
mod passfile;
mod primary;
mod readers;
mod retention;
mod retention_now;
mod schedules;
mod session;
mod settings;
mod target;
mod term;
mod time;
mod tls;
mod upkeep;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use cabbage_migrations::{MigrateError, Status};
use futures::FutureExt;
use tokio::sync::Mutex;

use self::{
    connect::Role,
    dial::{Dialed, Dialer},
    hosts::Host,
    inbox::PgInbox,
    readers::Readers,
    target::Target,
    term::Candidate,
    upkeep::PgUpkeep,
};
pub use self::{
    dsn::DsnError,
    settings::{PgSettings, SettingsError},
};
use super::{
    AuditEntry, AuditList, Checkpoint, Inbox, JobView, List, Listed, LogPosition, LogRow, Owner, RetentionNow,
    ScheduleRange, SchedulesAt, Store, StoreError, StoredJob, Tenure, Upkeep,
};
use crate::core::{
    effect::{Fetch, Fetched, Found, LookUp},
    types::{JobId, Timestamp},
};

/// A cell in a PostgreSQL database.
pub struct PgStore {
    settings: PgSettings,
    dialer: Dialer,
    readers: Arc<Readers>,
    candidate: Mutex<Candidate>,
    statements: Arc<AtomicU64>,
}

impl PgStore {
    /// A store by these settings. Connects when it is used for the first time; what is wrong with the settings
    /// themselves, and the files they name, is found here.
    pub fn new(settings: PgSettings) -> Result<Self, SettingsError> {
        let target = Target::of(&settings)?;
        if let Some(trouble) = target.passfile_trouble() {
            tracing::warn!("{trouble}");
        }
        let dialer = Dialer::new(target, settings.clone());
        let statements = Arc::new(AtomicU64::new(0));
        let readers = Readers::new(dialer.clone(), &settings, statements.clone());
        Ok(Self { readers: Arc::new(readers), candidate: Mutex::default(), settings, dialer, statements })
    }

    /// Whether the schema is as this version needs it. Changes nothing.
    pub async fn schema_status(&self) -> Result<Status, StoreError> {
        let Dialed { mut connection, host } = self.migration_connection().await?;
        let status = cabbage_migrations::status(&mut connection, &self.settings.schema).await;
        status.map_err(|error| migrate_error(&self.dialer, &host, error))
    }

    async fn migration_connection(&self) -> Result<Dialed, StoreError> {
        self.dialer.look_for_primary().await;
        Ok(self.dialer.dial(Role::Migration).await?)
    }

    fn sent(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }
}

fn migrate_error(dialer: &Dialer, host: &Host, error: MigrateError) -> StoreError {
    match error {
        MigrateError::Database(error) => dialer.withheld(host, &error).unwrap_or_else(|| error::read_error(error)),
        MigrateError::Busy(_) | MigrateError::InUse { .. } => StoreError::Unavailable(error.to_string()),
        MigrateError::NotUtf8(_)
        | MigrateError::Ahead { .. }
        | MigrateError::Changed { .. }
        | MigrateError::TooOld(_) => StoreError::Unsuitable(error.to_string()),
    }
}

#[async_trait]
impl Store for PgStore {
    async fn prepare(&self) -> Result<(), StoreError> {
        let dialer = self.dialer.clone();
        let Dialed { connection, host } = self.migration_connection().await?;
        let schema = self.settings.schema.clone();
        self.sent();
        readers::on_own_task(async move {
            let prepared = cabbage_migrations::prepare(connection, &schema).await;
            prepared.map_err(|error| migrate_error(&dialer, &host, error))
        })
        .await
    }

    async fn take_term(&self, address: &str) -> Result<Option<Tenure>, StoreError> {
        term::take(self, address).await
    }

    async fn owner(&self) -> Result<Option<Owner>, StoreError> {
        self.readers.read(|connection| term::owner(connection).boxed()).await
    }

    async fn load(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.readers.read(|connection| follow::load(connection).boxed()).await
    }

    async fn follow(&self, after: LogPosition, limit: u32) -> Result<Vec<LogRow>, StoreError> {
        self.readers.read(move |connection| follow::follow(connection, after, limit).boxed()).await
    }

    async fn look_up(&self, keys: LookUp) -> Result<Found, StoreError> {
        let keys = Arc::new(keys);
        self.readers.read(move |connection| look_up::look_up(connection, keys.clone()).boxed()).await
    }

    async fn fetch(&self, fetch: Fetch) -> Result<Fetched, StoreError> {
        self.readers.read(move |connection| fetch::fetch(connection, fetch).boxed()).await
    }

    fn inbox(&self) -> Box<dyn Inbox> {
        Box::new(PgInbox::new(self.dialer.clone(), self.settings.read_deadline, Arc::clone(&self.statements)))
    }

    fn upkeep(&self) -> Box<dyn Upkeep> {
        Box::new(PgUpkeep::new(self.dialer.clone(), Arc::clone(&self.readers), Arc::clone(&self.statements)))
    }

    async fn specs(&self, jobs: &[JobId]) -> Result<Vec<StoredJob>, StoreError> {
        let ids: Arc<[i64]> = jobs.iter().map(|job| job.0).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.readers.read(move |connection| jobs::specs(connection, ids.clone()).boxed()).await
    }

    async fn job(&self, job: JobId) -> Result<Option<JobView>, StoreError> {
        self.readers.read_for_caller(move |connection| jobs::job(connection, job).boxed()).await
    }

    async fn list(&self, list: List) -> Result<Listed, StoreError> {
        let list = Arc::new(list);
        self.readers.read_for_caller(move |connection| lists::list(connection, list.clone()).boxed()).await
    }

    async fn request_ids(&self, after: &str, limit: u32) -> Result<Vec<Arc<str>>, StoreError> {
        let after: Arc<str> = after.into();
        self.readers.read(move |connection| look_up::request_ids(connection, after.clone(), limit).boxed()).await
    }

    async fn audit(&self, list: AuditList) -> Result<Vec<AuditEntry>, StoreError> {
        self.readers.read_for_caller(move |connection| audit::audit(connection, list).boxed()).await
    }

    async fn retention(&self) -> Result<RetentionNow, StoreError> {
        self.readers.read_for_caller(|connection| retention_now::now(connection).boxed()).await
    }

    async fn schedules(&self, range: ScheduleRange, limit: u32) -> Result<SchedulesAt, StoreError> {
        let range = Arc::new(range);
        self.readers
            .read_for_caller(move |connection| {
                let range = range.clone();
                async move { schedules::schedules(connection, &range, limit).await }.boxed()
            })
            .await
    }

    async fn ping(&self) -> Result<Timestamp, StoreError> {
        self.readers.read(|connection| connect::clock(connection).boxed()).await
    }

    fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }
}
