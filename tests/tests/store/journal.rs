//! The log and its checkpoints.

use bytes::Bytes;
use cabbage_broker::{
    core::batch::Batch,
    store::{Checkpoint, LogPosition, StoreError},
};

use crate::{
    both::on_both_stores,
    cell::{TestCell, batch},
};

on_both_stores!(log_is_read_from_any_row_on, changed_log_is_noticed, newest_checkpoint_is_loaded,);

async fn log_is_read_from_any_row_on(cell: TestCell) {
    let mut owner = cell.own().await;
    let mut batches = Vec::new();
    for number in 1..=5 {
        let batch = Batch { state_hash: (number == 3).then_some(u64::MAX), ..batch(number) };
        owner.writer.commit(&batch).await.expect("committed");
        batches.push(batch);
    }
    let rows = cell.store.follow(LogPosition::default(), 3).await.expect("read");
    assert_eq!(rows.len(), 3);
    let rest = cell.store.follow(rows[2].position, 10).await.expect("read");
    let rows: Vec<_> = rows.into_iter().chain(rest).collect();
    for (row, batch) in rows.iter().zip(&batches) {
        assert_eq!(row.position, LogPosition { number: batch.number, nonce: owner.term.nonce });
        assert_eq!((row.term, row.state_hash), (owner.term.number, batch.state_hash));
        assert_eq!(row.facts, batch.facts);
    }
    assert_eq!(rows.len(), 5);
    assert!(cell.store.follow(rows[4].position, 10).await.expect("read").is_empty());
}

async fn changed_log_is_noticed(cell: TestCell) {
    let mut owner = cell.own().await;
    owner.writer.commit(&batch(1)).await.expect("committed");
    let nonce = owner.term.nonce;
    let elsewhere = [
        LogPosition { number: 1, nonce: nonce.wrapping_add(1) },
        LogPosition { number: 2, nonce },
        LogPosition { number: 0, nonce },
    ];
    for after in elsewhere {
        let error = cell.store.follow(after, 10).await.expect_err("it is not there");
        assert!(matches!(error, StoreError::LogChanged), "{error}");
    }
}

#[tokio::test]
async fn log_whose_beginning_was_dropped_is_to_be_loaded_again() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    for number in 1..=3 {
        owner.writer.commit(&batch(number)).await.expect("committed");
    }
    sqlx::query("DELETE FROM log WHERE number < 3").execute(&mut cell.connection().await).await.expect("dropped");
    for number in 0..3 {
        let after = LogPosition { number, nonce: if number == 0 { 0 } else { owner.term.nonce } };
        let error = cell.store.follow(after, 10).await.expect_err("row after it is gone");
        assert!(matches!(error, StoreError::LogChanged), "{error}");
    }
}

async fn newest_checkpoint_is_loaded(cell: TestCell) {
    let mut owner = cell.own().await;
    assert_eq!(cell.store.load().await.expect("read"), None);
    for (number, len) in [(1, 0), (2, 256 << 10), (3, 700_000)] {
        owner.writer.commit(&batch(number)).await.expect("committed");
        let data: Bytes = (0..len).map(|at: u32| (at.wrapping_mul(31) >> 3) as u8).collect();
        let checkpoint = Checkpoint { position: LogPosition { number, nonce: owner.term.nonce }, data };
        owner.duties.checkpoint(&checkpoint).await.expect("written");
        assert_eq!(cell.store.load().await.expect("read"), Some(checkpoint.clone()));
        // Once more, as after a takeover.
        owner.duties.checkpoint(&checkpoint).await.expect("written");
        assert_eq!(cell.store.load().await.expect("read"), Some(checkpoint));
    }
}
