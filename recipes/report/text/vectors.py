"""Vectors to search: what tells an easy database from a hard one."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np

from mrl_keras.evaluation.checks import unit_rows
from mrl_keras.retrieval import exact_search, recall_at_k
from recipes.report.text.study import index_dims

K, SHORTLIST = 10, 200


@dataclasses.dataclass(frozen=True, eq=False)
class Vectors:
    """A database, queries that judge and others to tune by; L2-normalised.

    Args:
        name: str.
        rows: (rows, d).
        queries: (queries, d).
        held_out: (other queries, d).
        about: str, what they are.
    """

    name: str
    rows: np.ndarray
    queries: np.ndarray
    held_out: np.ndarray
    about: str

    def __post_init__(self):
        for name in ("rows", "queries", "held_out"):
            units = unit_rows(getattr(self, name)).astype(np.float32)
            object.__setattr__(self, name, units)

    @property
    def width(self) -> int:
        return self.rows.shape[1]

    @property
    def dims(self) -> list[int]:
        """The nesting dims of its index."""
        return index_dims(self.width)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of rows and queries."""
        hashed = hashlib.sha256(np.ascontiguousarray(self.rows))
        hashed.update(np.ascontiguousarray(self.queries))
        hashed.update(np.ascontiguousarray(self.held_out))
        return hashed.hexdigest()

    @functools.cached_property
    def nearest(self) -> np.ndarray:
        """int64 (queries, 10): what exact search with all dims finds for the judging queries."""
        return exact_search(self.queries, self.rows, [self.width], K).indices[0]

    def recall(self, found) -> float:
        """The share of `nearest` among the rows found for all judging queries, in any order."""
        return recall_at_k(np.asarray(found, np.int64), self.nearest)


def hardness(vectors: Vectors, most: int = 512) -> dict:
    """How much of the full width's answer each prefix finds, and how the vectors lie.

    Args:
        vectors: `Vectors`.
        most: int, at most so many queries. Default 512.

    Returns:
        dict that JSON can hold: "alone" and "shortlist" {dim: recall@10 of exact search with the
        prefix, and of its best 200 rows (all where there are fewer) when the full width orders
        them}; "energy" {dim: share of the squared length in the prefix}; "cosine" {rank: median
        cosine of the row at that rank, full width}.
    """
    queries, size = vectors.queries[:most], min(SHORTLIST, len(vectors.rows))
    found = exact_search(queries, vectors.rows, vectors.dims, size)
    truth = found.indices[-1][:, :K]
    squared = np.cumsum(np.square(vectors.rows).mean(axis=0))
    ranks = [rank for rank in (1, 10, 100, size) if rank <= size]
    by_dim = list(zip(found.dims, found.indices, strict=True))
    return {
        "alone": {str(dim): recall_at_k(rows[:, :K], truth) for dim, rows in by_dim},
        # A true neighbour that is in the shortlist is among the first ten of the rerank.
        "shortlist": {str(dim): recall_at_k(rows, truth) for dim, rows in by_dim},
        "energy": {str(dim): float(squared[dim - 1] / squared[-1]) for dim in vectors.dims},
        "cosine": {
            str(rank): float(np.median(found.scores[-1][:, rank - 1]))
            for rank in dict.fromkeys(ranks)
        },
    }
