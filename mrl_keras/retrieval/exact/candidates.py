"""The best rows so far, of many queries and prefixes at once."""

from __future__ import annotations

import numpy as np

from mrl_keras.retrieval.arrays import LOWEST_SCORE, PAD_INDEX, order_rows, select_rows


class Candidates:
    """The best rows so far of one block of queries, for every prefix.

    Tables of scores and indices (prefixes, queries, room), filled from the left. A query's
    threshold is its k-th best score as of the last cut, so a row at or below it cannot be among
    the k best. Only rows above it are taken, and a table is cut back to k when it is full.

    Args:
        prefixes: int.
        queries: int.
        k: int, rows wanted of each query and prefix.
    """

    def __init__(self, prefixes: int, queries: int, k: int):
        self._k, self._room = k, self.room(k)
        shape = (prefixes, queries, self._room)
        self._scores = np.full(shape, -np.inf, np.float32)
        self._indices = np.full(shape, PAD_INDEX, np.int32)
        self._counts = np.zeros((prefixes, queries), np.int64)
        self._thresholds = np.full((prefixes, queries, 1), -np.inf, np.float32)
        self._first_slots = np.arange(queries) * self._room

    @staticmethod
    def room(k: int) -> int:
        """How many candidates a query may hold for a prefix before they are cut back to k."""
        return 3 * k + 64

    def add(self, prefix: int, scores: np.ndarray, mask: np.ndarray, first_row: int) -> None:
        """Takes the rows of a tile that beat the thresholds.

        Args:
            prefix: int, the prefix's place.
            scores: float32 (queries, rows).
            mask: bool (queries, rows), overwritten.
            first_row: int, the index of the tile's first row.
        """
        np.greater(scores, self._thresholds[prefix], out=mask)
        hits = np.flatnonzero(mask)
        if not hits.size:
            return
        owners, columns = np.divmod(hits.astype(np.int32), np.int32(scores.shape[1]))
        found = np.bincount(owners, minlength=scores.shape[0])
        if (self._counts[prefix] + found).max() > self._room:
            if found.max() > self._room - self._k:
                self._merge(prefix, scores, first_row)
                return
            self._cut(prefix, self._scores[prefix], self._indices[prefix])
        # The hits come query by query: a hit's slot is its rank among its query's own.
        ranks_start = np.cumsum(found) - found
        starts = self._first_slots + self._counts[prefix] - ranks_start
        slots = np.arange(hits.size) + starts[owners]
        self._scores[prefix].reshape(-1)[slots] = scores.reshape(-1)[hits]
        self._indices[prefix].reshape(-1)[slots] = columns + first_row
        self._counts[prefix] += found

    def _merge(self, prefix, scores, first_row):
        """Takes the k best of a tile that brings more hits than the table can hold."""
        indices = np.arange(first_row, first_row + scores.shape[1], dtype=np.int32)
        new = select_rows(scores, np.broadcast_to(indices, scores.shape), self._k)
        old = (self._scores[prefix], self._indices[prefix])
        self._cut(prefix, *(np.concatenate(pair, axis=1) for pair in zip(old, new, strict=True)))

    def _cut(self, prefix, scores, indices):
        # Always k columns: where fewer rows were seen, the rest are empty slots at -inf.
        scores, indices = select_rows(scores, indices, self._k)
        self._scores[prefix, :, : self._k], self._scores[prefix, :, self._k :] = scores, -np.inf
        self._indices[prefix, :, : self._k] = indices
        self._counts[prefix] = self._k
        self._thresholds[prefix, :, 0] = scores.min(axis=1)

    def best(self, prefix: int, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The k best rows of a prefix, ordered, empty slots padded.

        Args:
            prefix: int, the prefix's place.
            scale: float32 (queries,), multiplies each query's scores.

        Returns:
            (scores, indices): float32 and int32, both (queries, k).
        """
        scores, indices = order_rows(
            *select_rows(self._scores[prefix], self._indices[prefix], self._k)
        )
        empty = np.isneginf(scores)
        scores[empty], indices[empty] = 0.0, PAD_INDEX
        return np.where(empty, LOWEST_SCORE, scores * scale[:, None]), indices
