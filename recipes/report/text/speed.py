"""Queries a second at equal recall: exported plans beside FAISS and ScaNN, in one process."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Sequence

import keras
import numpy as np

from mrl_keras.export import export_saved_model
from mrl_keras.retrieval import (
    IndexOptions,
    NestedIndex,
    SearchPlan,
    TuningOptions,
    TuningSpace,
    tune,
)
from recipes.benchmarks.parts.retrieval_memory import scann_for
from recipes.benchmarks.parts.retrieval_peers import (
    FaissFlat,
    FaissHnsw,
    ScannFullWidth,
    ScannTruncate,
)
from recipes.benchmarks.parts.retrieval_speed import BATCH, ExportedModel
from recipes.common.timing import interleaved_times
from recipes.report.text.plans import plan_text
from recipes.report.text.vectors import K, Vectors

TARGETS = (0.9, 0.95, 0.99)
PLAN, FUNNEL, HNSW, FLAT = "package, tuned plan", "package, funnel", "FAISS HNSW32", "FAISS flat"
_FUNNEL_ROWS, _CONFIDENCE, _TIMED = 400, 1.645, 2


class Exports:
    """The package's plans as one peer: exported models, by the recall that each was tuned for.

    Args:
        vectors: `Vectors`.
        plans: {knob: (`NestedIndex`, `SearchPlan`)}.
        folder: where the exports lie.
    """

    def __init__(self, vectors: Vectors, plans, folder):
        encoder = keras.Sequential([keras.Input((vectors.width,)), keras.layers.Identity()])
        self.plans = {knob: plan for knob, (_, plan) in plans.items()}
        self.knobs, self._models = list(plans), {}
        for number, (knob, (index, plan)) in enumerate(plans.items()):
            path = export_saved_model(
                os.path.join(folder, f"plan{number}"), encoder, index=index, plan=plan
            )
            self._models[knob] = ExportedModel(path)

    def search(self, queries, knob):
        return self._models[knob].search(queries)


def tuned_plans(vectors: Vectors, shortlist_dims: Sequence[int], targets=TARGETS):
    """{target: (`NestedIndex`, `SearchPlan`)}: the fastest plan whose recall@10 is surely reached.

    Recall is that of exact full-width search, on the held-out queries. Every D_s has a ScaNN
    shortlist of its own. Where no plan reaches a target, the one with the highest recall is taken.
    """
    seen = []
    for d_s in shortlist_dims:
        index = _index(vectors, d_s)
        space = TuningSpace(
            shortlists=[size for size in (50, 100, 200, 400, 800) if size <= len(index)],
            rerank_dims=[vectors.width],
            leaf_shares=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4),
        )
        settings = TuningOptions(
            f"recall@{K}", tolerance=1 - min(targets), space=space, cost="seconds"
        )
        found = tune(index, vectors.held_out, options=settings, progress=True)
        seen += [(index, point) for point in found.points if point.plan.rerank_dims]
    plans = {}
    for target in targets:
        reached = [
            (index, point)
            for index, point in seen
            if point.seconds is not None and point.value - _CONFIDENCE * point.error >= target
        ]
        index, point = (
            min(reached, key=lambda pair: pair[1].seconds)
            if reached
            else max(seen, key=lambda pair: pair[1].value)
        )
        plans[target] = index, point.plan
    return plans


def measure_speed(vectors: Vectors, folder, shortlist_dims, rounds: int) -> dict:
    """Every system's recall and time at every knob, then those of equal recall in turns.

    Args:
        vectors: `Vectors`.
        folder: where the graph of HNSW is kept.
        shortlist_dims: ints, D_s to tune plans over; the first is that of the funnel and of
            ScaNN's truncation.
        rounds: int, of the times in turns.

    Returns:
        dict that JSON can hold: "sweep" and "equal" lists of dicts, "plans" {target: text}.
    """
    batches = [
        vectors.queries[low : low + BATCH]
        for low in range(0, len(vectors.queries) - BATCH + 1, BATCH)
    ] or [vectors.queries]
    with tempfile.TemporaryDirectory(prefix="exports_", dir=folder) as exports:
        systems = _systems(vectors, folder, exports, shortlist_dims)
        sweep = [
            row
            for name, system in systems.items()
            for row in _swept(vectors, name, system, batches)
        ]
        equal, timed = [], {}
        for name in systems:
            rows = [row for row in sweep if row["system"] == name]
            for target in TARGETS:
                enough = [row for row in rows if row["recall"] >= target]
                if enough:
                    best = min(enough, key=lambda row: row["processor_seconds"])
                    equal.append({"target": target, **best})
                    timed[name, best["knob"]] = systems[name], best["value"]
        calls = {
            key: lambda system=system, knob=knob: [system.search(q, knob) for q in batches[:_TIMED]]
            for key, (system, knob) in timed.items()
        }
        times = interleaved_times(calls, rounds, warm_up=1)
        asked = sum(map(len, batches[:_TIMED]))
        for row in equal:
            seconds = times[row["system"], row["knob"]]
            row["queries_a_second"] = (asked / seconds[:, 0]).tolist()
            row["processor_queries_a_second"] = (asked / seconds[:, 1]).tolist()
        tuned = systems[PLAN].plans
    for row in [*sweep, *equal]:
        del row["value"]
    return {
        "sweep": sweep,
        "equal": equal,
        "plans": {f"{target:g}": plan_text(plan) for target, plan in tuned.items()},
    }


def _index(vectors, d_s):
    """`NestedIndex` with a ScaNN shortlist at D_s, float32."""
    options = IndexOptions(shortlist_dim=d_s, scann=scann_for(len(vectors.rows), d_s, 0))
    return NestedIndex.build(vectors.rows, vectors.dims, options=options)


def _systems(vectors, folder, exports, shortlist_dims):
    """{name: a system with `knobs` and `search(queries, knob)`}."""
    d_s, rows, width = shortlist_dims[0], vectors.rows, vectors.width
    systems = {PLAN: Exports(vectors, tuned_plans(vectors, shortlist_dims), exports)}
    index, dims = _index(vectors, d_s), vectors.dims[vectors.dims.index(d_s) :]
    plans = [
        SearchPlan.funnel(dims, min(_FUNNEL_ROWS, len(rows)), K, leaves)
        for leaves in (max(1, index.shortlist.parameters.num_leaves // part) for part in (50, 10))
    ]
    systems[FUNNEL] = Exports(
        vectors, {plan_text(plan): (index, plan) for plan in plans}, os.path.join(exports, "funnel")
    )
    gc.collect()
    graph = os.path.join(folder, f"hnsw32_{vectors.digest[:16]}.faiss")
    systems |= {
        HNSW: FaissHnsw(rows, width, graph),
        f"ScaNN truncate ({d_s}, reorder)": ScannTruncate(rows, d_s),
        "ScaNN full width": ScannFullWidth(rows, width),
        FLAT: FaissFlat(rows, width),
    }
    return systems


def _swept(vectors, name, system, batches):
    """Recall and processor time of every knob; an ascending sweep ends beyond the last target."""
    for knob in system.knobs:
        few = batches[:1] if getattr(system, "exact", False) else batches
        system.search(few[0], knob)  # the first call of a signature traces it
        started = time.process_time()
        found = np.concatenate([system.search(batch, knob) for batch in few])
        spent = (time.process_time() - started) / len(found)
        truth = vectors.nearest[: len(found)]
        hits = (found[:, :, None] == truth[:, None, :]).any(axis=2).sum() / truth.size
        yield {
            "system": name, "knob": str(knob), "value": knob, "recall": float(hits),
            "processor_seconds": spent,
        }  # fmt: skip
        if getattr(system, "ascending", False) and hits > TARGETS[-1] + 0.005:
            break
