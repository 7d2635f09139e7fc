"""The targets of the retrieval benchmark beside its results."""

from __future__ import annotations

from recipes.benchmarks.parts.retrieval_runs import Spread, by_size_and_system, spread

EXPORT, FUNNEL_EXPORT = "export, chosen plan", "export, the paper's funnel"
HNSW, TRUNCATE = "FAISS HNSW32, {width} dims", "ScaNN truncate (D_s, reorder)"
# (rows from which on it holds, how many times as many queries a second as HNSW32)
AGAINST_HNSW = ((0, 8), (300_000, 20), (1_000_000, 14))
BUILD, P99 = 1.5, 2
# The most that an export of all dims may take, as ratios to the float32 database.
MEMORY = {
    ("float32", "export peak"): 2.6,
    ("bfloat16", "export peak"): 2.6,
    ("float32", "loaded"): 1.15,
    ("bfloat16", "loaded"): 0.65,
    ("float32", "disk"): 1.05,
    ("bfloat16", "disk"): 0.55,
}
GROWTH = (100_000, 1_000_000, 2.5)


def reached_targets(tables, width):
    """Rows of targets.csv.

    `n`, `target`, `at_least` or `at_most`, `reached` (the median of the runs), `lowest` and
    `highest` run, `met` (by the median, and by no export below equal mAP), `note`.

    Args:
        tables: dict from "speed", "exact" and "memory" to rows, those of every N and run.
        width: int, the embedding width d.
    """
    speed, found = by_size_and_system(tables["speed"]), []
    for n, systems in speed.items():
        equal = all(str(row["within_tolerance"]) == "True" for row in systems[EXPORT])
        rows = _speed_targets(n, systems, width)
        found += [{**row, "met": row["met"] and equal} for row in rows]
        found += _other_targets(n, tables)
    return [*found, *_growth_targets(speed)]


def _speed_targets(n, systems, width):
    hnsw, ours = HNSW.format(width=width), systems[EXPORT]
    equal = {
        name: rows
        for name, rows in systems.items()
        if not name.startswith("export")
        and rows
        and all(str(row["within_tolerance"]) == "True" for row in rows)
    }
    least = [times for rows, times in AGAINST_HNSW if n >= rows][-1]
    note = f"export mAP@10 {_gap(ours):+.2f} against exact"
    for name, rows in equal.items():
        ratio, wanted = spread(rows, "times_the_export"), least if name == hnsw else 1
        yield _row(
            n, f"queries a second / {name}", ratio, wanted, f"{note}, peer {_gap(rows):+.2f}"
        )
    if equal:
        fastest = min(equal, key=lambda name: spread(equal[name], "p50_ms", "export_p50_ms").median)
        ratio = spread(equal[fastest], "export_p50_ms", "p50_ms")
        yield _row(n, "single-query p50 / the fastest peer's", ratio, 1, fastest, most=True)
    ratio = spread(ours, "p99_ms", "p50_ms")
    yield _row(n, "single-query p99 / p50", ratio, P99, most=True)
    peer, built = spread(systems.get(TRUNCATE, []), "build_seconds"), spread(ours, "build_seconds")
    if peer and built:
        ratio = Spread(*(seconds / peer.median for seconds in built))
        yield _row(n, "index build / ScaNN's own", ratio, BUILD, TRUNCATE, most=True)


def _other_targets(n, tables):
    rows = [row for row in tables["exact"] if int(row["n"]) == n]
    for column, target, limit, most in (
        ("times_as_fast", "exact, one pass / FAISS flat", 2, False),
        ("peak_over_budget", "exact, peak / stated budget", 1, True),
    ):
        if rows:
            note = f"{rows[0]['rows']} rows, {rows[0]['dims']} dims, k = {rows[0]['k']}"
            yield _row(n, target, spread(rows, column), limit, note, most)
    for (storage, what), limit in MEMORY.items():
        export = f"{FUNNEL_EXPORT}, {storage}"
        rows = [row for row in tables["memory"] if (row["export"], row["what"]) == (export, what)]
        rows = [row for row in rows if int(row["n"]) == n]
        if rows:
            ratio = spread(rows, "ratio_to_float32_database")
            yield _row(n, f"{what} / float32 database, {storage}", ratio, limit, most=True)


def _growth_targets(speed):
    p50 = {n: spread(systems[EXPORT], "p50_ms") for n, systems in speed.items()}
    small, large, limit = GROWTH
    if small in p50 and len(p50) > 1:
        last = large if large in p50 else max(p50)
        note = "" if last == large else f"{large:,} rows not measured"
        name = f"single-query p50 at {last:,} / at {small:,} rows"
        ratio = Spread(*(value / p50[small].median for value in p50[last]))
        yield _row(last, name, ratio, limit, note, most=True)


def _gap(rows):
    """mAP@10 in points over exact search's: the run farthest from it."""
    return max((float(row["mAP@10"]) - float(row["exact_mAP@10"]) for row in rows), key=abs)


def _row(n, target, reached, limit, note="", most=False):
    median = reached.median
    return {
        "n": n,
        "target": target,
        "at_least": "" if most else limit,
        "at_most": limit if most else "",
        "reached": median,
        "lowest": reached.low,
        "highest": reached.high,
        "met": median <= limit if most else median >= limit,
        "note": note,
    }
