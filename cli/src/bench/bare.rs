//! The bare statements of the store: the same function, the same rows, from one connection, without a broker.
//!
//! What a drain reaches of their speed is what broker and workers leave of the database.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cabbage_migrations::{Schema, prepare};
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _, query::Query};
use uuid::Uuid;

use super::{cell::Cell, cpu, database::Database, phase::Phase};

/// Jobs of one commit: what the broker puts into one at most, about.
const BATCH_JOBS: usize = 4_000;
/// The writer's row of the fence.
const WRITER: i16 = 1;
/// The nonce of the term; any will do where nobody else takes part.
const NONCE: i64 = 0x6265_6e63;
/// The verdict of a success, as the tables write it.
const SUCCEEDED: i16 = 1;

/// A cell without a broker.
struct Bare {
    connection: PgConnection,
    sql: String,
    term: i64,
    log: i64,
    session: Uuid,
}

/// What is done with every job, once.
pub(super) struct Stretch {
    pub(super) name: &'static str,
    /// The jobs come into being.
    pub(super) inserts: bool,
    /// They start and succeed; with the above, in the same commit.
    pub(super) finishes: bool,
    /// What the broker wrote into the log for each job, for the same here.
    pub(super) fact_bytes: f64,
}

/// Runs the stretches one after the other, each over as many jobs as the broker had.
pub(super) async fn run(
    cell: &mut Cell,
    jobs: usize,
    args_bytes: usize,
    stretches: &[Stretch],
) -> anyhow::Result<Vec<Phase>> {
    cell.stop_broker().await?;
    let url = cell.database_url().context("bare statements run on a database of our own only")?;
    let schema: Schema = "cabbage_bare".parse()?;
    prepare(PgConnection::connect(&url).await?, &schema).await?;
    let mut reader = Database::connect(&url, schema.clone()).await?;
    let mut bare = Bare::open(&url, &schema).await?;
    let args = super::drain::args(args_bytes);
    let mut phases = Vec::new();
    for Stretch { name, inserts, finishes, fact_bytes } in stretches {
        reader.checkpoint().await?;
        let before = (reader.reading().await?, cell.postgresql_cpu(), cpu::of_process(std::process::id()));
        let start = Instant::now();
        let mut first = 1_i64;
        while first <= jobs as i64 {
            let last = (first + BATCH_JOBS as i64 - 1).min(jobs as i64);
            let ids: Vec<i64> = (first..=last).collect();
            let facts = vec![0x5a; (fact_bytes * ids.len() as f64) as usize];
            let outcomes = if *finishes { ids.clone() } else { Vec::new() };
            let jobs = if *inserts { ids } else { Vec::new() };
            bare.commit(facts, jobs, &args, outcomes).await?;
            first = last + 1;
        }
        let mut phase = Phase::new(name, jobs, start.elapsed());
        let after = (reader.reading().await?, cell.postgresql_cpu(), cpu::of_process(std::process::id()));
        phase.cpu("postgresql", before.1, after.1);
        phase.cpu("caller", before.2, after.2);
        phase.commits = Some(after.0.log - before.0.log);
        phase.statements = Some((after.0.log - before.0.log) as u64);
        phase.jobs_per_commit = Some(jobs as f64 / (after.0.log - before.0.log).max(1) as f64);
        phase.wal_bytes_per_job = Some(phase.per_job(after.0.wal - before.0.wal));
        phase.fact_bytes_per_job = Some(*fact_bytes);
        phases.push(phase);
    }
    bare.connection.close().await?;
    Ok(phases)
}

impl Bare {
    async fn open(url: &str, schema: &Schema) -> anyhow::Result<Self> {
        let mut connection = PgConnection::connect(url).await?;
        let schema = schema.quoted();
        // As the store sets its own connections.
        for setting in ["enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_bitmapscan", "jit"] {
            sqlx::query(AssertSqlSafe(format!("SET {setting} = off"))).execute(&mut connection).await?;
        }
        let take = format!(
            "SELECT {schema}.take_term_1($1, ARRAY[pg_backend_pid(), pg_backend_pid()], \
             ARRAY[clock_timestamp(), clock_timestamp()], 'bench')"
        );
        let row = sqlx::query(AssertSqlSafe(take)).bind(NONCE).fetch_one(&mut connection).await?;
        let term: i64 = row.try_get(0)?;
        let partitions = format!("SELECT {schema}.add_partitions_1($1, $2, $3, ARRAY[1, 16777216]::bigint[], 1, 1)");
        sqlx::query(AssertSqlSafe(partitions)).bind(WRITER).bind(term).bind(NONCE).execute(&mut connection).await?;
        // Only what differs from call to call is a parameter; what a plain job does not have is empty.
        let sql = format!(
            "-- cabbage:bench_commit\nSELECT * FROM {schema}.commit_1(\
             p_writer => $1, p_term => $2, p_nonce => $3, p_number => $4, p_after_nonce => $3, p_facts => $5, \
             p_state_hash => NULL, p_not_before => '-infinity', p_reserve => $6, \
             j_ids => $7, j_queues => '{{1}}', j_tasks => '{{1}}', j_priorities => '{{}}', j_dues => '{{}}', \
             j_args => $8, j_locks => '{{}}', j_queueing_locks => '{{}}', j_options => '{{}}', j_metadata => '{{}}', \
             j_traceparents => '{{}}', j_tracestates => '{{}}', \
             o_jobs => $9, o_deliveries => '{{}}', o_attempts => '{{}}', o_verdicts => $10, o_started => $11, \
             o_finished => $12, o_sessions => $13, o_reasons => '{{}}', o_error_kinds => '{{}}', \
             o_error_messages => '{{}}', o_error_traces => '{{}}', o_results => '{{}}', o_next_dues => '{{}}', \
             o_changed_queues => '{{}}', o_changed_priorities => '{{}}', o_changed_locks => '{{}}', \
             p_jobs => '{{}}', p_places => '{{}}', p_sorts => '{{}}', p_locks => '{{}}', p_queueing_locks => '{{}}', \
             p_records => '{{}}', u_jobs => '{{}}', u_places => '{{}}', u_sorts => '{{}}', \
             r_ids => '{{}}', r_digests => '{{}}', r_answers => '{{}}', \
             q_numbers => $14, q_names => $15, t_numbers => $14, t_names => $15)"
        );
        Ok(Self { connection, sql, term, log: 0, session: Uuid::new_v4() })
    }

    async fn commit(&mut self, facts: Vec<u8>, jobs: Vec<i64>, args: &str, outcomes: Vec<i64>) -> anyhow::Result<()> {
        self.log += 1;
        let args = vec![args.to_owned(); jobs.len()];
        let names: Vec<String> = if self.log == 1 { vec!["bench".to_owned()] } else { Vec::new() };
        let numbers: Vec<i32> = names.iter().map(|_| 1).collect();
        // Any time will do: it is only kept.
        let now: DateTime<Utc> = DateTime::UNIX_EPOCH + Duration::from_hours(500_000);
        let query: Query<'_, sqlx::Postgres, _> = sqlx::query(AssertSqlSafe(self.sql.clone()))
            .bind(WRITER)
            .bind(self.term)
            .bind(NONCE)
            .bind(self.log)
            .bind(facts)
            .bind(jobs.len() as i32)
            .bind(jobs)
            .bind(args)
            .bind(outcomes.clone())
            .bind(vec![SUCCEEDED])
            .bind(vec![now; outcomes.len()])
            .bind(vec![now])
            .bind(vec![self.session; outcomes.len()])
            .bind(numbers)
            .bind(names);
        let row = query.fetch_one(&mut self.connection).await?;
        let committed: Option<DateTime<Utc>> = row.try_get(0)?;
        ensure!(committed.is_some(), "the function answered without a time");
        Ok(())
    }
}
