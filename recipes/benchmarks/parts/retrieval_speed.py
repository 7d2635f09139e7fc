"""The speed benchmark: mAP at every knob, then times in turns with the exported model."""

from __future__ import annotations

import gc
import itertools
import time

import numpy as np
import tensorflow as tf

from mrl_keras.export import load
from recipes.benchmarks.parts.retrieval_peers import (
    FaissFlat,
    FaissHnsw,
    FaissRefine,
    ScannFullWidth,
    ScannTruncate,
)
from recipes.common.timing import interleaved_medians

BATCH = 256
TOLERANCE = 0.1


class ExportedModel:
    """The loaded SavedModel, with the interface of a peer."""

    knobs, ascending, exact, reused = (None,), True, False, True

    def __init__(self, path):
        self.model = load(path)
        self._retrieve = self.model.signatures["retrieve_embeddings"]

    def search(self, queries, knob=None):
        return self._retrieve(embedding=tf.constant(queries))["ids"].numpy()

    search_one = search


class Recorded:
    """Some calls in a row of a function, over inputs in a cycle; records each call's seconds.

    In a row, because the first call after another system finds the caches full of its rows.
    """

    def __init__(self, function, inputs, calls):
        self._function, self._inputs = function, itertools.cycle(inputs)
        self._calls, self.seconds = calls, []

    def __call__(self):
        for given in itertools.islice(self._inputs, self._calls):
            started = time.perf_counter()
            self._function(given)
            self.seconds.append(time.perf_counter() - started)


def side_by_side(functions, inputs, seconds):
    """{name: seconds of each call} of two functions that take turns over `inputs`."""
    once = {name: Recorded(function, inputs, 1) for name, function in functions.items()}
    interleaved_medians(once, 1)
    slowest = max(system.seconds[-1] for system in once.values())
    calls = int(np.clip(seconds / 10 / slowest, 1, 50))
    systems = {name: Recorded(function, inputs, calls) for name, function in functions.items()}
    turns = int(np.clip(seconds / (2 * calls * slowest), 5, 21))
    interleaved_medians(systems, turns)
    return {name: np.array(system.seconds[-turns * calls :]) for name, system in systems.items()}


def time_beside(case, ours, system, knob):
    """Columns of speed.csv: the system beside `ours`, in batches and one query at a time."""
    seconds, columns = case.options.seconds, {}
    full = [batch for batch in case.batches() if len(batch) == BATCH]
    pair = {"it": lambda q: system.search(q, knob), "ours": lambda q: ours.search(q)}
    batch = {n: np.median(s) / BATCH for n, s in side_by_side(pair, full, seconds).items()}
    pair = {"it": lambda q: system.search_one(q, knob), "ours": lambda q: ours.search_one(q)}
    single = side_by_side(pair, case.batches(1), seconds)
    for name, prefix in (("it", ""), ("ours", "export_")):
        columns[f"{prefix}us_per_query"] = 1e6 * batch[name]
        columns[f"{prefix}p50_ms"] = 1e3 * np.percentile(single[name], 50)
        columns[f"{prefix}p99_ms"] = 1e3 * np.percentile(single[name], 99)
    columns["times_the_export"] = batch["it"] / batch["ours"]
    columns["timed_batches"], columns["timed_singles"] = len(full), len(single["it"])
    return columns


def sweep(case, name, system):
    """Rows of sweep.csv, and the row that counts: the fastest within the tolerance.

    Where a knob only ever makes a system slower, the sweep ends at the first value that is.
    """
    rows = []
    for knob in system.knobs:
        batches = case.batches()[: 1 if system.exact else None]
        started = time.perf_counter()
        found = np.concatenate([system.search(batch, knob) for batch in batches])
        spent = time.perf_counter() - started
        value = case.exact_map if system.exact else case.judge(found)
        rows.append(
            {"n": case.n, "system": name, "knob": knob, "mAP@10": value,
             "exact_mAP@10": case.exact_map,
             "within_tolerance": bool(value >= case.exact_map - TOLERANCE),
             "us_per_query_once": 1e6 * spent / len(found)}
        )  # fmt: skip
        if system.ascending and rows[-1]["within_tolerance"]:
            break
    equal = [row for row in rows if row["within_tolerance"]]
    if equal:
        return rows, min(equal, key=lambda row: row["us_per_query_once"])
    return rows, max(rows, key=lambda row: row["mAP@10"])


def peers_of(case):
    """(name, function that builds it) of every peer, small ones first."""
    width, d_s = case.options.width, case.options.shortlist_dim
    graph = case.file(f"hnsw32_{width}") + ".faiss"
    for kind, dim, path in (
        (FaissHnsw, width, graph),
        (FaissHnsw, d_s, None),
        (FaissRefine, d_s, None),
        (ScannTruncate, d_s, None),
        (FaissFlat, width, None),
        (ScannFullWidth, width, None),
    ):
        name = f"{kind.name}, {dim} dims" if issubclass(kind, FaissFlat | FaissHnsw) else kind.name
        yield (
            name,
            lambda kind=kind, dim=dim, path=path: (
                kind(case.rows, dim, path) if path else kind(case.rows, dim)
            ),
        )


def measure_speed(case, exports):
    """Yields (rows of speed.csv, rows of sweep.csv) so far, after each system.

    Args:
        case: the database and its queries.
        exports: dict from a name to (path, plan); the first is timed beside every system.
    """
    models = {name: ExportedModel(path) for name, (path, _) in exports.items()}
    ours = next(iter(models.values()))
    speed, swept = [], []

    def measure(name, system, build_seconds="", plan=""):
        rows, row = sweep(case, name, system)
        swept.extend(rows)
        timed = time_beside(case, ours, system, row["knob"])
        kept = {key: value for key, value in row.items() if key != "us_per_query_once"}
        speed.append({**kept, **timed, "build_seconds": build_seconds, "plan": str(plan)})
        print(
            f"{name:38} knob {row['knob']!s:>11}  mAP@10 {row['mAP@10']:6.2f}  "
            f"{timed['us_per_query']:9.1f} us  p50 {timed['p50_ms']:7.3f} ms  p99 "
            f"{timed['p99_ms']:7.3f} ms  {timed['times_the_export']:7.2f} times the export",
            flush=True,
        )

    for name, (_, plan) in exports.items():
        measure(name, models.pop(name), plan=plan)
        yield speed, swept
    for name, build in peers_of(case):
        gc.collect()
        started = time.perf_counter()
        system = build()
        measure(name, system, "" if system.reused else time.perf_counter() - started)
        del system
        yield speed, swept
