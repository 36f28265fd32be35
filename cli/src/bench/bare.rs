//! The bare statements of the store: the same function, the same rows, from one connection or two, without a broker.
//!
//! What a drain reaches of their speed is what broker and workers leave of the database.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cabbage_migrations::{Schema, prepare};
use chrono::{DateTime, Utc};
use futures::future::try_join_all;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _, query::Query};
use uuid::Uuid;

use super::{cell::Cell, cpu, database::Database, phase::Phase};

/// Jobs of one commit: what the broker puts into one at most, about.
const BATCH_JOBS: usize = 4_000;
/// Each connection has its row of the fence, as the owner's two have: so there are no more.
const CONNECTIONS_MAX: i16 = 2;
/// The nonce of the term; any will do where nobody else takes part.
const NONCE: i64 = 0x6265_6e63;
/// Ids of one row of successes agree in all but so many bits.
const BLOCK_BITS: u32 = 7;
/// The verdict of a success, as the tables write it.
const SUCCEEDED: i16 = 1;

/// The parameters of `commit_1` that stay null: what plain jobs and their successes do not have.
const LEFT_OUT: &str = "p_state_hash j_priorities j_dues j_locks j_queueing_locks j_options j_metadata j_traceparents
    j_tracestates o_deliveries o_attempts o_reasons o_error_kinds o_error_messages o_error_traces o_results o_next_dues
    o_changed_queues o_changed_priorities o_changed_locks s_earlier s_session_of p_jobs p_places p_sorts p_locks
    p_queueing_locks p_records b_places b_blocks b_present b_locks b_records u_jobs u_places u_sorts l_places l_blocks
    l_leaving r_ids r_digests r_answers";

/// A cell without a broker.
struct Bare {
    hands: Vec<Hand>,
    /// The last number of the log.
    log: i64,
    /// The first of the ids that were inserted last.
    first: i64,
}

/// A connection that commits.
struct Hand {
    connection: PgConnection,
    /// Its row of the fence.
    writer: i16,
    sql: String,
    term: i64,
    args: String,
    session: Uuid,
}

/// What one commit holds.
struct Commit {
    number: i64,
    facts: Vec<u8>,
    jobs: Vec<i64>,
    outcomes: Vec<i64>,
    successes: Successes,
}

/// Plain successes in a row of ids, packed as the store packs them: by blocks of 128 ids.
#[derive(Default)]
struct Successes {
    firsts: Vec<i64>,
    ends: Vec<i32>,
    places: Vec<i16>,
}

impl Successes {
    fn of(ids: &[i64]) -> Self {
        let mut all = Self::default();
        for row in ids.chunk_by(|one, other| one >> BLOCK_BITS == other >> BLOCK_BITS) {
            all.firsts.push(row[0]);
            all.places.extend(row.iter().map(|id| (id & ((1 << BLOCK_BITS) - 1)) as i16));
            all.ends.push(all.places.len() as i32);
        }
        all
    }
}

/// What is done with every job, once.
#[derive(Clone, Copy)]
pub(super) struct Stretch {
    pub(super) name: &'static str,
    /// From how many connections at once: one or two.
    pub(super) connections: usize,
    /// The jobs come into being; without, it goes on with those of the stretch before.
    pub(super) inserts: bool,
    /// They start and succeed; with the above, in the same commit.
    pub(super) finishes: bool,
    /// As the store packs plain successes; without, each has a row of its own, as other outcomes have.
    pub(super) packs: bool,
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
    let args = super::drain::args(args_bytes);
    let mut bare = Bare::open(&url, &schema, args).await?;
    let mut phases = Vec::new();
    for stretch in stretches {
        reader.checkpoint().await?;
        let before = (reader.reading().await?, cell.postgresql_cpu(), cpu::of_process(std::process::id()));
        let start = Instant::now();
        bare.run(jobs as i64, stretch).await?;
        let Stretch { name, fact_bytes, .. } = stretch;
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
    bare.close().await?;
    Ok(phases)
}

impl Bare {
    async fn open(url: &str, schema: &Schema, args: String) -> anyhow::Result<Self> {
        let mut hands = Vec::new();
        for writer in 1..=CONNECTIONS_MAX {
            hands.push(Hand::open(url, schema, writer, args.clone()).await?);
        }
        let schema = schema.quoted();
        let take = format!(
            "SELECT {schema}.take_term_1($1, ARRAY[pg_backend_pid(), pg_backend_pid()], \
             ARRAY[clock_timestamp(), clock_timestamp()], 'bench')"
        );
        let connection = &mut hands[0].connection;
        let row = sqlx::query(AssertSqlSafe(take)).bind(NONCE).fetch_one(&mut *connection).await?;
        let term: i64 = row.try_get(0)?;
        let partitions =
            format!("SELECT {schema}.add_partitions_1(1::smallint, $1, $2, ARRAY[1, 16777216]::bigint[], 1, 1)");
        sqlx::query(AssertSqlSafe(partitions)).bind(term).bind(NONCE).execute(connection).await?;
        for hand in &mut hands {
            hand.term = term;
        }
        Ok(Self { hands, log: 0, first: 1 })
    }

    /// One stretch over so many jobs, whose commits the connections share in turns.
    async fn run(&mut self, jobs: i64, stretch: &Stretch) -> anyhow::Result<()> {
        ensure!(stretch.connections <= self.hands.len(), "a stretch has {CONNECTIONS_MAX} connections at most");
        if stretch.inserts && self.log > 0 {
            self.first += jobs;
        }
        let (first, end, log) = (self.first, self.first + jobs, self.log);
        let batches = (jobs as usize).div_ceil(BATCH_JOBS);
        let commit = |batch: usize| {
            let first = first + (batch * BATCH_JOBS) as i64;
            let ids: Vec<i64> = (first..end.min(first + BATCH_JOBS as i64)).collect();
            Commit {
                number: log + 1 + batch as i64,
                facts: vec![0x5a; (stretch.fact_bytes * ids.len() as f64) as usize],
                outcomes: if stretch.finishes && !stretch.packs { ids.clone() } else { Vec::new() },
                successes: if stretch.finishes && stretch.packs { Successes::of(&ids) } else { Successes::default() },
                jobs: if stretch.inserts { ids } else { Vec::new() },
            }
        };
        let hands = self.hands.iter_mut().take(stretch.connections).enumerate();
        try_join_all(hands.map(async |(turn, hand)| {
            for batch in (turn..batches).step_by(stretch.connections) {
                hand.commit(commit(batch)).await?;
            }
            anyhow::Ok(())
        }))
        .await?;
        self.log += batches as i64;
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        for hand in self.hands {
            hand.connection.close().await?;
        }
        Ok(())
    }
}

impl Hand {
    async fn open(url: &str, schema: &Schema, writer: i16, args: String) -> anyhow::Result<Self> {
        let mut connection = PgConnection::connect(url).await?;
        let schema = schema.quoted();
        // As the store sets its own connections.
        for setting in ["enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_bitmapscan", "jit"] {
            sqlx::query(AssertSqlSafe(format!("SET {setting} = off"))).execute(&mut connection).await?;
        }
        // Only what differs from call to call is a parameter; what a plain job does not have is null.
        let nulls = LEFT_OUT.split_whitespace().collect::<Vec<_>>().join(" => NULL, ");
        let sql = format!(
            "-- cabbage:bench_commit\nSELECT * FROM {schema}.commit_1(\
             p_writer => $1, p_term => $2, p_nonce => $3, p_number => $4, p_after_nonce => $3, p_facts => $5, \
             p_not_before => '-infinity', p_reserve => $6, j_ids => $7, j_queues => '{{1}}', j_tasks => '{{1}}', \
             j_args => $8, o_jobs => $9, o_verdicts => $10, o_started => $11, o_finished => $12, o_sessions => $13, \
             s_firsts => $16, s_finished => $12, s_ends => $17, s_places => $18, s_took => $19, s_session_ends => $20, \
             s_sessions => $21, q_numbers => $14, q_names => $15, t_numbers => $14, t_names => $15, {nulls} => NULL)"
        );
        Ok(Self { connection, writer, sql, term: 0, args, session: Uuid::new_v4() })
    }

    async fn commit(&mut self, commit: Commit) -> anyhow::Result<()> {
        let Commit { number, facts, jobs, outcomes, successes } = commit;
        let rows = successes.firsts.len();
        let args = vec![self.args.clone(); jobs.len()];
        let names: Vec<String> = if number == 1 { vec!["bench".to_owned()] } else { Vec::new() };
        let numbers: Vec<i32> = names.iter().map(|_| 1).collect();
        // Any time will do: it is only kept.
        let now: DateTime<Utc> = DateTime::UNIX_EPOCH + Duration::from_hours(500_000);
        let query: Query<'_, sqlx::Postgres, _> = sqlx::query(AssertSqlSafe(self.sql.clone()))
            .bind(self.writer)
            .bind(self.term)
            .bind(NONCE)
            .bind(number)
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
            .bind(names)
            .bind(successes.firsts)
            .bind(successes.ends)
            .bind(successes.places.clone())
            .bind(vec![0_i32; successes.places.len()])
            .bind((1..=rows as i32).collect::<Vec<_>>())
            .bind(vec![self.session; rows]);
        let row = query.fetch_one(&mut self.connection).await?;
        let committed: Option<DateTime<Utc>> = row.try_get(0)?;
        ensure!(committed.is_some(), "the function answered without a time");
        Ok(())
    }
}
