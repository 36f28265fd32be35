//! Every row that holds bytes has the format of the commit that wrote it, so that nobody meets one that the log did not
//! announce.

use std::sync::Arc;

use cabbage_broker::{
    core::{
        batch::{Answer, Batch, RareRow, RequestRow},
        fact::Fact,
        job::JobSpec,
        place::Place,
        types::JobId,
    },
    store::{
        LogPosition,
        format::{HIGHEST, LOWEST},
    },
};
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use crate::{
    both::on_both_stores,
    cell::{STREAM, TestCell, batch, first_batch, new_job, parked, record, spec},
    schedules,
};

on_both_stores!(a_row_says_in_which_format_it_is);

/// One row of each kind that holds bytes, for this job.
fn rows(id: i64, batch: Batch) -> Batch {
    let options = JobSpec { strict: true, ..spec() };
    let answer = Answer::Deferred { first: JobId(id), count: 1 };
    Batch {
        jobs: vec![new_job(id, options)],
        parked: vec![parked(id, Place::Stream(STREAM), 0, record())],
        requests: vec![RequestRow { id: format!("r{id}").into(), digest: Uuid::nil(), answer }],
        rare_rows: vec![RareRow::Schedule(schedules::record(&format!("schedule {id}")))],
        ..batch
    }
}

#[tokio::test]
async fn what_is_written_as_bytes_has_the_format_of_its_commit() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    let raised = vec![Fact::FormatRaised { format: HIGHEST }];
    let second = Batch { facts: Arc::new(raised), format: HIGHEST, ..batch(2) };
    for batch in [rows(1, first_batch([])), rows(2, second)] {
        owner.writer.commit(&batch).await.expect("committed");
    }
    // A job of a partition that is to go.
    let kept = Batch { kept_below: JobId(4), format: HIGHEST, ..rows(3, batch(3)) };
    owner.writer.commit(&kept).await.expect("committed");
    let mut connection = cell.connection().await;
    for (column, table, order) in [
        ("facts", "log", "number"),
        ("record", "parked", "job"),
        ("options", "(SELECT id, options FROM job UNION ALL SELECT id, options FROM job_kept) jobs", "id"),
        ("answer", "request", "id"),
        ("definition", "schedule", "name"),
    ] {
        let sql = format!("SELECT get_byte({column}, 0) FROM {table} ORDER BY {order}");
        let found = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut connection).await.expect("read");
        let formats: Vec<i32> = found.iter().map(|row| row.get(0)).collect();
        assert_eq!(formats, [2, 3, 3], "{column} of {table}");
    }
}

async fn a_row_says_in_which_format_it_is(cell: TestCell) {
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch([1])).await.expect("committed");
    owner.writer.commit(&Batch { format: HIGHEST, ..batch(2) }).await.expect("committed");
    let rows = cell.store.follow(LogPosition::default(), 10).await.expect("read");
    assert_eq!(rows.iter().map(|row| row.format).collect::<Vec<_>>(), [LOWEST, HIGHEST]);
}
