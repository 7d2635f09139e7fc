"""One search over several shards: the plan of each shard, and the merged answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.stats import binom

from mrl_keras.checks import whole_number
from mrl_keras.retrieval.arrays import LOWEST_SCORE, check_matrix
from mrl_keras.retrieval.plan import SearchPlan


def shard_plan(plan: SearchPlan, shards: int, miss: float | None = None) -> SearchPlan:
    """The plan that each of `shards` runs, so that the merged answer stays as good as `plan`'s.

    With rows dealt to shards by a hash of their ids, the rows of a global shortlist of n that lie
    in one shard are Binomial(n, 1 / shards). Each size becomes the smallest that holds them in
    every shard, but with the probability `miss`, and at least `plan.k`:

        size = max(k, min(n, binomial quantile of 1 - miss / shards)).

    Args:
        plan: `SearchPlan` of one index with all rows.
        shards: int, how many shards there are.
        miss: float in (0, 1), the probability that a shortlist loses a row; or `None`, each shard
            runs the whole plan: an exact shortlist then loses no row, and the reranks of all
            shards together read `shards` times as many. Defaults to `None`.

    Raises:
        ValueError: `shards` below 1, or `miss` out of range.

    >>> plan = SearchPlan.adaptive(shortlist_dim=16, shortlist=200, rerank_dim=2048)
    >>> shard_plan(plan, 8, miss=0.01).sizes
    (40,)
    """
    shards = whole_number(shards, "`shards`")
    if miss is None:
        return plan
    if not 0 < miss < 1:
        raise ValueError(f"`miss` must lie between 0 and 1, or be None. Received {miss!r}.")
    quantiles = (binom.ppf(1 - miss / shards, size, 1 / shards) for size in plan.sizes)
    sizes = tuple(
        max(plan.k, min(size, int(most))) for size, most in zip(plan.sizes, quantiles, strict=True)
    )
    return dataclasses.replace(plan, sizes=sizes)


def merge_results(
    scores: Sequence[np.ndarray], ids: Sequence[np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of the answers of several shards; equal scores keep the order of the shards.

    Args:
        scores: for each shard, float (queries, k of the shard), comparable between shards; empty
            slots hold the lowest float32.
        ids: for each shard, int64 or str, as its scores; -1 or "" in empty slots.
        k: int, rows returned.

    Returns:
        (scores, ids): float32 and int64 or str, both (queries, k), best first; empty slots hold
        the lowest float32 and -1 or "".

    Raises:
        ValueError: no shard, scores without ids of their shape, or ids of two kinds.

    >>> scores, ids = merge_results([[[0.9, 0.2]], [[0.5, 0.1]]], [[["a", "b"]], [["c", "d"]]], 3)
    >>> ids.tolist()
    [['a', 'c', 'b']]
    """
    k = whole_number(k, "`k`")
    scores = [np.asarray(check_matrix(one, "`scores`"), np.float32) for one in scores]
    ids = [np.asarray(one) for one in ids]
    if not scores or [one.shape for one in scores] != [one.shape for one in ids]:
        raise ValueError(
            "`scores` and `ids` must have one array of the same shape for each shard. Received "
            f"{[one.shape for one in scores]} and {[one.shape for one in ids]}."
        )
    if len({one.dtype.kind for one in ids}) > 1:
        raise ValueError(
            "`ids` must be of one kind in all shards. Received "
            f"{sorted({str(one.dtype) for one in ids})}."
        )
    scores, ids = np.concatenate(scores, axis=1), np.concatenate(ids, axis=1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    scores, ids = np.take_along_axis(scores, best, 1), np.take_along_axis(ids, best, 1)
    if scores.shape[1] < k:
        pad = [(0, 0), (0, k - scores.shape[1])]
        scores = np.pad(scores, pad, constant_values=LOWEST_SCORE)
        ids = np.pad(ids, pad, constant_values="" if ids.dtype.kind == "U" else -1)
    return scores, ids
