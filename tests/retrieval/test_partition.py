"""Partitions against their definition: leaves by one prefix, scores by another, each row once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_keras.retrieval import (
    IndexOptions,
    NestedIndex,
    PartitionParameters,
    ScannParameters,
    SearchPlan,
)
from mrl_keras.retrieval.bulk.fingerprints import index_fingerprint
from mrl_keras.retrieval.partition.clustering import (
    kmeans_centres,
    nearest_leaves,
    second_leaves,
)
from tests.retrieval.oracle import assert_top_k, clustered, scores_at

DIMS = (4, 8, 16, 32)


def built(rows, dim=8, leaves=12, spill=None, d_s=16, **options):
    about = {name: options.pop(name) for name in ("centres",) if name in options}
    partition = PartitionParameters(dim, leaves, min(3, leaves), spill, **about)
    options = IndexOptions(shortlist_dim=d_s, partition=partition, **options)
    return NestedIndex.build(rows, DIMS, options=options)


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.where(n := np.linalg.norm(rows, axis=1), n, 1)[:, None]


def soar(rows, centres, weight):
    """(first leaf, second leaf) of each row, one row and one centre at a time."""
    found = []
    for row in np.asarray(rows, np.float64):
        distances = [np.sum((row - c) ** 2) for c in centres.astype(np.float64)]
        first = int(np.argmin(distances))
        residual = row - centres[first]
        losses = [
            d + weight * np.dot(residual, row - c) ** 2 / np.dot(residual, residual)
            for d, c in zip(distances, centres.astype(np.float64), strict=True)
        ]
        losses[first] = np.inf
        found.append((first, int(np.argmin(losses))))
    return np.array(found).T


@pytest.mark.parametrize("weight", [0.0, 1.0, 30.0])
def test_second_leaves_follow_the_formula(monkeypatch, weight):
    monkeypatch.setattr("mrl_keras.retrieval.partition.clustering._TILE_BYTES", 4 * 9 * 7)
    rows, *_ = clustered(100, 6)
    centres = kmeans_centres(rows, 9, 5)
    first, second = soar(rows, centres, weight)
    np.testing.assert_array_equal(nearest_leaves(rows, centres), first)
    np.testing.assert_array_equal(second_leaves(rows, centres, first, weight), second)


def test_a_weight_turns_second_residuals_away_from_the_first():
    rows, *_ = clustered(500, 6)
    centres = kmeans_centres(rows, 20, 5)
    first = nearest_leaves(rows, centres)

    def likeness(weight):
        second = second_leaves(rows, centres, first, weight)
        cosines = (unit(rows - centres[first]) * unit(rows - centres[second])).sum(1)
        return np.square(cosines).mean()

    assert likeness(4.0) < 0.6 * likeness(0.0)


def test_rows_at_a_centre_and_a_single_leaf_have_no_second():
    centres = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    rows = np.array([[1, 0], [0.9, 0.2]], np.float32)
    assert second_leaves(rows, centres, np.zeros(2, int), 1.0).tolist() == [-1, 1]
    assert second_leaves(rows, centres[:1], np.zeros(2, int), 1.0).tolist() == [-1, -1]


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("spill", [None, 1.0])
@pytest.mark.parametrize("dim", [4, 16, 32])
def test_a_shortlist_is_the_best_rows_of_the_opened_leaves(metric, spill, dim):
    rows, queries, *_ = clustered(400, 32, 15)
    index = built(rows, dim, spill=spill, metric=metric)
    searcher = index.shortlist
    centres, tokens = searcher.leaves.centres, searcher.leaves.tokens
    prefixes = unit(rows[:, :dim]) if metric == "cosine" else rows[:, :dim]
    if metric == "cosine":
        np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, rtol=1e-5)
    if spill is None:
        distances = ((prefixes[:, None] - centres) ** 2).sum(-1)
        np.testing.assert_array_equal(tokens[:, 0], distances.argmin(1))
    else:
        np.testing.assert_array_equal(tokens.T, soar(prefixes, centres, spill))
    found = index.find_shortlist(queries, 16, 30, leaves=4)
    asked = queries[:, : searcher.width]
    scores, indices = searcher.search(asked, 30, 4)
    np.testing.assert_array_equal(found, indices)
    scanned = searcher.rows_scanned(queries, 4)
    true = scores_at(queries, rows, 16, metric)
    for place, query in enumerate(queries):
        opened = np.argsort(-(centres @ query[:dim]))[:4]
        inside = np.flatnonzero(np.isin(tokens, opened).any(axis=1))
        assert len(inside) == scanned[place]
        best = inside[np.argsort(-true[place, inside])[:30]]
        np.testing.assert_array_equal(indices[place, : len(best)], best)
        np.testing.assert_allclose(scores[place, : len(best)], true[place, best], rtol=1e-4)
        assert (indices[place, len(best) :] == -1).all()


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 60),
    leaves=st.integers(1, 60),
    spill=st.sampled_from([None, 0.0, 1.0]),
    dim=st.sampled_from(DIMS),
    metric=st.sampled_from(["cosine", "dot"]),
    storage=st.sampled_from(["float32", "bfloat16", "int8"]),
    repeats=st.booleans(),
    size=st.integers(1, 70),
)
def test_all_leaves_are_exact_search(rows, leaves, spill, dim, metric, storage, repeats, size):
    """Whatever the leaves: few rows, equal rows, zero rows, rows in two leaves."""
    vectors, queries, *_ = clustered(rows, 32, 6, seed=rows)
    if repeats:
        vectors[rows // 2 :] = vectors[0]
        vectors[-1:] = 0
    index = built(vectors, dim, min(leaves, rows), spill, metric=metric, storage=storage)
    stored = np.concatenate([np.asarray(block, "float32") for block in index.blocks], axis=1)
    scores, indices = index.shortlist.search(queries[:, : max(dim, 16)], size, leaves=1000)
    assert_top_k(scores, indices, scores_at(queries, stored, 16, metric), size)
    assert (index.shortlist.rows_scanned(queries, 1000) == rows).all()
    assert (index.shortlist.leaves.sizes > 0).all()


def test_given_centres_are_used_and_dead_ones_left_out():
    rows, queries, *_ = clustered(200, 32, 5)
    centres = np.concatenate([rows[:5, :8], rows[:1, :8], -100 * rows[:1, :8]])  # equal, far
    index = built(rows, centres=centres, leaves=7, metric="dot")
    leaves = index.shortlist.leaves
    live = np.unique(((rows[:, None, :8] - centres) ** 2).sum(-1).argmin(1))
    assert set(live) <= set(range(5))
    np.testing.assert_array_equal(leaves.centres, centres[live])
    assert index.shortlist.parameters.num_leaves == len(live) == len(leaves)
    assert index.shortlist.parameters.centres is None
    scaled = built(rows, centres=7 * centres, leaves=7).shortlist.leaves  # cosine: directions
    again = built(rows, centres=centres, leaves=7).shortlist.leaves
    np.testing.assert_allclose(scaled.centres, again.centres, rtol=1e-5)
    np.testing.assert_array_equal(scaled.tokens, again.tokens)


def test_more_given_leaves_than_rows():
    rows, queries, *_ = clustered(5, 32, 3)
    index = built(rows, centres=clustered(40, 8)[0], leaves=40, spill=1.0)
    assert len(index.shortlist.leaves) <= 10
    assert (index.shortlist.rows_scanned(queries, 40) == 5).all()


@pytest.mark.parametrize("spill", [None, 1.0])
@pytest.mark.parametrize("memory_map", [False, True])
def test_saved_and_loaded_it_answers_the_same(tmp_path, spill, memory_map):
    rows, queries, *_ = clustered(300, 32, 8)
    index = built(rows, spill=spill, storage="int8")
    plan = SearchPlan((16, 32), (40,), k=7, leaves=4)
    index.save(tmp_path / "index")
    loaded = NestedIndex.load(tmp_path / "index", memory_map=memory_map)
    for before, after in zip(
        index.search(queries, plan), loaded.search(queries, plan), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    assert index_fingerprint(loaded) == index_fingerprint(index)
    assert index_fingerprint(loaded)["shortlist"]["kind"] == "partition"
    assert index_fingerprint(loaded)["shortlist"]["dim"] == 16
    assert loaded.shortlist.parameters == index.shortlist.parameters
    np.save(tmp_path / "index" / "partition_centres.npy", np.zeros((3, 8), np.float32))
    with pytest.raises(ValueError, match="one whole index"):
        NestedIndex.load(tmp_path / "index")


def test_queries_that_are_no_numbers_find_nothing():
    rows, queries, *_ = clustered(100, 32, 4)
    queries[0, 0], queries[1, 3], queries[2, 30] = np.inf, np.nan, np.inf
    index = built(rows)
    assert (index.find_shortlist(queries, 16, 5)[0] == -1).all()
    found = index.search(queries, SearchPlan((16, 32), (20,), k=5))
    assert (found.indices[:3] == -1).all()
    assert (found.indices[3] >= 0).all()


def test_expected_rows_are_what_rows_themselves_scan():
    """A row as the query opens its own leaf first, and large leaves are opened more often."""
    rows, *_ = clustered(2000, 32, classes=5)
    for spill in (None, 1.0):
        searcher = built(rows, leaves=30, spill=spill).shortlist
        one = searcher.rows_scanned(rows, 1).mean()
        assert searcher.leaves.expected_rows(1) == pytest.approx(one, rel=0.1)
    assert searcher.leaves.expected_rows(30) == 2000
    assert searcher.multiply_adds(1) == 30 * 8 + searcher.leaves.expected_rows(1) * 16


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: PartitionParameters(8, 4, 5), "`leaves_to_search` must not exceed num_leaves=4"),
        (lambda: PartitionParameters(8, 4, 2, spill=True), "`spill` must be None or.*True"),
        (lambda: PartitionParameters(8, 4, 2, spill=-1.0), "`spill` must be None or.*-1.0"),
        (lambda: PartitionParameters(8, 4, 2, spill=np.nan), "`spill` must be None or.*nan"),
        (
            lambda: PartitionParameters(8, 4, 2, centres=np.zeros((3, 8))),
            r"`centres` must have the shape \(num_leaves, dim\), \(4, 8\)",
        ),
        (
            lambda: PartitionParameters(2, 2, 1, centres=[[0, 1], [np.nan, 1]]),
            r"`centres` must be finite.*leaves \[1\]",
        ),
        (
            lambda: PartitionParameters(8, 40, 2, training_sample_size=30),
            "`training_sample_size` must be at least 40",
        ),
        (
            lambda: IndexOptions(partition=PartitionParameters(8, 4, 2)),
            "`partition` needs a `shortlist_dim`",
        ),
        (
            lambda: IndexOptions(
                shortlist_dim=8, signs=True, partition=PartitionParameters(8, 4, 2)
            ),
            "Received shortlist_dim=8 and signs and partition",
        ),
        (
            lambda: IndexOptions(
                shortlist_dim=8,
                scann=ScannParameters(4, 2),
                partition=PartitionParameters(8, 4, 2),
            ),
            "Received shortlist_dim=8 and partition and scann",
        ),
        (lambda: IndexOptions(shortlist_dim=8, partition=4), "`partition` must be None, a Part"),
        (lambda: built(clustered(9, 32)[0], leaves=10), "must not exceed the 9 rows. Received 10"),
        (lambda: built(clustered(9, 32)[0], dim=5, leaves=2), "5"),
    ],
)
def test_bad_input(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_scikit_learn_is_named_where_it_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r'pip install "mrl_keras\[retrieval\]"'):
        built(clustered(50, 32)[0])
    rows = clustered(50, 32)[0]
    assert len(built(rows, centres=rows[:4, :8], leaves=4).shortlist.leaves) == 4
