"""Which rows are in which leaves, and which leaves a query opens."""

from __future__ import annotations

from functools import cached_property

import numpy as np


def leaf_order(tokens: np.ndarray) -> np.ndarray:
    """The rows leaf by leaf, int32 (rows,), from the leaf of each row."""
    return np.argsort(tokens, kind="stable").astype(np.int32)


def leaf_starts(tokens: np.ndarray, num_leaves: int) -> np.ndarray:
    """Where each leaf starts in `leaf_order`, int32 (leaves + 1,)."""
    counts = np.bincount(tokens, minlength=num_leaves)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


class Leaves:
    """Leaves of rows, each with a centre; a row is in one leaf or in two.

    A query opens the leaves whose centres have the highest inner product with its prefix, of equal
    ones the first, and reads each row in them once.

    Args:
        centres: float32 (leaves, D_c).
        tokens: int32 (rows, 1) or (rows, 2): each row's leaf, and its second one or -1.

    Attributes:
        order: int32 (rows,); the rows of leaf l are `order[starts[l]:starts[l + 1]]`.
        starts: int32 (leaves + 1,).
        spilled: int32, rows by their second leaf; those of leaf l are
            `spilled[spilled_starts[l]:spilled_starts[l + 1]]`. `None` without second leaves.
        spilled_starts: int32 (leaves + 1,), or `None`.

    >>> leaves = Leaves(np.eye(2, dtype="f4"), np.array([[1, 0], [0, -1], [1, -1]], "i4"))
    >>> opened = leaves.open(np.array([[1.0, 0.2]], "f4"), 1)
    >>> opened.tolist(), leaves.rows(opened[0]).tolist(), leaves.rows(np.array([0, 1])).tolist()
    ([[0]], [1, 0], [1, 0, 2])
    """

    def __init__(self, centres: np.ndarray, tokens: np.ndarray):
        self.centres, self.tokens = centres, tokens
        self.order = leaf_order(tokens[:, 0])
        self.starts = leaf_starts(tokens[:, 0], len(centres))
        self.spilled = self.spilled_starts = None
        if tokens.shape[1] == 2:
            twice = np.flatnonzero(tokens[:, 1] >= 0)
            self.spilled = twice[leaf_order(tokens[twice, 1])].astype(np.int32)
            self.spilled_starts = leaf_starts(tokens[twice, 1], len(centres))

    def __len__(self) -> int:
        return len(self.centres)

    def open(self, prefixes: np.ndarray, count: int) -> np.ndarray:
        """The `count` leaves that each query opens, best first: int (queries, count).

        Args:
            prefixes: float32 (queries, D_c), finite.
            count: int, at most the leaves.
        """
        return np.argsort(-(prefixes @ self.centres.T), axis=1, kind="stable")[:, :count]

    def rows(self, opened: np.ndarray) -> np.ndarray:
        """The rows in some leaves, each once: int32."""
        found = [self.order[self.starts[leaf] : self.starts[leaf + 1]] for leaf in opened]
        if self.spilled is not None:
            is_open = np.zeros(len(self), bool)
            is_open[opened] = True
            starts = self.spilled_starts
            second = [self.spilled[starts[leaf] : starts[leaf + 1]] for leaf in opened]
            second = np.concatenate(second)
            found.append(second[~is_open[self.tokens[second, 0]]])
        return np.concatenate(found)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Rows in each leaf, second ones included: int (leaves,)."""
        sizes = np.diff(self.starts)
        return sizes if self.spilled is None else sizes + np.diff(self.spilled_starts)

    def expected_rows(self, count: int) -> float:
        """The rows in `count` leaves, where a query falls into a leaf as often as a row does.

        Large leaves are opened more often: a leaf counts with the share of the rows that it holds.
        Rows that are in two opened leaves count twice, up to the number of rows.
        """
        mean = float(np.square(self.sizes, dtype=np.float64).sum() / self.sizes.sum())
        return min(count * mean, float(len(self.tokens)))

    def memory_bytes(self) -> int:
        """Bytes of the arrays."""
        parts = (self.centres, self.tokens, self.order, self.starts)
        parts += () if self.spilled is None else (self.spilled, self.spilled_starts)
        return sum(part.nbytes for part in parts)
