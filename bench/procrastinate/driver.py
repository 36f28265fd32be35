"""Procrastinate: one workload, one line of JSON. Arguments: workload, jobs, URL of an empty database.

At its best: one process with 30 jobs at once, batches by its own batch defer. It keeps the rows of what is done.
"""

import asyncio
import json
import logging
import sys
import time

import procrastinate
from procrastinate import PsycopgConnector

PAD = "x" * 90
workload, jobs, url = sys.argv[1], int(sys.argv[2]), sys.argv[3]
logging.disable(logging.ERROR)

connector = PsycopgConnector(conninfo=url, min_size=4, max_size=20)
app = procrastinate.App(connector=connector)
runs: dict[int, int] = {}
started: dict[int, float] = {}


@app.task(name="noop", pass_context=True)
async def noop(context, pad):
    job = context.job.id
    runs[job] = runs.get(job, 0) + 1
    started.setdefault(job, time.perf_counter())


def verdict(wanted):
    return {"lost": wanted - len(runs), "doubled": sum(1 for times in runs.values() if times > 1)}


async def one(sql):
    return (await connector.execute_query_one_async(sql))["n"]


async def settle():
    async with connector.pool.connection() as connection:
        await connection.set_autocommit(True)
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
        await connection.set_autocommit(False)


async def fill():
    for left in range(jobs, 0, -1000):
        await noop.batch_defer_async(*({"pad": PAD} for _ in range(min(left, 1000))))


async def drain():
    await fill()
    await settle()
    begin = time.perf_counter()
    await app.run_worker_async(
        concurrency=30, wait=False, listen_notify=False, install_signal_handlers=False, fetch_job_polling_interval=0.05
    )
    rate = jobs / (time.perf_counter() - begin)
    done = await one("SELECT count(*) AS n FROM procrastinate_jobs WHERE status = 'succeeded'")
    return {"jobs_per_second": rate, **verdict(jobs), "lost": jobs - done}


async def single():
    await settle()
    left = iter(range(jobs))

    async def caller():
        for _ in left:
            await noop.defer_async(pad=PAD)

    begin = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(64)))
    rate = jobs / (time.perf_counter() - begin)
    return {"jobs_per_second": rate, "lost": jobs - await one("SELECT count(*) AS n FROM procrastinate_jobs"), "doubled": 0}


async def batch():
    await settle()
    begin = time.perf_counter()
    await fill()
    rate = jobs / (time.perf_counter() - begin)
    return {"jobs_per_second": rate, "lost": jobs - await one("SELECT count(*) AS n FROM procrastinate_jobs"), "doubled": 0}


async def latency():
    """Open loop: a job's time counts from the moment when it was to be sent."""
    worker = asyncio.create_task(app.run_worker_async(concurrency=30, install_signal_handlers=False))
    begin = time.perf_counter() + 1.0
    sent = []

    async def call(due):
        return await noop.defer_async(pad=PAD), due

    for number in range(jobs):
        due = begin + number * 0.01
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        # A timer of this runtime is late by up to a millisecond, which is not the queue's fault.
        due = max(due, min(time.perf_counter(), due + 0.002))
        sent.append(asyncio.create_task(call(due)))
    calls = await asyncio.gather(*sent)
    while len(started) < jobs:
        await asyncio.sleep(0.01)
    worker.cancel()
    times = sorted((started[job] - due) * 1e3 for job, due in calls[min(200, jobs // 10):])
    at = lambda q: times[min(len(times) - 1, int(q * len(times)))]
    return {"p50_ms": at(0.5), "p99_ms": at(0.99), **verdict(jobs)}


async def main():
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        figures = await {"drain": drain, "single": single, "batch": batch, "latency": latency}[workload]()
    print(json.dumps({"peer": "procrastinate", "workload": workload, "jobs": jobs, **figures}))


asyncio.run(main())
