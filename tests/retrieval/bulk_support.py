"""One small bulk search, and ways to interrupt it."""

import json

import numpy as np
import pytest

from mrl_keras.retrieval import IndexOptions, NestedIndex, SearchPlan, bulk_search
from tests.retrieval.oracle import clustered

ROWS, QUERIES, *_ = clustered(300, 16, n_queries=103)
PLAN = SearchPlan((4, 8, 16), (40, 20), k=5)
IDS = [f"doc-{row}" for row in range(len(ROWS))]


def build(rows=ROWS, dims=(4, 8, 16), ids=..., **options):
    ids = IDS[: len(rows)] if ids is ... else ids
    return NestedIndex.build(rows, dims, ids, IndexOptions(**options))


def stop_after(monkeypatch, calls, error=KeyboardInterrupt):
    """Lets `calls` searches pass and raises in the next one; returns the queries of each call."""
    search, asked = NestedIndex.search, []

    def interrupted(self, queries, plan):
        asked.append(len(queries))
        if len(asked) > calls:
            raise error("stopped")
        return search(self, queries, plan)

    monkeypatch.setattr(NestedIndex, "search", interrupted)
    return asked


def interrupted_search(index, folder, calls, monkeypatch, queries=QUERIES, plan=PLAN, size=20):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, calls)
        bulk_search(index, queries, plan, folder, chunk_queries=size)


def assert_answers(found, index, queries=QUERIES, plan=PLAN):
    expected = index.search(np.asarray(queries), plan)
    for name, one, other in zip(found._fields, found, expected, strict=True):
        assert one.dtype == other.dtype, name
        if name == "scores":
            np.testing.assert_allclose(one, other, rtol=1e-5)
        else:
            np.testing.assert_array_equal(one, other)


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())
