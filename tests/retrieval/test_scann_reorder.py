"""A shortlist whose first rerank ScaNN does itself, with int8 values of a wider prefix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_keras.retrieval import (
    IndexOptions,
    NestedIndex,
    ScannParameters,
    ScannSearcher,
    SearchPlan,
    TuningOptions,
    TuningSpace,
    index_bytes,
    tune,
)
from tests.retrieval.oracle import LOWEST, assert_top_k, clustered, scores_at

pytest.importorskip("scann")

DIMS = (8, 16, 32)
PARAMETERS = ScannParameters(20, 20, reorder_dim=16)
PLAN = SearchPlan((8, 16, 32), (60, 20), k=7)


def build(rows, parameters, dims=DIMS, **options):
    options = IndexOptions(shortlist_dim=dims[0], scann=parameters, **options)
    return NestedIndex.build(rows, dims, options=options)


@pytest.fixture(scope="module")
def data():
    return clustered(2000, 32, 40)


@pytest.fixture(scope="module")
def index(data):
    return build(data[0], PARAMETERS)


def test_scann_reorders_by_the_cosine_of_the_wider_prefix(data, index):
    rows, queries, *_ = data
    scores, indices = index.shortlist.search(queries[:, :16], 20, candidates=2000)
    truth = scores_at(queries, rows, 16)
    np.testing.assert_allclose(scores, np.take_along_axis(truth, indices, 1), atol=0.02)
    best = np.argsort(-truth, axis=1)[:, :20]
    recall = np.mean([np.isin(one, two).mean() for one, two in zip(best, indices, strict=True)])
    assert recall > 0.95


def test_the_candidates_are_found_with_the_shorter_prefix(data, index):
    rows, queries, *_ = data
    few = index.shortlist.search(queries[:, :16], 60)[1]
    plain = ScannSearcher.build(rows[:, :8], ScannParameters(20, 20))
    without = plain.search(queries[:, :8], 60)[1]
    same = np.mean([np.isin(one, two).mean() for one, two in zip(few, without, strict=True)])
    assert same > 0.95
    by_wide = index.shortlist.search(queries[:, :16], 60, candidates=2000)[1]
    assert np.mean([np.isin(a, b).mean() for a, b in zip(few, by_wide, strict=True)]) < same


def test_the_tree_is_that_of_the_shorter_prefix(data, index):
    leaves = index.shortlist.partition()
    centres, row_order, starts = leaves.centres, leaves.order, leaves.starts
    assert centres.shape == (20, 8)
    unit = data[1][:, :8] / np.linalg.norm(data[1][:, :8], axis=1, keepdims=True)
    _, found = index.shortlist.search(data[1][:, :16], 2000, leaves=2)
    for query, indices in zip(unit, found, strict=True):
        opened = np.argsort(-(centres @ query))[:2]
        expected = np.concatenate([row_order[starts[leaf] : starts[leaf + 1]] for leaf in opened])
        np.testing.assert_array_equal(np.sort(indices[indices >= 0]), np.sort(expected))


def test_plans_leave_their_first_rerank_to_it(data, index, monkeypatch):
    rows, queries, *_ = data
    exact = build(rows, ScannParameters(20, 20))
    found, expected = index.search(queries, PLAN), exact.search(queries, PLAN)
    assert (found.ids == expected.ids).mean() > 0.95
    assert index.shortlist.reranks(PLAN)
    for other in (SearchPlan((8, 32), (60,)), SearchPlan((8, 16), (60,)), SearchPlan((8,))):
        assert not index.shortlist.reranks(other)
        found = index.search(queries, other)
        assert (found.indices == exact.search(queries, other).indices).mean() > 0.95
    assert not exact.shortlist.reranks(PLAN)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_all_leaves_and_all_rows_equal_brute_force(data):
    n_rows, k = data.draw(st.integers(20, 80)), data.draw(st.integers(1, 90))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    rows = rng.standard_normal((n_rows, 8)).astype(np.float32)
    queries = rng.standard_normal((data.draw(st.integers(1, 70)), 8)).astype(np.float32)
    metric = data.draw(st.sampled_from(["cosine", "dot"]))
    leaves = data.draw(st.integers(1, 6))
    parameters = ScannParameters(leaves, 1, reorder_dim=4)
    index = build(rows, parameters, (2, 4, 8), metric=metric)
    size = max(n_rows, k)
    found = index.search(queries, SearchPlan((2, 4, 8), (size, size), k, leaves=leaves))
    assert_top_k(found.scores, found.indices, scores_at(queries, rows, 8, metric), k)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("column", [3, 12, 31])
def test_bad_query_rows_get_no_results_and_leave_the_others_alone(data, index, bad, column):
    queries = data[1][:5].copy()
    alone = index.search(queries, PLAN)
    queries[2, column] = bad
    found = index.search(queries, PLAN)
    assert (found.indices[2] == -1).all()
    assert (found.scores[2] == LOWEST).all()
    np.testing.assert_array_equal(found.ids[[0, 1, 3, 4]], alone.ids[[0, 1, 3, 4]])


def test_saved_and_weighed(data, index, tmp_path):
    index.save(tmp_path / "index")
    loaded = NestedIndex.load(tmp_path / "index")
    assert loaded.shortlist.parameters == PARAMETERS
    for one, two in zip(index.search(data[1], PLAN), loaded.search(data[1], PLAN), strict=True):
        np.testing.assert_array_equal(one, two)
    written = sum(file.stat().st_size for file in (tmp_path / "index").iterdir())
    formula = index_bytes(2000, DIMS, shortlist_blocks=8, reorder_dims=8 + 16)
    assert formula < written < formula + 20_000
    assert index_bytes(2000, DIMS, reorder_dims=24) == index_bytes(2000, DIMS) + 2000 * 24


def test_tuning_asks_for_each_shortlist_by_itself(data, index):
    _, queries, row_labels, query_labels = data
    space = TuningSpace(shortlists=(20, 60), leaf_shares=(0.1, 1.0), kept=(15,), rerank_dims=[32])
    result = tune(
        index,
        queries,
        labels=(query_labels, row_labels),
        options=TuningOptions("mAP@5", space=space),
    )
    for point in result.points[1:]:
        found = index.search(queries, point.plan).indices
        hits = row_labels[np.maximum(found, 0)] == query_labels[:, None]
        hits &= found >= 0
        ranks = np.arange(1, 6)
        value = np.mean([sum(row[:r].mean() for r in ranks if row[r - 1]) / 5 for row in hits])
        assert point.value == pytest.approx(value, abs=0.01)


ROWS = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ScannParameters(10, 2, reorder_dim=1), "`reorder_dim` must be at least 2"),
        (
            lambda: ScannSearcher.build(ROWS, PARAMETERS, dim=4),
            "width 8, D_s 4 and reorder_dim=16",
        ),
        (
            lambda: ScannSearcher.build(ROWS, ScannParameters(2, 1, reorder_dim=8)),
            "reorder_dim` above D_s. Received the width 8, D_s 8",
        ),
        (lambda: ScannSearcher.build(ROWS, dim=4), "width 8, D_s 4 and reorder_dim=None"),
        (
            lambda: build(ROWS, PARAMETERS, (4, 8)),
            "one of the trained prefixes",
        ),
    ],
)
def test_bad_builds(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_bad_searches(index):
    with pytest.raises(ValueError, match="must be 16 wide"):
        index.shortlist.search(np.ones((2, 8)), 5)
    with pytest.raises(ValueError, match="`candidates` must be at least 5. Received 4"):
        index.shortlist.search(np.ones((2, 16)), 5, candidates=4)
