//! The Python of `docs/how-to/transactions.md`, as it stands there, against a real broker.

use std::{fs, path::Path, process::Stdio};

use cabbage_worker::{Client, v1::JobState};
use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use crate::{PATIENCE, postgres, room::python_with_psycopg};

/// Goes before the page's code: says by the environment where the database is, as the page has it.
const BEFORE: &str = r#"
import os, sys
from psycopg import conninfo
for key, value in conninfo.conninfo_to_dict(sys.argv[1]).items():
    os.environ["PG" + {"dbname": "DATABASE"}.get(key, key.upper())] = str(value)
"#;

fn code_of_the_page() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/how-to/transactions.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let block = page.split("```python\n").nth(1).and_then(|rest| rest.split("```").next());
    block.expect("the page shows Python").to_owned()
}

#[tokio::test]
async fn python_defers_in_its_own_transaction_as_the_page_shows() {
    let Some(python) = python_with_psycopg() else { return };
    let (broker, kept) = postgres::start(|_| {}).await;
    let options: PgConnectOptions = kept.url().parse().expect("an address");
    let mut database = options.connect().await.expect("a connection");
    let table = "CREATE TABLE account (id integer, greeted boolean); INSERT INTO account VALUES (7, false)";
    sqlx::raw_sql(table).execute(&mut database).await.expect("the page's table");

    let mut python = Command::new(python);
    python
        .args(["-", kept.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut python = python.spawn().expect("Python runs");
    let program = format!("{BEFORE}{}print(job_id)\n", code_of_the_page());
    let mut stdin = python.stdin.take().expect("a pipe");
    stdin.write_all(program.as_bytes()).await.expect("it reads");
    drop(stdin);
    let output = timeout(PATIENCE, python.wait_with_output()).await.expect("in time").expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let job_id = String::from_utf8_lossy(&output.stdout).trim().parse().expect("an id");

    let greeted: Result<bool, _> = sqlx::query_scalar("SELECT greeted FROM account").fetch_one(&mut database).await;
    assert!(greeted.expect("read"), "the rest of the transaction is committed");
    let client = Client::new(broker.grpc_address().to_string()).expect("an address");
    let job = client.get_full(job_id).await.expect("the job exists");
    let spec = job.spec.clone().expect("what was asked for");
    assert_eq!((job.state(), spec.task.as_str(), spec.queue.as_str()), (JobState::Waiting, "greet", "mail"));
    assert_eq!(&spec.args[..], b"{\"name\": \"Ada\"}");
    broker.shutdown().await.expect("it stops in order");
}
