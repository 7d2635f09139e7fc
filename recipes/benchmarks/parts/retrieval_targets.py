"""The targets of the retrieval benchmark beside its results."""

from __future__ import annotations

EXPORT, FUNNEL_EXPORT = "export, chosen plan", "export, the paper's funnel"
HNSW, FULL, TRUNCATE = (
    "FAISS HNSW32, {width} dims",
    "ScaNN full width (tree-AH, reorder)",
    "ScaNN truncate (D_s, reorder)",
)
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
    """Rows of targets.csv: `n`, `target`, `at_least` or `at_most`, `reached`, `met`, `note`.

    Args:
        tables: dict from "speed", "exact" and "memory" to rows, those of every N.
        width: int, the embedding width d.
    """
    found = []
    for n in sorted({int(row["n"]) for row in tables["speed"]}):
        speed = {row["system"]: row for row in tables["speed"] if int(row["n"]) == n}
        found += _speed_targets(n, speed, width)
        for row in tables["exact"]:
            if int(row["n"]) == n:
                note = f"{row['rows']} rows, {row['dims']} dims, k = {row['k']}"
                found.append(_row(n, "exact, one pass / FAISS flat", row["times_as_fast"], 2, note))
                peak = row["peak_over_budget"]
                found.append(_row(n, "exact, peak / stated budget", peak, 1, note, most=True))
        for row in tables["memory"]:
            storage = row["export"].removeprefix(f"{FUNNEL_EXPORT}, ")
            limit = MEMORY.get((storage, row["what"]))
            if int(row["n"]) == n and limit:
                name = f"{row['what']} / float32 database, {storage}"
                found.append(_row(n, name, row["ratio_to_float32_database"], limit, most=True))
    return [*found, *_growth_targets(tables["speed"])]


def _speed_targets(n, speed, width):
    """Rows about speed; none is met by an export that is not within the tolerance of exact."""
    equal = str(speed[EXPORT]["within_tolerance"]) == "True"
    for row in _speed_ratios(n, speed, width):
        yield {**row, "met": row["met"] and equal}


def _speed_ratios(n, speed, width):
    ours = speed[EXPORT]
    judged = f"export mAP@10 {float(ours['mAP@10']) - float(ours['exact_mAP@10']):+.2f}"
    for name, least in (
        (HNSW.format(width=width), 14),
        (HNSW.format(width=width), 6),
        (FULL, 1),
        (TRUNCATE, 1),
    ):
        if name not in speed:
            continue
        row = speed[name]
        gap = float(row["mAP@10"]) - float(row["exact_mAP@10"])
        yield _row(
            n, f"queries a second / {name}", row["times_the_export"], least,
            f"{judged}, peer {gap:+.2f} against exact",
        )  # fmt: skip
    row = speed.get(HNSW.format(width=width))
    for column in ("p50_ms", "p99_ms") if row else ():
        ratio = float(row[f"export_{column}"]) / float(row[column])
        yield _row(n, f"single-query {column[:3]} / HNSW32's", ratio, 1, judged, most=True)


def _growth_targets(speed):
    p50 = {int(row["n"]): float(row["p50_ms"]) for row in speed if row["system"] == EXPORT}
    small, large, limit = GROWTH
    if small in p50 and len(p50) > 1:
        last = large if large in p50 else max(p50)
        note = "" if last == large else f"{large:,} rows not measured"
        name = f"single-query p50 at {last:,} / at {small:,} rows"
        yield _row(last, name, p50[last] / p50[small], limit, note, most=True)


def _row(n, target, reached, limit, note="", most=False):
    reached = float(reached)
    return {
        "n": n,
        "target": target,
        "at_least": "" if most else limit,
        "at_most": limit if most else "",
        "reached": reached,
        "met": reached <= limit if most else reached >= limit,
        "note": note,
    }
