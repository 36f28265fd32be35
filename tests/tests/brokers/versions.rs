//! Brokers of two versions serve one cell: the older one knows format 2 of the log alone.

use cabbage_broker::{
    Broker,
    store::format::{HIGHEST, LOWEST},
};
use cabbage_proto::v1::{self, Broker as Listed};
use sqlx::{Connection as _, PgConnection, Row as _};
use tonic_types::StatusExt as _;

use crate::{
    handover::{Runs, check, end_well, replace_the_first, worker},
    scene::{Brokers, LOOK, defer, page, soon},
};

/// How long no older broker was there before the format is raised: longer than a broker needs to find a new owner, by
/// far, and as long as the test waits for it.
const RAISE_MS: u64 = 10_000;

/// Brokers that are started from now on are of this version.
fn version(brokers: &mut Brokers, format: u8, raise_ms: u64) {
    brokers.args.formats.highest_format = format;
    brokers.args.formats.format_raise_ms = raise_ms;
}

async fn list(brokers: &Brokers) -> v1::ListBrokersResponse {
    let list = brokers.admin(0).await.list_brokers(v1::ListBrokersRequest::default()).await;
    list.expect("the brokers").into_inner()
}

/// Waits until the log is written in this format.
async fn is_written_in(brokers: &Brokers, format: u8) {
    soon(async {
        while list(brokers).await.log_format != u32::from(format) {
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;
}

/// Waits until the broker has found that it cannot read the log.
async fn is_refused(broker: &Broker) {
    soon(async {
        while broker.cell().refusal().is_none() {
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;
}

/// The formats of the rows of the log, in their order.
async fn formats_of_the_log(url: &str) -> Vec<i32> {
    let mut connection = PgConnection::connect(url).await.expect("the database");
    let rows = sqlx::query("SELECT get_byte(facts, 0) FROM cabbage.log ORDER BY number").fetch_all(&mut connection);
    rows.await.expect("the log").iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn an_older_version_is_replaced_under_load_and_the_format_rises_once_the_last_one_is_gone() {
    let mut brokers = Brokers::in_postgres(0).await;
    version(&mut brokers, LOWEST.0, RAISE_MS);
    for _ in 0..3 {
        brokers.add().await;
    }
    let runs = Runs::default();
    let everywhere: Vec<_> = (0..3).map(|number| brokers.address(number)).collect();
    let workers: Vec<_> = (0..2).map(|_| worker(everywhere.clone(), &runs)).collect();
    version(&mut brokers, HIGHEST.0, RAISE_MS);
    let mut ids = Vec::new();
    for older in [2, 1, 0] {
        ids.extend(replace_the_first(&mut brokers).await);
        let list = list(&brokers).await;
        let reads = |format: u8| list.brokers.iter().filter(|it| it.highest_format == u32::from(format)).count();
        assert_eq!((reads(LOWEST.0), reads(HIGHEST.0)), (older, 3 - older));
        assert!(older == 0 || list.log_format == u32::from(LOWEST.0), "an older broker is there");
        // Each version owns the cell beside the other.
        let next = list.brokers.iter().find(|it| !it.owner).map(|it| it.address.clone()).expect("a follower");
        brokers
            .admin(0)
            .await
            .hand_over(v1::HandOverRequest { address: next, ..Default::default() })
            .await
            .expect("another owner");
        brokers.settle().await;
    }
    is_written_in(&brokers, HIGHEST.0).await;
    // And the log goes on, also under the next owner.
    ids.extend(replace_the_first(&mut brokers).await);
    check(&brokers, &runs, &ids).await;
    end_well(workers).await;
    let formats = formats_of_the_log(brokers.url()).await;
    assert!(formats.is_sorted(), "a format is never lowered");
    assert_eq!((formats.first(), formats.last()), (Some(&2), Some(&3)));
}

async fn an_older_broker_stays_out(mut brokers: Brokers) {
    version(&mut brokers, HIGHEST.0, 0);
    brokers.add().await;
    is_written_in(&brokers, HIGHEST.0).await;
    let job_id = brokers.jobs(0).await.defer_job(defer("count")).await.expect("a job").into_inner().job_id;

    version(&mut brokers, LOWEST.0, 0);
    brokers.args.intervals.relay_hold_ms = 300;
    brokers.add().await;
    let mut older = brokers.jobs(1).await;
    // It knows the owner before it has read the log. Then it says why in its health and in the list, and passes on what
    // comes to it.
    is_refused(&brokers.all[1]).await;
    let said = page(&brokers.all[1], "/readyz").await;
    assert!(said.contains("503") && said.contains("the log has format 3") && said.contains("up to 2"), "{said}");
    let get = v1::GetJobRequest { job_id, ..v1::GetJobRequest::default() };
    older.get_job(get).await.expect("the owner answers");
    let is_older = |it: &Listed| !it.owner && it.highest_format == u32::from(LOWEST.0);
    assert!(list(&brokers).await.brokers.iter().any(is_older));
    let to = v1::HandOverRequest { address: brokers.address(1), ..Default::default() };
    let refused = brokers.admin(0).await.hand_over(to).await.expect_err("it cannot own the cell");
    assert_eq!(refused.get_details_error_info().expect("an ErrorInfo").reason, "NO_FOLLOWER");

    // Alone, it owns nothing.
    soon(brokers.all.remove(0).shutdown()).await.expect("it stops in order");
    let refused = soon(older.get_job(get)).await.expect_err("nobody owns the cell");
    assert_eq!(refused.get_details_error_info().expect("an ErrorInfo").reason, "NOT_OWNER");
    assert!(refused.message().contains("the log has format 3"), "{refused:?}");

    // A newer one goes on where the last one ended.
    version(&mut brokers, HIGHEST.0, 0);
    brokers.add().await;
    assert_eq!(brokers.owner(), 1);
    assert_eq!(older.get_job(get).await.expect("the owner answers").into_inner().job.expect("it").id, job_id);
}

#[tokio::test]
async fn an_older_broker_that_comes_late_stays_out_in_memory() {
    an_older_broker_stays_out(Brokers::in_memory(0).await).await;
}

#[tokio::test]
async fn an_older_broker_that_comes_late_stays_out_in_postgres() {
    an_older_broker_stays_out(Brokers::in_postgres(0).await).await;
}

#[tokio::test]
async fn a_rollout_is_turned_back_as_long_as_one_older_broker_is_left() {
    let mut brokers = Brokers::in_postgres(0).await;
    version(&mut brokers, LOWEST.0, RAISE_MS);
    for _ in 0..3 {
        brokers.add().await;
    }
    let runs = Runs::default();
    let everywhere: Vec<_> = (0..3).map(|number| brokers.address(number)).collect();
    let workers = [worker(everywhere, &runs)];
    let mut ids = Vec::new();
    for format in [HIGHEST.0, LOWEST.0] {
        version(&mut brokers, format, RAISE_MS);
        for _ in 0..2 {
            ids.extend(replace_the_first(&mut brokers).await);
        }
        // The older one that was left stays; the newer ones go next.
        brokers.all.rotate_left(1);
    }
    check(&brokers, &runs, &ids).await;
    end_well(workers).await;
    assert!(formats_of_the_log(brokers.url()).await.iter().all(|format| *format == i32::from(LOWEST.0)));
}
