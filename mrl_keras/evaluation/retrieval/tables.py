"""The paper's retrieval tables: exact search at every prefix, and plans with reranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.evaluation.checks import check_labels, checked_embeddings
from mrl_keras.nesting import NestingDims
from mrl_keras.retrieval import (
    NestedIndex,
    SearchPlan,
    exact_search,
    labels_at,
    mflops_per_query,
    ranking_metrics,
)

PAPER_KS = (10, 25, 50, 100)


def exact_retrieval_table(
    queries, query_labels, database, database_labels, dims, ks: Sequence[int] = PAPER_KS
) -> dict[int, dict[str, float]]:
    """top-k, mAP@k, P@k and MFLOPs per query of exact search at every prefix.

    Args:
        queries: (queries, d); of another domain than the database's for Table 9.
        query_labels: ints (queries,), not negative, in the database's numbering.
        database: (rows, d).
        database_labels: ints (rows,), not negative.
        dims: ints, ascending, the prefixes.
        ks: ints, at most `rows`. Default the paper's 10, 25, 50, 100.

    Returns:
        dict from dim to {"top1", "mAP@k", "P@k", "topk", "MFLOPs"}.

    Raises:
        ValueError: empty or non-finite sets, labels that don't fit or that no row has, or k above
            the number of rows.

    Example:

    >>> from mrl_keras.evaluation import exact_retrieval_table
    >>> exact_retrieval_table(np.eye(2), [0, 1], np.eye(2), [0, 1], dims=[2], ks=[1])[2]["mAP@1"]
    1.0

    Source: arXiv 2205.13147, Tables 8 to 10.
    """
    dims = NestingDims(dims)
    arrays = _checked(queries, query_labels, database, database_labels, dims, ks)
    queries, query_labels, database, database_labels = arrays
    found = exact_search(queries, database, dims, k=max(ks))
    table = {}
    for dim, indices in zip(found.dims, found.indices, strict=True):
        metrics = ranking_metrics(labels_at(indices, database_labels), query_labels, ks)
        cost = mflops_per_query(len(database), SearchPlan((dim,), k=max(ks)))
        table[dim] = {**metrics, "MFLOPs": cost}
    return table


def plan_retrieval_table(
    queries, query_labels, database, database_labels, plans, ks: Sequence[int] = PAPER_KS
) -> dict[SearchPlan, dict[str, float]]:
    """The metrics of any plans: grids of adaptive retrieval, funnels, shortlist lengths.

    Args:
        queries, query_labels, database, database_labels: as for `exact_retrieval_table`.
        plans: `SearchPlan`s (see `adaptive_grid` and `shortlist_lengths`), with `k` at least
            max(ks).
        ks: ints. Default the paper's 10, 25, 50, 100.

    Returns:
        dict from plan to {"top1", "mAP@k", "P@k", "topk", "MFLOPs"}.

    Raises:
        ValueError: as for `exact_retrieval_table`, no plan, or a plan with `k` below max(ks).

    Source: arXiv 2205.13147, Tables 11 to 14, 30 and 31.
    """
    plans = list(plans)
    if not plans or min(plan.k for plan in plans) < max(ks):
        raise ValueError(
            f"`plans` must hold plans whose k is at least max(ks)={max(ks)}. "
            f"Received k={[plan.k for plan in plans]}."
        )
    dims = NestingDims(sorted({dim for plan in plans for dim in plan.dims}))
    arrays = _checked(queries, query_labels, database, database_labels, dims, ks)
    queries, query_labels, database, database_labels = arrays
    index = NestedIndex.build(database[:, : dims.width], dims)
    table = {}
    for plan in plans:
        ids = index.search(queries[:, : dims.width], plan).ids
        metrics = ranking_metrics(labels_at(ids, database_labels), query_labels, ks)
        table[plan] = {**metrics, "MFLOPs": mflops_per_query(len(database), plan)}
    return table


def adaptive_grid(
    dims: Sequence[int], shortlist: int = 200, k: int = 100
) -> tuple[SearchPlan, ...]:
    """Every pair D_s < D_r of `dims` (Tables 11 and 12).

    Args:
        dims: ints, ascending.
        shortlist: int, rows found with D_s dims. Default 200.
        k: int, rows returned. Default 100.

    >>> [plan.dims for plan in adaptive_grid([8, 16, 32])]
    [(8, 16), (8, 32), (16, 32)]
    """
    dims = NestingDims(dims)
    pairs = [(low, high) for low in dims for high in dims if low < high]
    return tuple(SearchPlan(pair, (shortlist,), k) for pair in pairs)


def shortlist_lengths(
    d_s: int, d_r: int, lengths: Sequence[int] = (100, 200, 400, 800, 1600), k: int = 100
) -> tuple[SearchPlan, ...]:
    """One plan for each shortlist length (Tables 30 and 31).

    Args:
        d_s: int, the dims that find the shortlist.
        d_r: int, the dims that rerank it.
        lengths: ints, rows of the shortlist. Default (100, 200, 400, 800, 1600).
        k: int, rows returned. Default 100.

    >>> [plan.sizes for plan in shortlist_lengths(16, 2048, lengths=[100, 200])]
    [(100,), (200,)]
    """
    return tuple(SearchPlan((d_s, d_r), (length,), k) for length in lengths)


def _checked(queries, query_labels, database, database_labels, dims, ks):
    queries = checked_embeddings(queries, dims, "queries").astype("float32")
    database = checked_embeddings(database, dims, "database").astype("float32")
    query_labels = check_labels(query_labels, queries, "query_labels")
    database_labels = check_labels(database_labels, database, "database_labels")
    if min(query_labels.min(), database_labels.min()) < 0:
        raise ValueError("Labels must not be negative. Received a negative label.")
    absent = np.setdiff1d(query_labels, database_labels)
    if len(absent):
        raise ValueError(
            f"Every class of `query_labels` must be in the database. Absent: {absent.tolist()}; "
            "leave these queries out."
        )
    most = max(whole_number(k, "Each of `ks`") for k in ks)
    if most > len(database):
        raise ValueError(f"`ks` must not exceed the {len(database)} rows. Received {most}.")
    return queries, query_labels, database, database_labels
