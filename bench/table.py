"""The table of a run: what was measured as ratios, each beside the level that it has to hold and the aim.

It reads what `run` has written down and measures nothing.
"""

import statistics

MIB = 2**20
NO_LEVEL = (None, None)
# What is said of a figure that has a level.
AIM, HOLDS, MISSED, NOT_MEASURED = "holds, aim reached", "holds", "MISSED", "not measured"


class Figures:
    """Medians over the rounds of a run that have the figure. `None` is what was not measured."""

    def __init__(self, rounds):
        self.rounds = rounds

    def median(self, who, workload, read, of=statistics.median):
        found = (round[who][workload] for round in self.rounds if workload in round.get(who, {}))
        figures = [figure for figure in map(read, found) if figure is not None]
        return of(figures) if figures else None

    def ours(self, workload, read, of=statistics.median):
        return self.median("cabbage", workload, read, of)

    def speed(self, workload, phase):
        return self.ours(workload, lambda report: part(report, phase, "jobs_per_second"))

    def peer(self, who, workload, name="jobs_per_second"):
        return self.median(who, workload, lambda found: found[name])

    def share(self, workload, of, to):
        """What one phase has of the speed of another in the same report."""
        return self.ours(workload, lambda report: over(*(part(report, name, "jobs_per_second") for name in (of, to))))

    def burst(self, workload, kind, which=-1):
        """The speed of free jobs with others in front, as a share of it in a cell without them, in turns.

        `which`: of the rows with jobs in front, from that with the fewest (0) to that with the most (-1).
        """
        def read(report):
            rows = [row for row in report["rows"] if row["kind"] == kind and row["jobs"] > 0]
            return rows[which]["burst_ratio"] if rows else None
        return self.ours(workload, read)


def part(report, phase, name):
    """A figure of one phase, which is looked up by its name: a report may have others before it."""
    return next((found.get(name) for found in report["phases"] if found["name"] == phase), None)


def over(value, base):
    return None if value is None or base is None else value / base


def per_job(report, phase, name):
    return over(part(report, phase, name), part(report, phase, "jobs"))


def owner_bytes(report):
    """What the owner grew by while the long queue was filled, for each of its jobs."""
    before, after = part(report, "short drain", "owner_mib"), part(report, "long defer", "owner_mib")
    return None if before is None or after is None else (after - before) * MIB / part(report, "long defer", "jobs")


def bare_rows(workload, bare, of_packed, of_by_rows, of_two, level, aim):
    """Against the bare statements of the store.

    The level was set against statements that write a row for each job. Where these were measured they have the level,
    and those that the store has now stand beside them without one.
    """
    packed_level = (level, aim) if of_by_rows is None else NO_LEVEL
    by_rows = [(workload, f"{bare}, a row for each job", of_by_rows, level, aim, "")] if of_by_rows is not None else []
    return [
        *by_rows,
        (workload, f"{bare}, one connection", of_packed, *packed_level, ""),
        (workload, f"{bare}, two connections", of_two, *NO_LEVEL, ""),
    ]


def rows(f):
    """Workload, against, measured, level, aim, unit. A level is a floor, or a ceiling where the aim is below it."""
    drain, e2e = f.speed("drain", "drain"), "defer + start + finish"
    sdk, stock = f.speed("single", "defer"), f.speed("single, stock client", "defer")
    no_ids = f.speed("single, stock client without request ids", "defer")
    batch = f.speed("batch", "defer")
    start = lambda q: f.ours("latency", lambda report: report["start"][q])
    drain_of = lambda bare: f.share("drain", "drain", bare)
    e2e_of = lambda bare: f.share("e2e", e2e, bare)
    return [
        ("drain of 200,000", "Graphile Worker", over(drain, f.peer("graphile", "drain")), 2.5, 8, "x"),
        ("drain of 200,000", "River", over(drain, f.peer("river", "drain")), 5, 17, "x"),
        ("drain of 200,000", "awa", over(drain, f.peer("awa", "drain")), *NO_LEVEL, "x"),
        ("drain of 200,000", "Procrastinate", over(drain, f.peer("procrastinate", "drain")), *NO_LEVEL, "x"),
        *bare_rows("drain of 200,000", "bare start + finish",
                   drain_of("bare start + finish"), drain_of("bare start + finish, a row for each job"),
                   drain_of("bare start + finish by two"), 0.4, 0.8),
        *bare_rows("defer, start, finish at once", "bare, all in one commit",
                   e2e_of("bare, all in one commit"), e2e_of("the same, a row for each job"),
                   e2e_of("the same by two"), 0.4, 0.7),
        ("single defers, SDK client", "River", over(sdk, f.peer("river", "single")), 3, 8, "x"),
        ("single defers, SDK client", "Graphile Worker", over(sdk, f.peer("graphile", "single")), *NO_LEVEL, "x"),
        ("single defers, SDK client", "awa", over(sdk, f.peer("awa", "single")), *NO_LEVEL, "x"),
        ("single defers, SDK client", "Procrastinate", over(sdk, f.peer("procrastinate", "single")), *NO_LEVEL, "x"),
        ("single defers, stock client", "River", over(stock, f.peer("river", "single")), 2.5, 4, "x"),
        ("single defers, stock client without request ids", "River", over(no_ids, f.peer("river", "single")), *NO_LEVEL, "x"),
        ("batches of 1,000, one caller", "awa (COPY)", over(batch, f.peer("awa", "batch")), 1.5, 2.4, "x"),
        ("batches of 1,000, one caller", "River (COPY)", over(batch, f.peer("river", "batch")), *NO_LEVEL, "x"),
        ("batches of 1,000, one caller", "Graphile Worker", over(batch, f.peer("graphile", "batch")), *NO_LEVEL, "x"),
        ("batches of 1,000, one caller", "Procrastinate", over(batch, f.peer("procrastinate", "batch")), *NO_LEVEL, "x"),
        ("defer to start at 100/s, p50", "River", over(start("p50_ms"), f.peer("river", "latency", "p50_ms")), 1, 0.8, "x"),
        ("defer to start at 100/s, p99", "River", over(start("p99_ms"), f.peer("river", "latency", "p99_ms")), 0.95, 0.6, "x"),
        ("drain, 10,000 behind a lock in front", "itself without", f.burst("locked", "locked", 0), 0.9, 0.97, ""),
        ("drain, 1,000,000 behind a lock in front", "itself without", f.burst("locked", "locked"), 0.9, 0.97, ""),
        ("drain, 1,000,000 scheduled in front", "itself without", f.burst("crowd", "scheduled"), 0.9, 0.97, ""),
        ("drain, 1,000,000 paused in front", "itself without", f.burst("crowd", "paused"), 0.9, 0.97, ""),
        ("drain, 1,000,000 unserved in front", "itself without", f.burst("crowd", "unserved"), 0.9, 0.97, ""),
        ("drain, 10,000,000 finished behind", "itself without", f.burst("finished", "finished"), 0.9, 0.97, ""),
        ("drain of 1,000,000, old snapshot, last fifth", "its first fifth",
         f.ours("snapshot", lambda report: part(report, "drain", "last_fifth_to_first")), 0.9, 1.0, ""),
        ("drain of 5,000,000", "its own of 200,000", f.share("backlog", "long drain", "short drain"), 0.5, 0.9, ""),
        ("round trips to the database per job, drain", "-",
         f.ours("drain", lambda report: per_job(report, "drain", "statements")), 0.01, 0.002, ""),
        ("round trips to the database per job, defer + start + finish", "-",
         f.ours("e2e", lambda report: per_job(report, e2e, "statements")), 0.01, 0.002, ""),
        ("owner's memory per waiting job, no arguments", "-", f.ours("memory", owner_bytes), 250, 120, " B"),
        ("owner's memory per idle worker stream", "-",
         f.ours("stream", lambda report: report["kib_per_stream"]), 64, 40, " KiB"),
        ("takeover, 100,000 jobs in memory: kill to first start, worst", "-",
         f.ours("takeover", lambda report: report["worst_ms"] / 1e3, max), 3, 0.5, " s"),
        ("takeover, 100,000 jobs in memory: kill to first start, median", "-",
         f.ours("takeover", lambda report: report["median_ms"] / 1e3), *NO_LEVEL, " s"),
    ]


def figure(value, unit):
    if value is None:
        return "-"
    digits = 0 if value >= 100 else 2 if value >= 0.1 else 5
    return f"{value:.{digits}f}{unit}"


def verdict(value, level, aim):
    if level is None:
        return ""
    if value is None:
        return NOT_MEASURED
    reached = (lambda wanted: value <= wanted) if aim < level else (lambda wanted: value >= wanted)
    return AIM if reached(aim) else HOLDS if reached(level) else MISSED


def spread(alone, unit):
    """The same figure in each round by itself: how far they lie apart."""
    alone = sorted(value for value in alone if value is not None)
    return f"{figure(alone[0], '')} to {figure(alone[-1], unit)}" if len(alone) > 1 else ""


def ratios(rounds):
    # A row is known by its first two cells: whether there are rows beside the bare ones depends on what was measured.
    by_round = [{row[:2]: row[2] for row in rows(Figures([round]))} for round in rounds]
    lines = []
    for workload, against, value, level, aim, unit in rows(Figures(rounds)):
        each = spread([alone.get((workload, against)) for alone in by_round], unit)
        lines.append((workload, against, figure(value, unit), each, *(figure(wanted, unit) for wanted in (level, aim)),
                      verdict(value, level, aim)))
    return lines


def summary(lines):
    """How many of the levels hold."""
    verdicts = [line[-1] for line in lines]
    counts = {verdict: verdicts.count(verdict) for verdict in (AIM, HOLDS, MISSED, NOT_MEASURED)}
    return "; ".join(f"{verdict}: {count}" for verdict, count in counts.items() if count)


def absolute(rounds, peers):
    """What the ratios are made of. Not to be compared with those of another run."""
    f = Figures(rounds)
    milliseconds = lambda value: "-" if value is None else f"{value:.2f}"
    a_second = lambda value: "-" if value is None else f"{value:,.0f}"
    lines = [("", "drain/s", "single/s", "batch/s", "p50 ms", "p99 ms", "lost", "doubled")]
    speeds = [f.speed(*where) for where in (("drain", "drain"), ("single", "defer"), ("batch", "defer"))]
    times = [f.ours("latency", lambda report: report["start"][q]) for q in ("p50_ms", "p99_ms")]
    # A report of ours in which anything is lost or doubled is none: its measurement has failed.
    lines.append(("cabbage", *map(a_second, speeds), *map(milliseconds, times), "0", "0"))
    for who in peers:
        found = [report for round in rounds for report in round.get(who, {}).values()]
        speeds = [f.peer(who, workload) for workload in ("drain", "single", "batch")]
        times = [f.peer(who, "latency", q) for q in ("p50_ms", "p99_ms")]
        wrong = [str(sum(report[what] for report in found)) for what in ("lost", "doubled")]
        if found:
            lines.append((who, *map(a_second, speeds), *map(milliseconds, times), *wrong))
    return lines


def show(lines):
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    print()


def took(rounds):
    """Minutes of each workload, by all who took part."""
    minutes = {}
    for round in rounds:
        for reports in round.values():
            for workload, report in reports.items():
                name = workload.split(",")[0]
                minutes[name] = minutes.get(name, 0) + report["took_seconds"] / 60
    return minutes


def table(results, peers):
    rounds, scale = results["rounds"], results["scale"]
    scaled = "" if scale == 1 else f", with {scale} times the jobs: only to see that it runs"
    print(f"medians of up to {len(rounds)} interleaved rounds{scaled}; ratios of one run\n")
    found = ratios(rounds)
    show([("workload", "against", "measured", "each round", "level", "aim", ""), *found])
    print(f"{summary(found)}\n")
    show(absolute(rounds, peers))
    for name, why in results["absent"].items():
        print(f"{name} was left out: {why}")
    for label, why in results["failed"].items():
        print(f"failed: {label}: {why}")
    minutes = took(rounds)
    each = ", ".join(f"{workload} {spent:.1f}" for workload, spent in minutes.items())
    print(f"measured in {sum(minutes.values()):.0f} minutes: {each}")
