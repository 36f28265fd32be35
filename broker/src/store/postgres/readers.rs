//! The connections that reads share.
//!
//! Each read runs on a task of its own, so that a caller who goes away leaves no connection in the middle of a
//! statement. A connection that was found broken is replaced, and the read tried once more.
//!
//! What callers ask stands in a line of its own, and leaves one connection to the broker: nothing is committed without
//! its look-ups, however slow the database is and however many callers wait.

use std::{
    future::Future,
    panic,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use sqlx::PgConnection;
use tokio::sync::Semaphore;

use super::{connect::Role, dial::Dialer, error::ReadError, settings::PgSettings};
use crate::store::StoreError;

/// Connections for reads.
pub(super) struct Readers {
    dialer: Dialer,
    idle: Mutex<Vec<Idle>>,
    permits: Semaphore,
    /// How many of them reads for callers may take: all but one.
    for_callers: Arc<Semaphore>,
    deadline: Duration,
    statements: Arc<AtomicU64>,
}

/// A connection that waits for the next read.
struct Idle {
    connection: PgConnection,
    /// What was tried first when it was made: once that is another host, this one may lead to a former primary.
    first: usize,
}

impl Readers {
    pub(super) fn new(dialer: Dialer, settings: &PgSettings, statements: Arc<AtomicU64>) -> Self {
        let permits = settings.readers_max.max(2);
        Self {
            deadline: settings.read_deadline,
            dialer,
            idle: Mutex::new(Vec::new()),
            permits: Semaphore::new(permits),
            for_callers: Arc::new(Semaphore::new(permits - 1)),
            statements,
        }
    }

    /// Runs a read for a caller. Whoever goes away before it is their turn leaves the line.
    pub(super) async fn read_for_caller<T, F>(self: &Arc<Self>, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, ReadError>> + Send + Sync + 'static,
    {
        let line = Arc::clone(&self.for_callers);
        let turn = line.acquire_owned().await.expect("the semaphore is never closed");
        let readers = self.clone();
        on_own_task(async move {
            let _turn = turn;
            readers.take_turn(&work).await
        })
        .await
    }

    /// Runs a read of the broker's own on a task of its own.
    pub(super) async fn read<T, F>(self: &Arc<Self>, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, ReadError>> + Send + Sync + 'static,
    {
        let readers = self.clone();
        on_own_task(async move { readers.take_turn(&work).await }).await
    }

    async fn take_turn<T, F>(&self, work: &F) -> Result<T, StoreError>
    where
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, ReadError>>,
    {
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        self.try_twice(work).await.map_err(Into::into)
    }

    async fn try_twice<T, F>(&self, work: &F) -> Result<T, ReadError>
    where
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, ReadError>>,
    {
        let first = self.dialer.first();
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(idle) = idle.filter(|idle| idle.first == first) {
            match self.try_on(idle, work).await {
                // It may have died since it was last used, and the others with it.
                Err(error) if error.is_broken_connection() => self.forget(),
                result => return result,
            }
        }
        let connection = self.dialer.dial(Role::Reader).await?.connection;
        self.try_on(Idle { connection, first }, work).await
    }

    /// Drops what is idle: after a failover it may lead to a server that was the primary.
    pub(super) fn forget(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn try_on<T, F>(&self, mut reader: Idle, work: &F) -> Result<T, ReadError>
    where
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, ReadError>>,
    {
        self.statements.fetch_add(1, Ordering::Relaxed);
        // After an error the connection is dropped: it could be in the middle of something.
        let working = tokio::time::timeout(self.deadline, work(&mut reader.connection));
        let result = tokio::select! {
            result = working => match result {
                Ok(result) => result?,
                Err(_) => return Err(StoreError::Unavailable("no answer in time".to_owned()).into()),
            },
            () = self.dialer.primary_moved() => {
                return Err(StoreError::Unavailable("another host is the primary now".to_owned()).into());
            }
        };
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        Ok(result)
    }
}

/// Runs a future to its end, even if the caller goes away.
pub(super) async fn on_own_task<T: Send + 'static>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(payload) => panic::resume_unwind(payload),
            Err(_) => Err(StoreError::Unavailable("the runtime is shutting down".to_owned())),
        },
    }
}
