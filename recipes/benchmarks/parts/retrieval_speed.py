"""The speed benchmark: mAP at every knob, then times in turns with the exported model."""

from __future__ import annotations

import itertools
import time

import numpy as np

from mrl_keras.export import SessionModel
from recipes.benchmarks.parts import retrieval_peers as peers
from recipes.benchmarks.parts.memory import held_bytes
from recipes.benchmarks.parts.retrieval_graphs import GraphPeer, Hnswlib, UsearchF16, UsearchI8
from recipes.common.timing import interleaved_medians

BATCH = 256
TOLERANCE = 0.1
# (class, whether it searches all dims rather than D_s), those that take less memory first.
PEERS = (
    (peers.FaissHnsw, False),
    (peers.FaissRefine, False),
    (peers.FaissRefinePanorama, False),
    (UsearchI8, True),
    (UsearchF16, True),
    (Hnswlib, True),
    (peers.FaissFlat, True),
    (peers.FaissHnsw, True),
    (peers.FaissHnswPanorama, True),
    (peers.FaissIvfPanorama, True),
    (peers.FaissIvfPq, True),
    (peers.FaissRaBitQ, True),
    (peers.ScannTruncate, False),
    (peers.ScannTruncateSoar, False),
    (peers.ScannFullWidth, True),
    (peers.ScannFullWidthSoar, True),
)
PEER_NAMES = list(dict.fromkeys(kind.__name__ for kind, _ in PEERS))


class ExportedModel:
    """The SavedModel with the interface of a peer."""

    knobs, ascending, exact, reused = (None,), True, False, True

    def __init__(self, path):
        self._model = SessionModel(path)

    def search(self, queries, knob=None):
        return self._model("retrieve_embeddings", embedding=queries)["ids"]

    search_one = search

    def close(self):
        self._model.close()


class Recorded:
    """Some calls in a row of a function, over inputs in a cycle; records each call's seconds.

    By the clock, and those of all threads' processor time, which other programs disturb least.

    In a row, because the first call after another system finds the caches full of its rows.
    """

    def __init__(self, function, inputs, calls):
        self._function, self._inputs = function, itertools.cycle(inputs)
        self._calls, self.seconds, self.processor_seconds = calls, [], []

    def __call__(self):
        for given in itertools.islice(self._inputs, self._calls):
            processor, started = time.process_time(), time.perf_counter()
            self._function(given)
            self.seconds.append(time.perf_counter() - started)
            self.processor_seconds.append(time.process_time() - processor)


def side_by_side(functions, inputs, seconds):
    """{name: (seconds, processor seconds) of each call} of functions in turns over `inputs`."""
    once = {name: Recorded(function, inputs, 1) for name, function in functions.items()}
    interleaved_medians(once, 1)
    slowest = max(system.seconds[-1] for system in once.values())
    calls = int(np.clip(seconds / 10 / slowest, 1, 50))
    systems = {name: Recorded(function, inputs, calls) for name, function in functions.items()}
    turns = int(np.clip(seconds / (2 * calls * slowest), 5, 21))
    interleaved_medians(systems, turns)
    return {
        name: np.array([one.seconds, one.processor_seconds])[:, -turns * calls :]
        for name, one in systems.items()
    }


def time_beside(case, ours, system, knob):
    """Columns of speed.csv: the system beside `ours`, in batches and one query at a time."""
    seconds, columns = case.options.seconds, {}
    full = [batch for batch in case.batches() if len(batch) == BATCH]
    pair = {"it": lambda q: system.search(q, knob), "ours": lambda q: ours.search(q)}
    times = side_by_side(pair, full, seconds)
    batch = {name: 1e6 * np.median(both, axis=1) / BATCH for name, both in times.items()}
    pair = {"it": lambda q: system.search_one(q, knob), "ours": lambda q: ours.search_one(q)}
    single = side_by_side(pair, case.batches(1), seconds)
    for name, prefix in (("it", ""), ("ours", "export_")):
        columns[f"{prefix}us_per_query"], columns[f"{prefix}processor_us"] = batch[name]
        columns[f"{prefix}p50_ms"] = 1e3 * np.percentile(single[name][0], 50)
        columns[f"{prefix}p99_ms"] = 1e3 * np.percentile(single[name][0], 99)
    columns["times_the_export"] = batch["it"][0] / batch["ours"][0]
    columns["timed_batches"], columns["timed_singles"] = len(full), single["it"].shape[1]
    return columns


def sweep(case, name, system):
    """Rows of sweep.csv, and the row that counts: the fastest within the tolerance.

    No knob is tried that is at least as large, in every part, as one that is within it.
    """
    rows, equal = [], []
    for knob in system.knobs:
        if any(np.all(np.asarray(knob) >= np.asarray(row["knob"])) for row in equal):
            continue
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
        equal += [rows[-1]] if rows[-1]["within_tolerance"] else []
    if equal:
        return rows, min(equal, key=lambda row: row["us_per_query_once"])
    return rows, max(rows, key=lambda row: row["mAP@10"])


def peers_of(case):
    """(name, class, dim, file or `None`) of the peers that are asked for, in `PEERS`' order."""
    width, asked = case.options.width, case.options.peers or PEER_NAMES
    for kind, wide in PEERS:
        if kind.__name__ not in asked:
            continue
        dim = width if wide else case.options.shortlist_dim
        graph = issubclass(kind, peers.FaissHnsw | GraphPeer) and wide
        names_dim = kind in (peers.FaissFlat, peers.FaissHnsw)
        name = f"{kind.name}, {dim} dims" if names_dim else kind.name
        yield name, kind, dim, case.file(f"{kind.__name__}_{width}") + ".graph" if graph else None


def measure_speed(case, exports):
    """Yields (rows of speed.csv, rows of sweep.csv) so far, after each system.

    Args:
        case: the database and its queries.
        exports: dict from a name to (path, plan, the seconds that building its index took, the
            bytes that it takes once it is loaded); the first is timed beside every system.
    """
    speed, swept = [], []

    first, *others = exports
    ours = ExportedModel(exports[first][0])

    def measure(name, system, held, build_seconds, plan=""):
        rows, row = sweep(case, name, system)
        swept.extend(rows)
        timed = time_beside(case, ours, system, row["knob"])
        kept = {key: value for key, value in row.items() if key != "us_per_query_once"}
        about = {"memory_bytes": held, "memory_ratio": held / case.rows.nbytes}
        about |= {"build_seconds": build_seconds, "plan": str(plan), "note": ""}
        speed.append({**kept, **timed, **about})
        print(
            f"{name:38} knob {row['knob']!s:>11}  mAP@10 {row['mAP@10']:6.2f}  "
            f"{timed['us_per_query']:9.1f} us  p50 {timed['p50_ms']:7.3f} ms  p99 "
            f"{timed['p99_ms']:7.3f} ms  {timed['times_the_export']:7.2f} times the export, "
            f"{about['memory_ratio']:.2f} of the database",
            flush=True,
        )

    def measure_export(name, model):
        _, plan, build_seconds, held = exports[name]
        measure(name, model, held, build_seconds, plan)

    measure_export(first, ours)
    yield speed, swept
    for name, kind, dim, path in peers_of(case):
        if reason := peers.reason_to_skip(kind, case.rows):
            speed.append(dict.fromkeys(speed[0], "") | {"n": case.n, "system": name})
            speed[-1]["note"] = f"skipped: {reason}"
            print(f"{name:38} {speed[-1]['note']}", flush=True)
            yield speed, swept
            continue
        before, started = held_bytes(), time.perf_counter()
        system = kind(case.rows, dim, path) if path else kind(case.rows, dim)
        build_seconds = "" if system.reused else time.perf_counter() - started
        measure(name, system, held_bytes() - before, build_seconds)
        del system
        yield speed, swept
    # Last, because TensorFlow keeps the memory of a model that was loaded, beside large peers too.
    for name in others:
        system = ExportedModel(exports[name][0])
        measure_export(name, system)
        system.close()
        yield speed, swept
