"""Exact nested search: every prefix's neighbours in one pass over the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from mrl_keras.checks import whole_number
from mrl_keras.nesting import NestingDims
from mrl_keras.retrieval.arrays import (
    LOWEST_SCORE,
    PAD_INDEX,
    check_matrix,
    check_metric,
    check_queries,
    pad_columns,
    squared_norms,
)
from mrl_keras.retrieval.exact.blocked import NestedScan

DEFAULT_MEMORY_BUDGET = 1 << 30


@dataclass(frozen=True)
class ExactResult:
    """The neighbours of every prefix.

    Attributes:
        dims: tuple of ints, the prefixes searched.
        scores: float32 (dims, queries, k), descending along the last axis: the cosine of the
            prefixes, or their inner product.
        indices: int64 (dims, queries, k), row numbers of the database. A slot without a row
            holds -1, and its score is the lowest float32.
    """

    dims: tuple[int, ...]
    scores: np.ndarray
    indices: np.ndarray

    def at(self, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores, indices) of one prefix, both (queries, k)."""
        place = NestingDims(self.dims).index(dim)
        return self.scores[place], self.indices[place]


def exact_search(
    queries: np.ndarray,
    database: np.ndarray,
    dims: Sequence[int] | int,
    k: int = 10,
    metric: str = "cosine",
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    progress: bool = False,
) -> ExactResult:
    """The k nearest rows of every query at every prefix, exactly, in one pass.

    Each dimension's products are computed once: the scores of prefix m are those of the prefix
    before it plus one block's product, and the norms are running sums too,

        s_m(q, x) = <q[:m], x[:m]> / (|q[:m]| |x[:m]|)      for metric="cosine".

    Cosine orders rows as the L2 distance of L2-normalised prefixes does, the paper's setting.

    Args:
        queries: (queries, width), any real dtype. A row with NaN, inf, or a squared norm over
            float32 gets no results; the other rows are untouched.
        database: (rows, width), any real dtype; a memory-mapped array is read tile by tile.
        dims: ints, ascending prefixes, trained or interpolated; or one int.
        k: int, results for each query; above `rows` the rest of the slots are empty.
            Defaults to 10.
        metric: "cosine" (each prefix L2-normalised by itself) or "dot". Defaults to "cosine".
            Zero vectors have cosine 0 with everything.
        memory_budget: int, bytes of working memory beside the inputs and the answer. By default
            1 GiB. Less memory means smaller blocks, and fewer queries for each pass.
        progress: bool, whether to show a progress bar. Defaults to `False`.

    Returns:
        An `ExactResult` with `scores` and `indices`, both (dims, queries, k).

    Raises:
        ValueError: wrong shapes or dtypes, dims over the width, k below 1, an unknown metric,
            non-finite database rows (named by number), or a budget too small to work in.

    Example:

    >>> database = np.array([[1.0, 0.0, 0.0, 0.0], [0.8, 0.1, 2.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    >>> found = exact_search(database[:1], database, dims=[2, 4], k=2)
    >>> found.indices[:, 0].tolist()
    [[0, 1], [0, 1]]
    >>> found.scores[:, 0].astype("float64").round(3).tolist()
    [[1.0, 0.992], [1.0, 0.371]]

    Source: arXiv 2205.13147, Section 4.3 and Appendix E (Tables 8 to 10, exact search).
    """
    check_metric(metric)
    database = check_matrix(database, "`database`")
    n_rows, width = database.shape
    if n_rows == 0:
        raise ValueError("`database` must hold at least one row. Received an empty database.")
    if n_rows > np.iinfo(np.int32).max:
        raise ValueError(f"`database` must hold fewer than 2**31 rows. Received {n_rows}.")
    dims = NestingDims([dims] if isinstance(dims, (int, np.integer)) else dims)
    if dims.width > width:
        raise ValueError(
            f"`dims` must not exceed the embedding width {width}. Received {list(dims)}."
        )
    queries = check_queries(queries, width)
    k = whole_number(k, "`k`")
    memory_budget = whole_number(memory_budget, "`memory_budget`")
    tables = [database[:, low:high] for low, high in dims.blocks]
    with tqdm(
        total=queries.shape[0] * n_rows, desc="Exact search", disable=not progress, unit_scale=True
    ) as bar:
        scores, indices = search_finite(
            queries[:, : dims.width],
            tables,
            k,
            metric == "cosine",
            memory_budget,
            advance=bar.update,
        )
    return ExactResult(tuple(dims), scores, indices)


def search_finite(queries, tables, k, cosine, memory_budget, **options):
    """`NestedScan` for queries that may hold non-finite rows, and for k above the row count.

    Args:
        queries: float32 (queries, width); non-finite rows get no results.
        tables, k, cosine, memory_budget, options: as for `NestedScan`, but `k` may exceed N.

    Returns:
        (scores, indices): float32 and int64, both (prefixes, queries, k).
    """
    bad = ~np.isfinite(squared_norms(queries))
    if bad.any():
        queries = np.where(bad[:, None], np.float32(0), queries)
    found = min(k, tables[0].shape[0])
    scan = NestedScan(tables, found, cosine, memory_budget, **options)
    scores, indices = scan.run(queries)
    scores[:, bad], indices[:, bad] = LOWEST_SCORE, PAD_INDEX
    return pad_columns(scores, indices, k)
