//! The follower: folds what was committed a second time.
//!
//! In a standby it is what takes over. In the owner it runs on a thread of its own, fed after each commit: it writes the
//! checkpoints, so that the core never stops for them, is the state to return to when a batch is refused, and is
//! compared with the core on every row that carries a hash.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use crate::{
    core::{state::State, types::Format},
    store::{Checkpoint, LogPosition, LogRow, Store, StoreError, format},
    telemetry::Metrics,
};

/// Rows of the log that may wait for the follower; then commits wait for it.
pub(super) const ROWS_MAX: usize = 4_096;

/// Rows that are read from the store at once.
const FOLLOW_ROWS_MAX: u32 = 1_000;

/// What a fact weighs in the log, about: columns of like facts take little. A checkpoint is due when the log since the
/// last one outweighs it.
const FACT_BYTES: usize = 4;

/// What a row weighs besides its facts.
const ROW_BYTES: usize = 96;

/// No checkpoint is written for less log than this: some two million facts, which a new owner folds in a second.
const CHECKPOINT_LOG_BYTES_MIN: usize = 8 << 20;

/// The fold of the log up to a row.
#[derive(Debug)]
pub(super) struct Fold {
    /// The highest format that this broker reads.
    known: Format,
    state: State,
    position: LogPosition,
    /// What was folded since the last checkpoint.
    log_bytes: usize,
    /// The size of the last checkpoint.
    checkpoint_bytes: usize,
}

/// Why a row could not be folded, or is not what its writer had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Divergence {
    #[error("row {found} follows row {last}")]
    Gap { last: u64, found: u64 },
    #[error("a fact of row {row} contradicts the state: {why}")]
    Contradiction { row: u64, why: String },
    #[error("the state after row {row} has another hash than its writer's")]
    Hash { row: u64 },
}

impl Fold {
    /// The empty state, before the first row, for a broker that reads formats up to this one.
    pub(super) fn empty(known: Format) -> Self {
        Self { known, state: State::default(), position: LogPosition::default(), log_bytes: 0, checkpoint_bytes: 0 }
    }

    /// The newest checkpoint, decoded; the empty state if there is none. One of a higher format is refused.
    pub(super) async fn load(store: &dyn Store, known: Format) -> Result<Self, StoreError> {
        let Some(checkpoint) = store.load().await? else { return Ok(Self::empty(known)) };
        let decoded = tokio::task::spawn_blocking(move || Self::of_checkpoint(&checkpoint, known)).await;
        decoded.map_err(|error| StoreError::Corrupt(format!("the checkpoint cannot be decoded: {error}")))?
    }

    fn of_checkpoint(checkpoint: &Checkpoint, known: Format) -> Result<Self, StoreError> {
        let state = format::decode_state(&checkpoint.data, known)?;
        let (position, checkpoint_bytes) = (checkpoint.position, checkpoint.data.len());
        Ok(Self { known, state, position, log_bytes: 0, checkpoint_bytes })
    }

    /// Folds every row that the store has after this position. Stops before one of a higher format.
    pub(super) async fn catch_up(&mut self, store: &dyn Store) -> Result<u64, CatchUpError> {
        let mut folded = 0;
        loop {
            let rows = store.follow(self.position, FOLLOW_ROWS_MAX).await?;
            let count = rows.len();
            for row in rows {
                if row.format > self.known {
                    return Err(StoreError::FormatTooNew { found: row.format, known: self.known }.into());
                }
                match self.fold(&row) {
                    // The log says what it says, and its writer had something else. To fold it again would not change
                    // that, and no broker could ever own the cell.
                    Err(difference @ Divergence::Hash { .. }) => {
                        tracing::error!(%difference, "the log is gone on with. This is a bug: keep the log table, and report it");
                    }
                    folded => _ = folded?,
                }
            }
            folded += count as u64;
            if count < FOLLOW_ROWS_MAX as usize {
                return Ok(folded);
            }
        }
    }

    /// Folds a row in; gives whether it carried a hash, which then was the same.
    pub(super) fn fold(&mut self, row: &LogRow) -> Result<bool, Divergence> {
        let number = row.position.number;
        if number != self.position.number + 1 {
            return Err(Divergence::Gap { last: self.position.number, found: number });
        }
        let state = &mut self.state;
        let applied = catch_unwind(AssertUnwindSafe(|| row.facts.iter().for_each(|fact| state.apply(fact))));
        if let Err(panic) = applied {
            let why = panic.downcast_ref::<String>().cloned();
            let why = why.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            return Err(Divergence::Contradiction { row: number, why: why.unwrap_or_default() });
        }
        self.position = row.position;
        self.log_bytes += ROW_BYTES + row.facts.len() * FACT_BYTES;
        match row.state_hash {
            Some(hash) if hash != self.state.hash_at(number) => Err(Divergence::Hash { row: number }),
            hash => Ok(hash.is_some()),
        }
    }

    /// The state as of [`Self::position`].
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn position(&self) -> LogPosition {
        self.position
    }

    fn is_checkpoint_due(&self) -> bool {
        self.log_bytes > self.checkpoint_bytes.max(CHECKPOINT_LOG_BYTES_MIN)
    }

    fn checkpoint(&mut self) -> Checkpoint {
        let data = format::encode_state(&self.state);
        self.log_bytes = 0;
        self.checkpoint_bytes = data.len();
        Checkpoint { position: self.position, data }
    }
}

/// Why a fold could not catch up with the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum CatchUpError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Divergence(#[from] Divergence),
}

/// What the owner's follower is told.
#[derive(Debug)]
pub(super) enum Follow {
    /// This was committed.
    Row(LogRow),
    /// Give a copy of the state as of the last row. Dropped without an answer where there is none.
    State(oneshot::Sender<(LogPosition, State)>),
}

/// The owner's follower. Ends when nobody can tell it anything any more.
pub(super) struct FollowerThread {
    pub(super) fold: Fold,
    pub(super) rows: mpsc::Receiver<Follow>,
    pub(super) checkpoints: mpsc::Sender<Checkpoint>,
    pub(super) store: Arc<dyn Store>,
    pub(super) metrics: Metrics,
}

impl FollowerThread {
    /// Starts the thread. Needs a tokio runtime around it.
    pub(super) fn spawn(self) -> std::io::Result<()> {
        let runtime = Handle::current();
        thread::Builder::new().name("cabbage-follower".into()).spawn(move || self.run(&runtime)).map(|_| ())
    }

    fn run(mut self, runtime: &Handle) {
        // After a difference no checkpoint is completed until a hash was the same again.
        let mut trusted = true;
        while let Some(told) = self.rows.blocking_recv() {
            match told {
                Follow::State(answer) => {
                    // Nobody waits any more if the term ended meanwhile.
                    let _ = answer.send((self.fold.position(), self.fold.state().clone()));
                }
                Follow::Row(row) if row.position.number <= self.fold.position().number => {}
                Follow::Row(row) => match self.fold.fold(&row) {
                    Ok(same_hash) => {
                        trusted |= same_hash;
                        if trusted && self.fold.is_checkpoint_due() && self.checkpoints.capacity() > 0 {
                            let checkpoint = self.fold.checkpoint();
                            // Refused only if the term is over.
                            let _ = self.checkpoints.try_send(checkpoint);
                        }
                    }
                    Err(difference) => {
                        trusted = false;
                        self.metrics.follower_differs();
                        tracing::error!(
                            %difference,
                            "the follower differs from the owner; it reloads and completes no checkpoint. This is a bug: \
                             keep the log table, and report it"
                        );
                        let Ok(fold) = runtime.block_on(reload(&*self.store, row.position, self.fold.known)) else {
                            return;
                        };
                        self.fold = fold;
                    }
                },
            }
        }
    }
}

/// The state as of this row or a later one, from the newest checkpoint and the log.
async fn reload(store: &dyn Store, position: LogPosition, known: Format) -> Result<Fold, CatchUpError> {
    let mut fold = Fold::load(store, known).await?;
    match fold.catch_up(store).await {
        Err(error) if fold.position().number < position.number => {
            tracing::error!(%error, "the log cannot be folded; the owner goes on without a follower");
            Err(error)
        }
        // A hash that differs again: the log says what it says, and its writer had something else.
        Ok(_) | Err(_) => Ok(fold),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{
            batch::Batch,
            fact::Fact,
            types::{Format, JobId, QueueNo, Stream, TaskNo, Timestamp},
        },
        store::memory::MemoryStore,
    };

    fn row(number: u64, facts: Vec<Fact>, state_hash: Option<u64>) -> LogRow {
        let position = LogPosition { number, nonce: 7 };
        LogRow { position, term: 1, format: Format::default(), facts: Arc::new(facts), state_hash }
    }

    fn created(id: i64) -> Fact {
        let stream = Stream { queue: QueueNo(0), task: TaskNo(0), priority: 0 };
        Fact::Created { id: JobId(id), stream, waiting: true, due: Timestamp(1), args_bytes: 2, rare: None }
    }

    fn named() -> Vec<Fact> {
        vec![
            Fact::QueueNamed { no: QueueNo(0), name: "q".into() },
            Fact::TaskNamed { no: TaskNo(0), name: "t".into() },
            created(1),
        ]
    }

    #[test]
    fn a_row_that_is_missing_is_noticed() {
        let mut fold = Fold::empty(format::HIGHEST);
        fold.fold(&row(1, named(), None)).expect("the first row");
        assert_eq!(fold.fold(&row(3, vec![], None)), Err(Divergence::Gap { last: 1, found: 3 }));
    }

    #[test]
    fn a_fact_that_contradicts_the_state_is_no_panic() {
        let mut fold = Fold::empty(format::HIGHEST);
        fold.fold(&row(1, named(), None)).expect("the first row");
        let twice = fold.fold(&row(2, vec![created(1)], None));
        assert!(matches!(twice, Err(Divergence::Contradiction { row: 2, .. })), "{twice:?}");
    }

    #[test]
    fn a_hash_is_compared_with_the_writers() {
        let mut writer = State::default();
        for fact in &named() {
            writer.apply(fact);
        }
        let mut fold = Fold::empty(format::HIGHEST);
        assert_eq!(fold.fold(&row(1, named(), Some(writer.hash_at(1)))), Ok(true));
        let other = fold.fold(&row(2, vec![created(2)], Some(writer.hash_at(2))));
        assert_eq!(other, Err(Divergence::Hash { row: 2 }));
    }

    #[tokio::test]
    async fn a_hash_that_differs_keeps_no_broker_from_taking_over() {
        let store = MemoryStore::new(Arc::new(|| Timestamp(1)));
        let mut tenure = store.take_term("a").await.expect("memory").expect("nobody owns it");
        let batch =
            Batch { number: 1, facts: Arc::new(named()[..2].to_vec()), state_hash: Some(1), ..Batch::default() };
        tenure.writer.commit(&batch).await.expect("memory");
        let mut fold = Fold::empty(format::HIGHEST);
        assert_eq!(fold.catch_up(&store).await.expect("the log says what it says"), 1);
        assert_eq!(fold.position().number, 1);
    }

    #[tokio::test]
    async fn a_broker_stops_before_the_first_row_of_a_format_that_it_does_not_read() {
        let (older, newer) = (format::LOWEST, format::HIGHEST);
        let store = MemoryStore::new(Arc::new(|| Timestamp(1)));
        let mut tenure = store.take_term("a").await.expect("memory").expect("nobody owns it");
        let raised = vec![Fact::FormatRaised { format: newer }];
        for (number, facts, format) in [(1, named(), older), (2, raised, newer), (3, vec![created(2)], newer)] {
            let batch = Batch { number, facts: Arc::new(facts), format, ..Batch::default() };
            tenure.writer.commit(&batch).await.expect("memory");
        }
        let mut fold = Fold::empty(older);
        let stopped = fold.catch_up(&store).await.expect_err("row 2 is too new");
        let is_named = |error: &StoreError| matches!(error, StoreError::FormatTooNew { found, known } if (*found, *known) == (newer, older));
        assert!(matches!(&stopped, CatchUpError::Store(error) if is_named(error)), "{stopped}");
        assert_eq!(fold.position().number, 1);
        let mut fold = Fold::empty(newer);
        assert_eq!(fold.catch_up(&store).await.expect("it reads both"), 3);
        let checkpoint = fold.checkpoint();
        assert!(is_named(&Fold::of_checkpoint(&checkpoint, older).expect_err("it is too new")));
        assert_eq!(Fold::of_checkpoint(&checkpoint, newer).expect("it reads it").state().format, newer);
    }

    #[test]
    fn a_checkpoint_is_due_when_the_log_outweighs_the_last_one() {
        let mut fold = Fold::empty(format::HIGHEST);
        fold.fold(&row(1, named(), None)).expect("the first row");
        assert!(!fold.is_checkpoint_due());
        let rows = CHECKPOINT_LOG_BYTES_MIN / ROW_BYTES + 1;
        for number in 2..rows as u64 + 2 {
            fold.fold(&row(number, vec![], None)).expect("an empty row");
        }
        assert!(fold.is_checkpoint_due());
        let checkpoint = fold.checkpoint();
        assert!(!fold.is_checkpoint_due());
        let again = Fold::of_checkpoint(&checkpoint, format::HIGHEST).expect("what was encoded");
        assert_eq!(again.state().difference(fold.state()), None);
        assert_eq!(again.position(), fold.position());
    }
}
