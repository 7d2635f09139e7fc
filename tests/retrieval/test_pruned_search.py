"""Exact search that prunes gives the answer of exact search, and says how much it read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_keras.retrieval import IndexOptions, NestedIndex, SearchPlan
from mrl_keras.retrieval.exact import pruned
from tests.retrieval.oracle import LOWEST, assert_top_k, clustered, scores_at

DIMS = [4, 8, 16, 32]


def build(rows, metric="cosine", storage="float32", dims=DIMS):
    return NestedIndex.build(rows, dims, options=IndexOptions(metric=metric, storage=storage))


def first_best(scores, k):
    """The k best columns of each row; ties by ascending column."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 300),
    queries=st.integers(0, 40),
    k=st.integers(1, 12),
    metric=st.sampled_from(["cosine", "dot"]),
    noise=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_answer_is_that_of_brute_force(rows, queries, k, metric, noise, seed):
    table, asked, _, _ = clustered(rows, 32, queries, seed)
    if noise:
        asked = np.random.default_rng(seed).standard_normal(asked.shape).astype("float32")
    found = build(table, metric).search_pruned(asked, k)
    assert_top_k(found.scores, found.indices, scores_at(asked, table, 32, metric), k)
    np.testing.assert_array_equal(found.ids, found.indices)
    assert found.dims_read.shape == (queries,)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 30), tile=st.sampled_from([16, 4096]))
def test_ties_go_to_the_first_rows(seed, k, tile):
    """Small whole numbers have exact products, and many rows have the same."""
    rng = np.random.default_rng(seed)
    rows, asked = rng.integers(-1, 2, (200, 32)), rng.integers(-1, 2, (9, 32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruned, "_TILE_ROWS", tile)
        found = build(rows, "dot").search_pruned(asked, k)
    scores = asked @ rows.T
    np.testing.assert_array_equal(found.indices, first_best(scores, k))
    np.testing.assert_array_equal(found.scores, np.take_along_axis(scores, found.indices, 1))


def test_near_neighbours_are_found_by_few_dims_and_noise_reads_all():
    rows, _, _, _ = clustered(3000, 64, classes=300)
    dims = [4, 8, 16, 32, 64]
    index = build(rows, dims=dims)
    near = rows[:50] + 0.01 * np.random.default_rng(0).standard_normal((50, 64))
    found = index.search_pruned(near.astype("float32"), k=3)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(50))
    assert found.dims_read.mean() < 32
    noise = np.random.default_rng(0).standard_normal((3000, 64)).astype("float32")
    read = build(noise, dims=dims).search_pruned(noise[:50] + noise[50:100], k=3).dims_read
    assert read.mean() > 60


def test_threads_and_blocks_of_queries_change_nothing(monkeypatch):
    rows, asked, _, _ = clustered(2000, 32, 150)
    index = build(rows)
    whole = index.search_pruned(asked, 7)
    monkeypatch.setattr(pruned, "_QUERY_BLOCK", 64)
    monkeypatch.setattr(pruned, "_TILE_ROWS", 512)
    monkeypatch.setattr(pruned, "available_cores", lambda: 3)
    parts = index.search_pruned(asked, 7)
    np.testing.assert_array_equal(parts.indices, whole.indices)
    np.testing.assert_allclose(parts.scores, whole.scores, rtol=1e-5)


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_a_rounded_index_is_searched_as_it_is_stored(storage):
    rows, asked, _, _ = clustered(500, 32, 20)
    index = build(rows, storage=storage)
    stored = np.concatenate([np.asarray(block, "float32") for block in index.blocks], axis=1)
    found = index.search_pruned(asked, 5)
    assert_top_k(found.scores, found.indices, scores_at(asked, stored, 32), 5)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_zero_rows_zero_queries_and_queries_that_are_no_numbers(metric):
    rows, asked, _, _ = clustered(40, 32, 4)
    rows[::2, :8], rows[5] = 0.0, 0.0
    asked[0], asked[1, 3], asked[2, 31] = 0.0, np.nan, np.inf
    found = build(rows, metric).search_pruned(asked, 50)
    assert (found.indices[1:3] == -1).all()
    assert (found.scores[1:3] == LOWEST).all()
    assert (found.dims_read[1:3] == 0.0).all()
    kept = [0, 3]
    true = scores_at(asked[kept], rows, 32, metric)
    assert_top_k(found.scores[kept], found.indices[kept], true, 50)


def test_rows_of_great_and_small_norms_by_inner_product():
    rows, asked, _, _ = clustered(600, 32, 10)
    rows *= np.logspace(-6, 6, 600)[:, None].astype("float32")
    found = build(rows, "dot").search_pruned(asked, 5)
    true = scores_at(asked, rows, 32, "dot")
    np.testing.assert_array_equal(found.indices, first_best(true, 5))


def test_a_memory_mapped_index(tmp_path):
    rows, asked, _, _ = clustered(300, 32, 5)
    index = build(rows)
    index.save(tmp_path / "index")
    again = NestedIndex.load(tmp_path / "index").search_pruned(asked, 4)
    np.testing.assert_array_equal(again.indices, index.search_pruned(asked, 4).indices)


def test_clear_errors():
    index = build(clustered(20, 32)[0])
    with pytest.raises(ValueError, match="must be 32 wide"):
        index.search_pruned(np.ones((2, 16), "float32"))
    with pytest.raises(ValueError, match="`k` must be"):
        index.search_pruned(np.ones((2, 32), "float32"), k=0)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 300),
    size=st.integers(3, 60),
    metric=st.sampled_from(["cosine", "dot"]),
    noise=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_certified_answer_is_that_of_brute_force(rows, size, metric, noise, seed):
    table, asked, _, _ = clustered(rows, 32, 20, seed)
    if noise:
        asked = np.random.default_rng(seed).standard_normal(asked.shape).astype("float32")
    index = build(table, metric)
    found = index.search(asked, SearchPlan((8, 32), (size,), k=3, certified=True))
    plain = index.search(asked, SearchPlan((8, 32), (size,), k=3))
    np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-4, atol=1e-5)
    sure = found.certified
    true = scores_at(asked[sure], table, 32, metric)
    assert_top_k(found.scores[sure], found.indices[sure], true, 3)
    assert sure.all() or size < rows


def test_few_answers_by_noise_are_certified_and_most_by_near_neighbours():
    rows, _, _, _ = clustered(2000, 64, classes=400)
    index = build(rows, dims=[8, 16, 32, 64])
    near = rows[:50] + 0.01 * np.random.default_rng(0).standard_normal((50, 64))
    plan = SearchPlan((32, 64), (100,), k=1, certified=True)
    found = index.search(near.astype("float32"), plan)
    np.testing.assert_array_equal(found.ids[:, 0], np.arange(50))
    assert found.certified.mean() > 0.9
    assert (found.dims_read < 64).all()
    noise = np.random.default_rng(1).standard_normal((2000, 64)).astype("float32")
    noisy = build(noise, dims=[8, 16, 32, 64])
    asked = np.random.default_rng(2).standard_normal((50, 64)).astype("float32")
    assert not noisy.search(asked, plan).certified.any()


def test_bad_queries_and_few_rows_under_a_certified_plan():
    rows, asked, _, _ = clustered(5, 32, 3)
    asked[1, 2] = np.nan
    found = build(rows).search(asked, SearchPlan((8, 32), (20,), k=8, certified=True))
    assert found.certified.tolist() == [True, False, True]
    assert (found.indices[1] == -1).all()
    assert (np.sort(found.indices[0])[3:] == np.arange(5)).all()
    assert (found.scores[0, 5:] == LOWEST).all()


def test_certified_plans_that_make_no_sense():
    with pytest.raises(ValueError, match="A certified plan has two dims"):
        SearchPlan((32,), certified=True)
    index = build(clustered(20, 32)[0])
    with pytest.raises(ValueError, match="must end at the index's width"):
        index.search(np.ones((1, 32)), SearchPlan((8, 16), (10,), certified=True))
