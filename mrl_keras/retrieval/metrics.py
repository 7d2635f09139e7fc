"""Ranking metrics over retrieved rows, defined as the paper's evaluation code does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.retrieval.arrays import PAD_INDEX

EMPTY_LABELS = {"i": -1, "U": ""}
"""The label of an empty slot, by the kind of the labels' dtype; such a slot is never relevant."""


def mean_average_precision(relevance: np.ndarray, k: int) -> float:
    """mAP@k, divided by k.

        mAP@k = mean over queries of  1/k  sum_{i <= k} P@i rel_i

    The denominator is k, not the number of relevant rows found: a query whose first hit is at
    rank 2 of 2 has 1/2 * (1/2) = 0.25. Other definitions divide by the hits, and score higher.

    Args:
        relevance: bool (queries, at least k), whether each retrieved row is relevant, best
            first; empty slots are `False`.
        k: int.

    Raises:
        ValueError: no queries, no second axis, not bool, or fewer than k columns.

    >>> mean_average_precision(np.array([[False, True], [True, True]]), 2)
    0.625

    Source: arXiv 2205.13147, Section 4.3 and Appendix E; its released `compute_metrics`.
    """
    return float(np.mean(average_precision(relevance, k)))


def average_precision(relevance: np.ndarray, k: int) -> np.ndarray:
    """AP@k of each query, divided by k; their mean is `mean_average_precision`.

    Args:
        relevance: bool (queries, at least k), best first; empty slots are `False`.
        k: int.

    Returns:
        float64 (queries,).

    Raises:
        ValueError: as for `mean_average_precision`.

    >>> average_precision(np.array([[False, True], [True, True]]), 2).tolist()
    [0.25, 1.0]
    """
    hits = _first(relevance, k)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return np.sum(precision * hits, axis=1) / hits.shape[1]


def precision_at_k(relevance: np.ndarray, k: int) -> float:
    """P@k, the share of the first k rows that are relevant, over all queries.

    Args:
        relevance: bool (queries, at least k), best first; empty slots are `False`.
        k: int.

    Raises:
        ValueError: as for `mean_average_precision`.

    >>> precision_at_k(np.array([[False, True], [True, True]]), 2)
    0.75
    """
    return float(np.mean(_first(relevance, k)))


def top_k_accuracy(relevance: np.ndarray, k: int) -> float:
    """The share of queries with at least one relevant row among the first k.

    Args:
        relevance: bool (queries, at least k), best first; empty slots are `False`.
        k: int; 1 gives 1-NN accuracy.

    Raises:
        ValueError: as for `mean_average_precision`.

    >>> top_k_accuracy(np.array([[False, True], [True, True]]), 1)
    0.5
    """
    return float(np.mean(_first(relevance, k).any(axis=1)))


def recall_at_k(found_ids: np.ndarray, true_ids: np.ndarray) -> float:
    """The mean share of each query's true rows that were found, in any order.

    Args:
        found_ids: int or str (queries, found); -1 or "" marks an empty slot, which finds nothing.
        true_ids: the same kind (queries, wanted), for instance the neighbours of exact search;
            empty slots are not wanted. A query that wants nothing is left out of the mean.

    Raises:
        ValueError: shapes that do not fit, ids of another kind, or no query that wants a row.

    >>> recall_at_k(np.array([[3, 1, -1]]), np.array([[1, 2]]))
    0.5
    """
    found, empty = _labels(found_ids, "`found_ids`", 2)
    true, true_empty = _labels(true_ids, "`true_ids`", 2)
    if len(found) != len(true) or empty != true_empty:
        raise ValueError(
            "`found_ids` and `true_ids` must have the same number of rows and the same kind of "
            f"ids. Received {found.dtype} {found.shape} and {true.dtype} {true.shape}."
        )
    wanted = true != empty
    counts = wanted.sum(axis=1)
    if not counts.any():
        raise ValueError("`true_ids` must hold at least one id. Received none.")
    hits = [np.isin(true[row, wanted[row]], found[row]).sum() for row in range(len(true))]
    return float(np.mean(np.asarray(hits)[counts > 0] / counts[counts > 0]))


def labels_at(indices: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The labels of retrieved rows; -1 or "" where the index is -1.

    Args:
        indices: int (queries, k).
        labels: non-negative ints or non-empty strings (rows,), the database's labels.

    >>> labels_at(np.array([[1, 0, -1]]), np.array([7, 9])).tolist()
    [[9, 7, -1]]
    """
    labels, empty = _labels(labels, "`labels`", 1)
    indices = np.asarray(indices)
    none = indices == PAD_INDEX
    return np.where(none, empty, labels[np.where(none, 0, indices)])


def ranking_metrics(
    neighbour_labels: np.ndarray,
    query_labels: np.ndarray,
    ks: Sequence[int] = (10, 25, 50, 100),
) -> dict[str, float]:
    """All metrics of the paper's retrieval tables, by name.

    A row is relevant if its label is the query's.

    Args:
        neighbour_labels: int or str (queries, at least max(ks)), labels of the retrieved rows,
            best first; -1 or "" marks an empty slot, which is irrelevant (see `labels_at`).
        query_labels: the same kind (queries,).
        ks: ints. Defaults to the paper's 10, 25, 50, 100.

    Returns:
        {"top1": ..., "mAP@10": ..., "P@10": ..., "top10": ..., ...}, each in [0, 1].

    >>> ranking_metrics(np.array([[5, 7], [7, 7]]), np.array([7, 7]), ks=(2,))
    {'top1': 0.5, 'mAP@2': 0.625, 'P@2': 0.75, 'top2': 1.0}

    Source: arXiv 2205.13147, Tables 8 to 14.
    """
    neighbours, empty = _labels(neighbour_labels, "`neighbour_labels`", 2)
    wanted, wanted_empty = _labels(query_labels, "`query_labels`", 1)
    if len(neighbours) != len(wanted) or empty != wanted_empty:
        raise ValueError(
            "`neighbour_labels` and `query_labels` must have one row for each query and the same "
            f"kind of labels. Received {neighbours.dtype} {neighbours.shape} and "
            f"{wanted.dtype} {wanted.shape}."
        )
    relevance = (neighbours == wanted[:, None]) & (neighbours != empty)
    metrics = {"top1": top_k_accuracy(relevance, 1)}
    for k in ks:
        metrics[f"mAP@{k}"] = mean_average_precision(relevance, k)
        metrics[f"P@{k}"] = precision_at_k(relevance, k)
        metrics[f"top{k}"] = top_k_accuracy(relevance, k)
    return metrics


def _first(relevance, k):
    relevance, k = np.asarray(relevance), whole_number(k, "`k`")
    if relevance.dtype != bool or relevance.ndim != 2 or not len(relevance):
        raise ValueError(
            "`relevance` must be bool of the shape (queries, neighbours) with at least one query. "
            f"Received {relevance.dtype} {relevance.shape}."
        )
    if relevance.shape[1] < k:
        raise ValueError(
            f"`k` must not exceed the {relevance.shape[1]} retrieved rows. Received {k}; "
            "retrieve more rows."
        )
    return relevance[:, :k]


def _labels(values, what, rank):
    values = np.asarray(values)
    kind = "i" if values.dtype.kind == "u" else values.dtype.kind
    if values.ndim != rank or kind not in EMPTY_LABELS:
        raise ValueError(
            f"{what} must be ints or strings with {rank} axes. "
            f"Received {values.dtype} {values.shape}."
        )
    if values.dtype.kind == "u":  # -1 marks an empty slot
        if values.size and values.max() > np.iinfo(np.int64).max:
            raise ValueError(f"{what} must lie within int64. Received {values.max()}.")
        values = values.astype(np.int64)
    return values, EMPTY_LABELS[kind]
