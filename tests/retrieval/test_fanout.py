"""Shards together answer as one index does."""

import numpy as np
import pytest

from mrl_keras.retrieval import NestedIndex, SearchPlan, merge_results, shard_plan

LOWEST = np.finfo(np.float32).min


def parts(rows, shards, seed=0):
    """Rows, and the shard of each."""
    rng = np.random.default_rng(seed)
    table = (rng.standard_normal((rows, 16)) / np.sqrt(1 + np.arange(16))).astype("float32")
    return table, rng.integers(0, shards, rows)


def fan_out(table, of, queries, plan, shards):
    results = []
    for shard in range(shards):
        ids = np.flatnonzero(of == shard)
        results.append(NestedIndex.build(table[ids], [2, 4, 16], ids).search(queries, plan))
    return merge_results([r.scores for r in results], [r.ids for r in results], plan.k)


@pytest.mark.parametrize("shards", [1, 3, 8])
def test_exact_shards_answer_as_one_index(shards):
    table, of = parts(400, shards)
    queries = table[:30] + 0.1
    plan = SearchPlan((16,), k=10)
    scores, ids = fan_out(table, of, queries, plan, shards)
    whole = NestedIndex.build(table, [2, 4, 16]).search(queries, plan)
    np.testing.assert_array_equal(ids, whole.ids)
    np.testing.assert_allclose(scores, whole.scores, rtol=1e-6)


def test_whole_shortlists_in_every_shard_never_lower_a_score():
    table, of = parts(400, 5)
    queries, plan = table[:50] + 0.1, SearchPlan((2, 16), (12,), k=10)
    scores, _ = fan_out(table, of, queries, shard_plan(plan, 5), 5)
    whole = NestedIndex.build(table, [2, 4, 16]).search(queries, plan)
    assert (scores >= whole.scores - 1e-6).all()
    assert (scores > whole.scores + 1e-6).any()  # five shortlists hold more rows than one


def test_shared_shortlists_hold_the_global_one_but_for_the_stated_misses():
    table, of = parts(3000, 6)
    plan = SearchPlan((2, 16), (200,), k=10)
    part = shard_plan(plan, 6, miss=0.05)
    assert part.sizes[0] < 200 / 3
    index = NestedIndex.build(table, [2, 4, 16])
    found = index.find_shortlist(table[:600], 2, 200)
    counts = np.stack([(of[found] == shard).sum(axis=1) for shard in range(6)])
    missed = (counts > part.sizes[0]).any(axis=0).mean()
    assert missed < 0.05 + 3 * np.sqrt(0.05 / 600)


def test_the_share_of_a_shard_is_the_binomial_quantile_counted_by_hand():
    from math import comb

    size, shards, miss = 60, 4, 0.02
    below, total = 0, 0.0
    while total < 1 - miss / shards:
        total += comb(size, below) * (1 / shards) ** below * (1 - 1 / shards) ** (size - below)
        below += 1
    plan = SearchPlan((2, 4, 16), (60, 12), k=10)
    assert shard_plan(plan, shards, miss).sizes == (below - 1, 10)
    assert shard_plan(plan, 1, miss) == plan
    assert shard_plan(plan, shards) is plan


def test_short_answers_are_padded_and_ties_keep_the_order_of_shards():
    scores, ids = merge_results([[[0.5, LOWEST]], [[0.5, 0.4]]], [[[7, -1]], [[8, 9]]], 5)
    assert ids.tolist() == [[7, 8, 9, -1, -1]]
    np.testing.assert_array_equal(scores[0, 3:], LOWEST)
    _, ids = merge_results([[[0.5]]], [[["a"]]], 2)
    assert ids.tolist() == [["a", ""]]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: merge_results([], [], 3), "one array of the same shape for each shard"),
        (lambda: merge_results([[[0.5]]], [[[1, 2]]], 3), "one array of the same shape"),
        (lambda: merge_results([[[1.0]]] * 2, [[["a"]], [[1]]], 3), "one kind in all shards"),
        (lambda: merge_results([[[1.0]]], [[[1]]], 0), "`k` must be at least 1"),
        (lambda: shard_plan(SearchPlan((2,)), 0), "`shards` must be at least 1"),
        (lambda: shard_plan(SearchPlan((2,)), 2, miss=1.0), "`miss` must lie between 0 and 1"),
    ],
)
def test_errors(call, text):
    with pytest.raises(ValueError, match=text):
        call()
