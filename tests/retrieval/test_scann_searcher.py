import sys

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
    scann_parameters,
)
from mrl_keras.retrieval.scann import parameters, searcher
from tests.retrieval.oracle import LOWEST, assert_top_k, clustered, scores_at

pytest.importorskip("scann")


@pytest.fixture(scope="module")
def data():
    return clustered(2000, 16, 40)


@pytest.fixture(scope="module")
def shortlist(data):
    return ScannSearcher.build(data[0][:, :8], ScannParameters(50, 50))


def test_finds_near_rows_by_the_cosine_of_the_prefix(data, shortlist):
    rows, queries, *_ = data
    scores, indices = shortlist.search(queries[:, :8], 50)
    assert (scores.dtype, indices.dtype) == (np.float32, np.int32)
    truth = scores_at(queries, rows, 8)
    best = np.argsort(-truth, axis=1)[:, :10]
    recall = np.mean([np.isin(one, two).mean() for one, two in zip(best, indices, strict=True)])
    assert recall > 0.95
    assert (np.diff(scores) <= 0).all()
    np.testing.assert_allclose(scores, np.take_along_axis(truth, indices, 1), atol=0.2)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_all_leaves_and_all_rows_equal_brute_force(data):
    n_rows = data.draw(st.integers(20, 80))
    k = data.draw(st.integers(1, 90))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    rows = rng.standard_normal((n_rows, 8)).astype(np.float32)
    queries = rng.standard_normal((data.draw(st.integers(1, 70)), 8)).astype(np.float32)
    leaves = data.draw(st.integers(1, 6))
    metric = data.draw(st.sampled_from(["cosine", "dot"]))
    index = NestedIndex.build(
        rows,
        [4, 8],
        options=IndexOptions(metric, shortlist_dim=4, scann=ScannParameters(leaves, 1)),
    )
    plan = SearchPlan((4, 8), (max(n_rows, k),), k, leaves=leaves)
    found = index.search(queries, plan)
    assert_top_k(found.scores, found.indices, scores_at(queries, rows, 8, metric), k)


def test_one_leaf_short_of_rows_pads_with_minus_one_never_row_0(data, shortlist):
    scores, indices = shortlist.search(data[1][:, :8], 400, leaves=1)
    empty = indices == -1
    assert empty.any(axis=1).all()
    assert (scores[empty] == LOWEST).all()
    assert np.isfinite(scores).all()
    for row in indices:
        filled = row[row >= 0]
        assert len(set(filled.tolist())) == len(filled)
        # Empty slots come last.
        assert (row[len(filled) :] == -1).all()


def test_the_width_is_k_whatever_the_batch(data, shortlist):
    queries = data[1][:, :8]
    together = shortlist.search(queries, 60, leaves=2)
    for row in (0, 7):
        alone = shortlist.search(queries[row : row + 1], 60, leaves=2)
        assert alone[0].shape == alone[1].shape == (1, 60)
        np.testing.assert_allclose(alone[0][0], together[0][row], rtol=1e-5)
        np.testing.assert_array_equal(alone[1][0], together[1][row])


def test_k_above_the_rows(data, shortlist):
    _, indices = shortlist.search(data[1][:2, :8], 2100)
    assert indices.shape == (2, 2100)
    np.testing.assert_array_equal(np.sort(indices[:, :2000], axis=1), [np.arange(2000)] * 2)
    assert (indices[:, 2000:] == -1).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_query_rows_get_no_results_and_leave_the_others_alone(data, shortlist, bad):
    queries = data[1][:5, :8].copy()
    _, alone = shortlist.search(queries, 20)
    queries[2, 3] = bad
    scores, indices = shortlist.search(queries, 20)
    assert (indices[2] == -1).all()
    assert (scores[2] == LOWEST).all()
    np.testing.assert_array_equal(indices[[0, 1, 3, 4]], alone[[0, 1, 3, 4]])


@pytest.mark.parametrize("batch", [0, 1, 65])
def test_batches_of_any_size(data, shortlist, batch):
    queries = np.resize(data[1][:, :8], (batch, 8))
    scores, indices = shortlist.search(queries, 7)
    assert indices.shape == scores.shape == (batch, 7)


def test_leaves_beyond_the_tree_mean_all(data, shortlist):
    queries = data[1][:, :8]
    all_leaves = shortlist.search(queries, 30, leaves=50)
    beyond = shortlist.search(queries, 30, leaves=10**9)
    np.testing.assert_array_equal(all_leaves[1], beyond[1])


def test_the_same_seed_gives_the_same_answers(data):
    made = [
        ScannSearcher.build(data[0][:, :8], ScannParameters(20, 4), seed=seed) for seed in (1, 1, 2)
    ]
    answers = [one.search(data[1][:, :8], 30)[1] for one in made]
    np.testing.assert_array_equal(answers[0], answers[1])
    assert (answers[0] != answers[2]).any()


def test_two_searchers_in_one_process_do_not_mix(data):
    rows, queries, *_ = data
    one, two = (ScannSearcher.build(part[:, :8], ScannParameters(10, 10)) for part in (rows, -rows))
    _, first = one.search(queries[:, :8], 20)
    _, second = two.search(-queries[:, :8], 20)
    np.testing.assert_array_equal(first, second)
    assert (one.search(queries[:, :8], 20)[1] != two.search(queries[:, :8], 20)[1]).mean() > 0.9


def test_partition_is_the_tree(data, shortlist):
    leaves = shortlist.partition()
    centres, row_order, leaf_starts = leaves.centres, leaves.order, leaves.starts
    assert centres.shape == (50, 8)
    np.testing.assert_array_equal(np.sort(row_order), np.arange(2000))
    assert (leaf_starts[0], leaf_starts[-1], len(leaf_starts)) == (0, 2000, 51)
    prefix = data[0][:, :8] / np.linalg.norm(data[0][:, :8], axis=1, keepdims=True)
    distances = ((prefix[:, None] - centres[None]) ** 2).sum(axis=-1)
    nearest = np.argmin(distances, axis=1)
    leaf_of = np.empty(2000, int)
    for leaf in range(50):
        leaf_of[row_order[leaf_starts[leaf] : leaf_starts[leaf + 1]]] = leaf
    assert (leaf_of == nearest).mean() > 0.99


def test_search_opens_the_leaves_of_the_nearest_centres(data, shortlist):
    """What the partition promises: the same leaves as ScaNN opens, so the same rows."""
    leaves = shortlist.partition()
    centres, row_order, leaf_starts = leaves.centres, leaves.order, leaves.starts
    queries = data[1][:, :8] / np.linalg.norm(data[1][:, :8], axis=1, keepdims=True)
    _, indices = shortlist.search(queries, 2000, leaves=3)
    for query, found in zip(queries, indices, strict=True):
        opened = np.argsort(-(centres @ query))[:3]
        expected = [row_order[leaf_starts[leaf] : leaf_starts[leaf + 1]] for leaf in opened]
        np.testing.assert_array_equal(np.sort(found[found >= 0]), np.sort(np.concatenate(expected)))


def test_tensors_hold_codes_but_no_rows(data, shortlist):
    tensors = shortlist.tensors()
    assert tuple(tensors) == searcher.TENSOR_NAMES
    assert tensors["hashed_dataset"].shape == (2000, 8)
    assert tensors["datapoint_to_token"].shape == (2000,)
    assert tensors["dataset"].size <= 1
    assert shortlist.memory_bytes() < 2000 * (8 + 4) + 10_000
    copy = ScannSearcher.from_tensors(tensors, shortlist.parameters, 2000, 8)
    for one, two in zip(
        shortlist.search(data[1][:, :8], 25), copy.search(data[1][:, :8], 25), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_the_rows_are_not_changed_by_the_build(data):
    rows = data[0][:, :8].copy()
    ScannSearcher.build(rows, ScannParameters(5, 2))
    np.testing.assert_array_equal(rows, data[0][:, :8])


@pytest.mark.parametrize("n_rows", [16, 17, 45])
def test_tiny_databases(n_rows):
    rows = np.random.default_rng(0).standard_normal((n_rows, 4)).astype(np.float32)
    shortlist = ScannSearcher.build(rows)
    _, indices = shortlist.search(rows, n_rows + 2)
    np.testing.assert_array_equal(
        np.sort(indices[:, :n_rows], axis=1), [np.arange(n_rows)] * n_rows
    )


def test_parameters_of_earlier_versions_are_read():
    kept = ScannParameters(10, 2, reorder_dim=16)
    assert ScannParameters.from_dict(kept.to_dict()) == kept
    retired = {"storage": "float32", "soar_lambda": None, "truncate_dim": None}
    assert ScannParameters.from_dict({**kept.to_dict(), **retired}) == kept


def test_the_rule():
    rule = scann_parameters(1_281_167, 16)
    assert (rule.num_leaves, rule.leaves_to_search, rule.dims_per_block) == (4528, 226, 1)
    assert scann_parameters(1_281_167, 128).dims_per_block == 2
    assert scann_parameters(20_000, 16).num_leaves == 500
    assert scann_parameters(10, 16) == ScannParameters(1, 1, training_sample_size=16)


def test_an_index_below_the_threshold_has_exact_shortlists(data, monkeypatch):
    rows, queries, *_ = data
    by_rule = IndexOptions(shortlist_dim=8)
    assert NestedIndex.build(rows, [8, 16], options=by_rule).shortlist is None
    monkeypatch.setattr(parameters, "EXACT_BELOW", 2000)
    built = NestedIndex.build(rows, [8, 16], options=by_rule)
    assert (built.shortlist.dim, built.shortlist.n_rows) == (8, 2000)
    assert built.shortlist.parameters == scann_parameters(2000, 8)
    exact = IndexOptions(shortlist_dim=8, scann=None)
    assert NestedIndex.build(rows, [8, 16], options=exact).shortlist is None
    assert NestedIndex.build(rows, [8, 16]).shortlist is None
    # Only the shortlist's own prefix goes through ScaNN.
    exact = built.find_shortlist(queries, 16, 30)
    np.testing.assert_array_equal(exact, built.search_exactly(queries, 16, 30)[1])


def test_two_stages_through_scann_keep_the_neighbours(data):
    rows, queries, *_ = data
    index = NestedIndex.build(
        rows, [8, 16], options=IndexOptions(shortlist_dim=8, scann=ScannParameters(50, 15))
    )
    found = index.search(queries, SearchPlan((8, 16), (300,)))
    exact = index.search(queries, SearchPlan((16,)))
    recall = np.mean(
        [np.isin(one, two).mean() for one, two in zip(exact.ids, found.ids, strict=True)]
    )
    assert recall > 0.8


def test_inner_products_find_the_long_rows(data):
    rows, queries, *_ = data
    rows = rows * np.where(np.arange(2000) % 50 == 0, 20, 1).astype(np.float32)[:, None]
    options = IndexOptions("dot", shortlist_dim=8, scann=ScannParameters(20, 20))
    index = NestedIndex.build(rows, [8, 16], options=options)
    found = index.search(queries, SearchPlan((8, 16), (60,), k=5))
    exact = index.search(queries, SearchPlan((16,), k=5))
    recall = np.mean(
        [np.isin(one, two).mean() for one, two in zip(exact.ids, found.ids, strict=True)]
    )
    assert recall > 0.9


def test_zero_rows_stay_zero():
    rows = np.vstack([np.zeros((8, 4)), np.eye(4), -np.eye(4)]).astype(np.float32)
    shortlist = ScannSearcher.build(rows, ScannParameters(1, 1))
    scores, indices = shortlist.search(np.zeros((1, 4)), 16)
    assert sorted(indices[0]) == list(range(16))
    np.testing.assert_allclose(scores, 0, atol=1e-6)


ROWS = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ScannParameters(0, 1), "`num_leaves` must be at least 1"),
        (lambda: ScannParameters(10, 11), "must not exceed num_leaves=10. Received 11"),
        (lambda: ScannParameters(10, 2.5), "`leaves_to_search` must be an int. Received 2.5"),
        (lambda: ScannParameters(10, 2, 0), "`dims_per_block` must be at least 1"),
        (lambda: ScannParameters(10, 2, anisotropic_threshold=1.0), "strictly between 0 and 1"),
        (
            lambda: ScannParameters(10, 2, training_sample_size=15),
            "must be at least 16. Received 15",
        ),
        (lambda: ScannSearcher.build(ROWS[:15]), "at least 16 rows.* Received 15; .*`scann=None`"),
        (lambda: ScannSearcher.build(ROWS[0]), r"must have the shape \(rows, dims\)"),
        (lambda: ScannSearcher.build(ROWS * np.nan), "NaN, inf or overflow: 0, 1, "),
        (lambda: ScannSearcher.build(ROWS, ScannParameters(31, 1)), "not exceed the 30 rows"),
        (lambda: ScannSearcher.build(ROWS, seed=-1), "`seed` must be at least 0"),
        (lambda: scann_parameters(0, 8), "`n_rows` must be at least 1"),
    ],
)
def test_bad_builds(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"queries": np.ones((2, 5))}, r"must be 8 wide, .* Received the shape \(2, 5\)"),
        ({"k": 0}, "`k` must be at least 1. Received 0"),
        ({"k": -3}, "`k` must be at least 1. Received -3"),
        ({"leaves": 0}, "`leaves` must be at least 1. Received 0"),
    ],
)
def test_bad_searches(shortlist, arguments, text):
    with pytest.raises(ValueError, match=text):
        shortlist.search(**{"queries": np.ones((2, 8)), "k": 5, **arguments})


def test_without_scann_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scann.scann_ops.py", None)
    with pytest.raises(ImportError, match=r'pip install "mrl_keras\[retrieval\]"'):
        ScannSearcher.build(ROWS)
