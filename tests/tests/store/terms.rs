//! Who owns the cell.

use cabbage_broker::{
    core::{batch::Batch, types::JobId},
    store::{Checkpoint, CommitError, Keep, LogPosition, RetainAsk},
};

use crate::{
    both::on_both_stores,
    cell::{TestCell, batch, first_batch},
};

on_both_stores!(
    term_has_one_owner_at_a_time,
    released_term_is_free_at_once,
    deposed_owner_writes_nothing_any_more,
    log_goes_on_under_the_next_term,
);

async fn term_has_one_owner_at_a_time(cell: TestCell) {
    assert_eq!(cell.store.owner().await.expect("read"), None);
    let owner = cell.own().await;
    assert!(cell.store.take_term("there:1").await.expect("the database answers").is_none());
    let known = cell.store.owner().await.expect("read").expect("somebody owns it");
    assert_eq!((known.term, &*known.address), (owner.term, "here:1"));
}

async fn released_term_is_free_at_once(cell: TestCell) {
    let first = cell.own().await;
    let term = first.term;
    first.writer.release().await;
    first.duties.release().await;
    let second = cell.own().await;
    assert_eq!(second.term.number, term.number + 1);
    assert_ne!(second.term.nonce, term.nonce);
}

async fn deposed_owner_writes_nothing_any_more(cell: TestCell) {
    let mut owner = cell.own().await;
    for write in 0..7 {
        cell.depose().await;
        let position = LogPosition { number: 1, nonce: 1 };
        let checkpoint = Checkpoint { position, data: vec![0; 9].into() };
        let result = match write {
            0 => owner.writer.commit(&Batch { reserve_ids: 1, ..first_batch([1]) }).await.map(drop),
            1 => owner.writer.tick().await.map(drop),
            2 => owner.writer.reserve(1).await.map(drop),
            3 => owner.duties.tick().await,
            4 => owner.duties.checkpoint(&checkpoint).await,
            5 => {
                let ask = RetainAsk { erase_after: Some(JobId(0)), ..RetainAsk::default() };
                owner.duties.retain(&Keep::default(), &ask).await.map(drop)
            }
            _ => owner.duties.partitions(JobId(1), 1).await,
        };
        assert!(matches!(result, Err(CommitError::TermOver(_))), "write {write}: {result:?}");
        owner.writer.release().await;
        owner.duties.release().await;
        // What has lost its term has lost its locks too, at the latest when its connection is gone.
        owner = loop {
            if let Some(next) = cell.store.take_term("here:1").await.expect("the database answers") {
                break next;
            }
        };
        assert!(cell.store.follow(LogPosition::default(), 1).await.expect("read").is_empty());
        assert_eq!(cell.store.load().await.expect("read"), None);
    }
}

async fn log_goes_on_under_the_next_term(cell: TestCell) {
    let mut first = cell.own().await;
    first.writer.commit(&batch(1)).await.expect("committed");
    first.writer.release().await;
    first.duties.release().await;
    let mut second = cell.own().await;
    second.writer.commit(&batch(2)).await.expect("committed");
    second.writer.commit(&batch(3)).await.expect("committed");
    let nonces = cell.store.follow(LogPosition::default(), 10).await.expect("read");
    let nonces: Vec<_> = nonces.iter().map(|row| row.position.nonce).collect();
    assert_eq!(nonces, [first.term.nonce, second.term.nonce, second.term.nonce]);
}
