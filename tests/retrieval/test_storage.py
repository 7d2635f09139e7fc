"""Blocks of int8 with scales, and blocks of several storages, against an oracle."""

import numpy as np
import pytest

from mrl_keras.retrieval import IndexOptions, NestedIndex, QuantizedRows, SearchPlan, index_bytes
from tests.retrieval.oracle import clustered, funnel

DIMS = [4, 16, 64]
MIXED = {16: "float32", 64: "int8"}


def built(storage, rows, metric="cosine"):
    return NestedIndex.build(rows, DIMS, options=IndexOptions(metric, storage))


def stored_rows(index):
    return np.concatenate([np.asarray(block, np.float32) for block in index.blocks], axis=1)


def test_codes_are_the_nearest_multiples_of_the_scale():
    rows = np.random.default_rng(0).standard_normal((50, 9)).astype("float32")
    rows[7], rows[8] = 0.0, rows[8] * 1e-30
    stored = QuantizedRows.of(rows)
    steps = np.abs(rows).max(axis=1) / 127
    assert (np.abs(stored.float32() - rows) <= 0.5001 * steps[:, None]).all()
    assert stored.codes.dtype == np.int8
    assert (np.abs(stored.codes).max(axis=1) == np.where(steps > 0, 127, 0)).all()
    assert stored.nbytes == 50 * (9 + 4)
    picked = np.array([[3, 3], [0, 49]])
    taken = np.take(stored, picked, axis=0)
    np.testing.assert_array_equal(taken.float32(), stored.float32()[picked])


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("storage", ["int8", MIXED])
def test_searches_score_what_is_stored(storage, metric):
    rows, queries, *_ = clustered(600, 64, 12)
    index = built(storage, rows, metric)
    stored = stored_rows(index)
    for plan in (
        SearchPlan.funnel((4, 16, 64), 100),
        SearchPlan((16, 64), (50,)),
        SearchPlan((64,)),
    ):
        found = index.search(queries, plan)
        np.testing.assert_array_equal(found.indices, funnel(queries, stored, plan, metric))
    if metric == "cosine":
        assert np.allclose(index.search(stored[:9], SearchPlan((64,), k=1)).scores, 1, atol=1e-6)


def test_blocks_of_several_storages(tmp_path):
    rows, queries, *_ = clustered(300, 64, 12)
    index = built(MIXED, rows)
    assert index.storage == ["float32", "float32", "int8"]
    np.testing.assert_array_equal(stored_rows(index)[:, :16], rows[:, :16])
    index.save(tmp_path / "index")
    loaded = NestedIndex.load(tmp_path / "index", memory_map=True)
    assert loaded.storage == index.storage
    plan = SearchPlan((16, 64), (50,))
    for one, two in zip(index.search(queries, plan), loaded.search(queries, plan), strict=True):
        np.testing.assert_array_equal(one, two)


def test_int8_takes_less_than_three_tenths_of_the_memory():
    rows, *_ = clustered(300, 384, 12)
    dims = [8, 16, 32, 64, 128, 256, 384]
    sizes = {}
    for storage in ("float32", "int8"):
        index = NestedIndex.build(rows, dims, options=IndexOptions(storage=storage))
        parts = sum(block.nbytes for block in index.blocks)
        sizes[storage] = parts + index.inverse_norms.nbytes + index.ids.nbytes
        assert sizes[storage] == index_bytes(300, dims, storage=storage)
    assert sizes["int8"] <= 0.30 * sizes["float32"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_rows_that_are_no_numbers_are_named(value):
    rows = np.ones((40, 64))
    rows[31, 20] = value
    with pytest.raises(ValueError, match="Rows with NaN, inf or overflow: 31"):
        built("int8", rows)


@pytest.mark.parametrize(
    ("storage", "text"),
    [
        ("int4", "`storage` must be one of .* Received 'int4'"),
        ({16: "int8"}, "the last one 64, the width. Received {16: 'int8'}"),
        ({5: "int8", 64: "int8"}, "must map nesting dims of"),
        ({}, "must map nesting dims of"),
        ({64: "float16"}, "`storage` must be one of .* Received 'float16'"),
    ],
)
def test_bad_storages(storage, text):
    with pytest.raises(ValueError, match=text):
        built(storage, np.ones((3, 64)))
