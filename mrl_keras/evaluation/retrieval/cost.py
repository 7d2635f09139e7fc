"""Measured cost of retrieval: index size, build time and search time at every prefix."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.evaluation.checks import checked_embeddings
from mrl_keras.nesting import NestingDims
from mrl_keras.retrieval import (
    IndexOptions,
    NestedIndex,
    SearchPlan,
    exact_search,
    scann_parameters,
)

SYSTEMS = ("exact", "hnsw", "scann")
_HNSW_LINKS, _REORDERED = 32, 4


@dataclass(frozen=True)
class RetrievalCost:
    """One system at one prefix.

    Attributes:
        system: "exact", "hnsw" or "scann".
        dim: int, the prefix.
        rows: int, rows of the database.
        index_bytes: int, what the index keeps in memory.
        build_seconds: float, the median of building it.
        search_seconds: float, the median of searching all queries in one batch.
        queries: int, how many.
        recall: float, the part of the exact k nearest rows that it finds.
    """

    system: str
    dim: int
    rows: int
    index_bytes: int
    build_seconds: float
    search_seconds: float
    queries: int
    recall: float

    @property
    def microseconds_per_query(self) -> float:
        """`search_seconds` by the queries, in microseconds."""
        return 1e6 * self.search_seconds / self.queries


def retrieval_cost(
    queries, database, dims, systems: Sequence[str] = SYSTEMS, k: int = 10, repeats: int = 3
) -> list[RetrievalCost]:
    """Index size, build time and search time of exact search, HNSW and ScaNN at every prefix.

    All of them search by cosine. "exact" is brute force over the prefix. "hnsw" is FAISS's
    HNSW graph with 32 links (HNSW32) over L2-normalised prefixes, with FAISS's defaults. "scann"
    is this package's ScaNN shortlist of 4 k rows, reordered by exact cosines of the same prefix,
    with the parameters of `scann_parameters`. All of them keep the rows as float32. Build times
    start with the prefixes in memory, and include their normalisation.

    Args:
        queries: (queries, d).
        database: (rows, d).
        dims: ints, ascending, the prefixes.
        systems: which of "exact", "hnsw" and "scann". Default all.
        k: int, rows found for each query, at most the rows. Default 10.
        repeats: int, how often building and searching are timed, one search before not counted;
            the medians are reported. Default 3.

    Returns:
        `RetrievalCost`s: for each system in turn one for each prefix.

    Raises:
        ValueError: empty or non-finite sets, dims above their width, an unknown system, or k above
            the rows.
        ImportError: FAISS or ScaNN is asked for and missing.

    Example:

    >>> from mrl_keras.evaluation import retrieval_cost
    >>> rows = np.random.default_rng(0).standard_normal((100, 8))
    >>> found = retrieval_cost(rows[:5], rows, dims=[4, 8], systems=["exact"], k=3, repeats=1)
    >>> [(cost.dim, cost.index_bytes, cost.recall) for cost in found]
    [(4, 2800, 1.0), (8, 4400, 1.0)]

    The bytes there are 4 for each component, 4 for the inverse norm and 8 for the id of a row.

    Source: arXiv 2205.13147, Section 4.3 and Appendix E, Tables 19 to 21.
    """
    dims = NestingDims(dims)
    queries = checked_embeddings(queries, dims, "queries").astype("float32")
    database = checked_embeddings(database, dims, "database").astype("float32")
    k, repeats = whole_number(k, "`k`"), whole_number(repeats, "`repeats`")
    if k > len(database):
        raise ValueError(f"`k` must not exceed the {len(database)} rows. Received {k}.")
    unknown = [name for name in systems if name not in SYSTEMS]
    if isinstance(systems, str) or unknown or not len(systems):
        raise ValueError(f"`systems` must be some of {SYSTEMS}. Received {systems!r}.")
    exact = exact_search(queries, database, dims, k=k)
    costs = []
    for name in systems:
        for dim, nearest in zip(dims, exact.indices, strict=True):
            asked, rows = (np.ascontiguousarray(x[:, :dim]) for x in (queries, database))
            costs.append(_cost(name, _MAKERS[name], dim, asked, rows, nearest, k, repeats))
    return costs


def _cost(name, make, dim, queries, rows, nearest, k, repeats):
    build_seconds, (size, search) = _median_seconds(lambda: make(rows, k), repeats)
    search(queries)
    search_seconds, found = _median_seconds(lambda: search(queries), repeats)
    hits = (found[:, :, None] == nearest[:, None, :]).any(axis=1)
    recall = float(hits.mean())
    return RetrievalCost(
        name, dim, len(rows), size(), build_seconds, search_seconds, len(queries), recall
    )


def _median_seconds(function, repeats):
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        answer = function()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), answer


def _exact(rows, k):
    """(function that gives the bytes, function queries -> indices (queries, k))."""
    dim = rows.shape[1]
    index, plan = NestedIndex.build(rows, [dim]), SearchPlan((dim,), k=k)
    return lambda: _bytes(index), lambda queries: index.search(queries, plan).indices


def _scann(rows, k):
    dim = rows.shape[1]
    parameters = scann_parameters(len(rows), dim)
    options = IndexOptions(shortlist_dim=dim, scann=parameters)
    index = NestedIndex.build(rows, [dim], options=options)

    def search(queries):
        candidates = index.find_shortlist(queries, dim, min(_REORDERED * k, len(rows)))
        return index.rerank(queries, candidates, [dim], k=k)[1]

    return lambda: _bytes(index) + index.shortlist.memory_bytes(), search


def _bytes(index):
    return (
        sum(block.nbytes for block in index.blocks) + index.inverse_norms.nbytes + index.ids.nbytes
    )


def _hnsw(rows, k):
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'HNSW is measured with FAISS: pip install "faiss-cpu>=1.8", or leave "hnsw" out of '
            "`systems`."
        ) from error
    index = faiss.IndexHNSWFlat(rows.shape[1], _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.add(_unit(rows, faiss))

    def search(queries):
        return index.search(_unit(queries, faiss), k)[1]

    return lambda: faiss.serialize_index(index).nbytes, search


def _unit(rows, faiss):
    unit = rows.copy()
    faiss.normalize_L2(unit)
    return unit


_MAKERS = {"exact": _exact, "hnsw": _hnsw, "scann": _scann}
