// Graphile Worker: one workload, one line of JSON. Arguments: workload, jobs, URL of an empty database.
//
// At its best: two pools of 100 in one process, local queues of 5,000, completions in batches. It deletes what is done.

import { Logger, makeWorkerUtils, run, runMigrations } from "graphile-worker";
import pg from "pg";

const [workload, count, url] = process.argv.slice(2);
const jobs = Number(count);
const PAYLOAD = { pad: "x".repeat(90) };
const TASK = "noop";
const POOLS = 2;
const quiet = new Logger(() => () => {});

const db = new pg.Pool({ connectionString: url, max: 10 });
const one = async (sql) => (await db.query(sql)).rows[0];
const seconds = (since) => Number(process.hrtime.bigint() - since) / 1e9;

/** How often each job ran, by its id. */
const runs = new Map();
let started = 0;
let notify = () => {};

const taskList = {
  [TASK]: (_payload, helpers) => {
    started += 1;
    const id = helpers.job.id;
    runs.set(id, { times: (runs.get(id)?.times ?? 0) + 1, at: performance.now() });
    notify();
  },
};

/** Workers; `drain`: set for throughput, else for the shortest way from the insert to the start. */
async function workers(drain) {
  const worker = drain
    ? { localQueue: { size: 5000 }, completeJobBatchDelay: 0, failJobBatchDelay: 0, pollInterval: 100 }
    : { pollInterval: 2000 };
  const preset = { worker: { connectionString: url, concurrentJobs: 100, maxPoolSize: 20, logger: quiet, ...worker } };
  return Promise.all(Array.from({ length: drain ? POOLS : 1 }, () => run({ preset, taskList, noHandleSignals: true })));
}

/** The library's own batches. */
async function fill(utils, total, size) {
  const spec = { identifier: TASK, payload: PAYLOAD };
  for (let left = total; left > 0; left -= size) {
    await utils.addJobs(Array.from({ length: Math.min(left, size) }, () => spec));
  }
}

async function settle() {
  // Without fresh statistics it scans the table for each batch.
  await db.query("VACUUM ANALYZE");
  await db.query("CHECKPOINT");
}

function verdict(wanted) {
  const doubled = [...runs.values()].filter((run) => run.times > 1).length;
  return { lost: wanted - runs.size, doubled };
}

function quantile(sorted, q) {
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
}

const left = () => one("SELECT EXISTS (SELECT FROM graphile_worker._private_jobs) AS any");

const workloads = {
  async drain(utils) {
    await fill(utils, jobs, 1000);
    await settle();
    const begin = process.hrtime.bigint();
    const runners = await workers(true);
    await new Promise((done) => {
      notify = () => started >= jobs && done();
      notify();
    });
    while ((await left()).any) await new Promise((again) => setImmediate(again));
    const rate = jobs / seconds(begin);
    await Promise.all(runners.map((runner) => runner.stop()));
    return { jobs_per_second: rate, ...verdict(jobs) };
  },

  async single(utils) {
    const pool = new pg.Pool({ connectionString: url, max: 8 });
    const { makeWorkerUtils: make } = { makeWorkerUtils };
    const caller = await make({ pgPool: pool, logger: quiet });
    await settle();
    let next = 0;
    const begin = process.hrtime.bigint();
    const ids = new Set();
    await Promise.all(
      Array.from({ length: 64 }, async () => {
        while (next++ < jobs) ids.add((await caller.addJob(TASK, PAYLOAD)).id);
      }),
    );
    const rate = jobs / seconds(begin);
    await caller.release();
    await pool.end();
    const { n } = await one("SELECT count(*)::int AS n FROM graphile_worker._private_jobs");
    return { jobs_per_second: rate, lost: jobs - n, doubled: jobs - ids.size };
  },

  async batch(utils) {
    await settle();
    const begin = process.hrtime.bigint();
    await fill(utils, jobs, 1000);
    const rate = jobs / seconds(begin);
    const { n } = await one("SELECT count(*)::int AS n FROM graphile_worker._private_jobs");
    return { jobs_per_second: rate, lost: jobs - n, doubled: 0 };
  },

  async latency(utils) {
    const runners = await workers(false);
    const times = [];
    const sent = [];
    // Open loop: a job's time counts from the moment when it was to be sent.
    const begin = performance.now() + 200;
    for (let number = 0; number < jobs; number += 1) {
      const due = begin + number * 10;
      const wait = due - performance.now();
      if (wait > 0) await new Promise((go) => setTimeout(go, wait));
      // A timer of this runtime is late by up to a millisecond, which is not the queue's fault.
      const from = Math.max(due, Math.min(performance.now(), due + 2));
      sent.push(utils.addJob(TASK, PAYLOAD).then((job) => [job.id, from]));
    }
    const calls = await Promise.all(sent);
    await new Promise((done) => {
      notify = () => started >= jobs && done();
      notify();
    });
    for (const [id, from] of calls.slice(Math.min(200, jobs / 10))) times.push(runs.get(id).at - from);
    await Promise.all(runners.map((runner) => runner.stop()));
    times.sort((a, b) => a - b);
    return { p50_ms: quantile(times, 0.5), p99_ms: quantile(times, 0.99), ...verdict(jobs) };
  },
};

await runMigrations({ connectionString: url, logger: quiet });
const utils = await makeWorkerUtils({ connectionString: url, logger: quiet });
const figures = await workloads[workload](utils);
await utils.release();
await db.end();
console.log(JSON.stringify({ peer: "graphile", workload, jobs, ...figures }));
process.exit(0);
