"""The engine of exact search: block products, running sums, and the k best of every prefix.

Rows come as one table for each block of dims, so a plain matrix (column views) and a
`NestedIndex` (stored blocks) run through the same code. Tiles of rows meet blocks of queries:

    S_j = S_{j-1} + Q_j X_j^T          one matrix product for each block of dims, added up
    s_j = S_j / norm_j                 norm_j^2 = norm_{j-1}^2 + sum of squares of block j

Partitioning every tile for every prefix would cost more than the products. So each query keeps,
for each prefix, a threshold: its k-th best score so far. A tile is only compared with it, and the
few scores above it are appended to a small table, which is cut back to k (and the threshold
raised) when it is full.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from mrl_keras.retrieval.arrays import (
    LOWEST_SCORE,
    PAD_POSITION,
    as_float32,
    inverse_norms,
    order_rows,
    refuse_rows,
    select_rows,
    squared_norms,
)

_QUERY_BLOCK = 256
_TILE_ROWS = 4096
# The first tile sets the thresholds, and all of it has to be partitioned: it is kept small.
_FIRST_TILE_ROWS = 1024


@dataclass(frozen=True)
class Blocking:
    """Sizes chosen so that the working memory stays within a budget of bytes.

    Attributes:
        queries: int, queries that one product takes.
        rows: int, database rows of a tile.
        room: int, candidates a query may hold for a prefix before they are cut back to k.
        superblock: int, queries that share one pass over the database.
        workers: int, query blocks that are worked on at the same time.
    """

    queries: int
    rows: int
    room: int
    superblock: int
    workers: int


def plan_blocking(n_queries, widths, n_rows, k, copied, memory_budget) -> Blocking:
    """The largest blocking whose working memory stays within `memory_budget` bytes.

    Working memory is what the search allocates beside its inputs and its answer: the norms of a
    tile and, where the database is not float32, the tile's copy; for each worker three score
    matrices and a mask; for each query of a superblock the candidates of every prefix.
    """
    prefixes, width, room = len(widths), sum(widths), 2 * k + 64
    workers = max(1, min(os.cpu_count() or 1, 8, n_queries // 16))
    rows = min(_TILE_ROWS, max(n_rows, 1))
    queries = min(_QUERY_BLOCK, max(-(-n_queries // workers), 1))
    per_query = prefixes * (room * 8 + 24) + 4 * width
    while True:
        tile = rows * (4 * prefixes + 4 * max(widths) + (4 * width if copied else 0))
        needed = tile + workers * queries * (rows * 24 + room * 64)
        superblock = int(memory_budget - needed) // (per_query * queries) * queries
        if superblock >= queries * workers:
            return Blocking(queries, rows, room, min(superblock, max(n_queries, 1)), workers)
        if workers > 1:
            workers -= 1
        elif rows > 256:
            rows //= 2
        elif queries > 1:
            queries //= 2
        else:
            raise ValueError(
                f"`memory_budget` must be at least {needed + per_query} bytes for {prefixes} "
                f"dims, width {width} and k={k}. Received {memory_budget}."
            )


class _Candidates:
    """The best rows so far of one block of queries, for every prefix.

    Tables of scores and positions (prefixes, queries, room), filled from the left; a query's
    threshold is its k-th best score as of the last cut.
    """

    def __init__(self, prefixes, queries, k, room):
        self.k, self.room = k, room
        self.scores = np.full((prefixes, queries, room), -np.inf, np.float32)
        self.positions = np.full((prefixes, queries, room), PAD_POSITION, np.int32)
        self.counts = np.zeros((prefixes, queries), np.int64)
        self.thresholds = np.full((prefixes, queries, 1), -np.inf, np.float32)

    def add(self, prefix, scores, mask, first_row):
        """Takes the rows of a tile that beat the thresholds.

        Args:
            prefix: int, the prefix's place.
            scores: float32 (queries, rows).
            mask: bool (queries, rows), scratch.
            first_row: int, the position of the tile's first row.
        """
        np.greater(scores, self.thresholds[prefix], out=mask)
        hits = np.flatnonzero(mask)
        if not hits.size:
            return
        owners, columns = np.divmod(hits.astype(np.int32), np.int32(scores.shape[1]))
        found = np.bincount(owners, minlength=scores.shape[0])
        if (self.counts[prefix] + found).max() > self.room:
            self._merge(prefix, scores, first_row)
            return
        # The hits come query by query: a hit's slot is its rank among its query's own.
        starts = np.cumsum(found) - found
        slots = np.arange(hits.size) + (self.counts[prefix] - starts + self._offsets())[owners]
        self.scores[prefix].reshape(-1)[slots] = scores.reshape(-1)[hits]
        self.positions[prefix].reshape(-1)[slots] = columns + first_row
        self.counts[prefix] += found

    def _offsets(self):
        return np.arange(self.counts.shape[1]) * self.room

    def _merge(self, prefix, scores, first_row):
        """Cuts a whole tile and the table together back to k, and raises the thresholds."""
        positions = np.arange(first_row, first_row + scores.shape[1], dtype=np.int32)
        new = select_rows(scores, np.broadcast_to(positions, scores.shape), self.k)
        self._store(
            prefix,
            *select_rows(
                np.concatenate([self.scores[prefix], new[0]], axis=1),
                np.concatenate([self.positions[prefix], new[1]], axis=1),
                self.k,
            ),
        )

    def _store(self, prefix, scores, positions):
        # Always k columns: where fewer rows were seen, the rest are empty slots at -inf.
        self.scores[prefix, :, : self.k], self.scores[prefix, :, self.k :] = scores, -np.inf
        self.positions[prefix, :, : self.k] = positions
        self.counts[prefix] = self.k
        self.thresholds[prefix, :, 0] = scores.min(axis=1)

    def best(self, prefix, scale):
        """The k best, ordered, scores times `scale` (queries,); empty slots padded."""
        scores, positions = order_rows(
            *select_rows(self.scores[prefix], self.positions[prefix], self.k)
        )
        empty = np.isneginf(scores)
        positions[empty] = PAD_POSITION
        scores = np.where(empty, LOWEST_SCORE, scores * scale[:, None])
        return scores, positions


class _Scratch:
    """The score matrices one worker writes to: a block's products, their sum, scaled scores."""

    def __init__(self, queries, rows):
        self._products = np.empty(queries * rows, np.float32)
        self._sums = np.empty(queries * rows, np.float32)
        self._scores = np.empty(queries * rows, np.float32)
        self._mask = np.empty(queries * rows, bool)

    def shaped(self, queries, rows):
        flat = (self._products, self._sums, self._scores, self._mask)
        return tuple(part[: queries * rows].reshape(queries, rows) for part in flat)


def _meet(queries, tile, norms, candidates, scratch, first_row):
    """One block of queries against one tile: every prefix's scores, and what beats the best."""
    products, sums, scores, mask = scratch.shaped(queries.shape[0], tile[0].shape[0])
    low = 0
    for prefix, block in enumerate(tile):
        high = low + block.shape[1]
        # The first product starts the sum; the later ones are added to it.
        np.matmul(queries[:, low:high], block.T, out=products if low else sums)
        if low:
            np.add(sums, products, out=sums)
        if norms is None:
            candidates.add(prefix, sums, mask, first_row)
        else:
            np.multiply(sums, norms[prefix], out=scores)
            candidates.add(prefix, scores, mask, first_row)
        low = high


def tile_norms(tile) -> np.ndarray:
    """Squared norms of every prefix of a tile's rows, (prefixes, rows), as running sums."""
    return np.cumsum([squared_norms(block) for block in tile], axis=0, dtype=np.float32)


def _tiles(n_rows, rows):
    """(start, stop) of the tiles; the first one is short."""
    start, stop = 0, min(_FIRST_TILE_ROWS, rows, n_rows)
    while start < n_rows:
        yield start, stop
        start, stop = stop, min(stop + rows, n_rows)


def search_tables(
    queries: np.ndarray,
    tables: Sequence[np.ndarray],
    k: int,
    cosine: bool,
    memory_budget: int,
    advance: Callable[[int], None] | None = None,
):
    """The k best rows of every prefix, by blocks.

    Args:
        queries: float32 (queries, width), finite.
        tables: one matrix (rows, dims of the block) for each prefix's new dims, any real dtype,
            memory-mapped or not.
        k: int, at least 1.
        cosine: bool, whether rows and queries are L2-normalised, each prefix by itself.
        memory_budget: int, bytes of working memory.
        advance: optional function, called with the number of (query, row) pairs just done.

    Returns:
        (scores, positions): float32 and int64, both (prefixes, queries, k), ordered; slots
        without a row hold `LOWEST_SCORE` and `PAD_POSITION`.

    Raises:
        ValueError: non-finite rows in the tables, or a budget too small for any blocking.
    """
    n_rows, widths = tables[0].shape[0], [table.shape[1] for table in tables]
    copied = any(table.dtype != np.float32 for table in tables)
    blocking = plan_blocking(queries.shape[0], widths, n_rows, k, copied, memory_budget)
    shape = (len(tables), queries.shape[0], k)
    scores = np.full(shape, LOWEST_SCORE, np.float32)
    positions = np.full(shape, PAD_POSITION, np.int64)
    free = queue.SimpleQueue()
    for _ in range(blocking.workers):
        free.put(_Scratch(blocking.queries, blocking.rows))
    with ThreadPoolExecutor(blocking.workers) as pool:
        for start in range(0, queries.shape[0], blocking.superblock):
            part = slice(start, start + blocking.superblock)
            _superblock(
                pool, free, blocking, queries[part], tables, k, cosine,
                (scores[:, part], positions[:, part]), advance,
            )  # fmt: skip
    return scores, positions


def _superblock(pool, free, blocking, queries, tables, k, cosine, out, advance):
    """One pass over the database for the queries of a superblock; fills `out`."""
    blocks = [
        slice(start, min(start + blocking.queries, queries.shape[0]))
        for start in range(0, queries.shape[0], blocking.queries)
    ]
    tables_of = [
        _Candidates(len(tables), block.stop - block.start, k, blocking.room) for block in blocks
    ]

    def meet(block, candidates, tile, norms, first_row):
        scratch = free.get()
        try:
            _meet(queries[block], tile, norms, candidates, scratch, first_row)
        finally:
            free.put(scratch)

    for start, stop in _tiles(tables[0].shape[0], blocking.rows):
        tile = [as_float32(table[start:stop]) for table in tables]
        squared = tile_norms(tile)
        if not np.isfinite(squared[-1]).all():
            refuse_rows(_bad_rows(tables, blocking.rows), 0)
        norms = inverse_norms(squared) if cosine else None
        jobs = [
            pool.submit(meet, *job, tile, norms, start)
            for job in zip(blocks, tables_of, strict=True)
        ]
        for job in jobs:
            job.result()
        if advance is not None:
            advance(queries.shape[0] * (stop - start))
    scales = _query_scales(queries, [table.shape[1] for table in tables], cosine)
    for block, candidates in zip(blocks, tables_of, strict=True):
        for prefix in range(len(tables)):
            best = candidates.best(prefix, scales[prefix, block])
            out[0][prefix, block], out[1][prefix, block] = best


def _query_scales(queries, widths, cosine):
    """What turns a row's score into the answer's: 1 / the query's norm, (prefixes, queries)."""
    if not cosine:
        return np.ones((len(widths), queries.shape[0]), np.float32)
    blocks = np.split(queries, np.cumsum(widths)[:-1], axis=1)
    return inverse_norms(tile_norms(blocks))


def _bad_rows(tables, rows):
    bad = [
        ~np.isfinite(tile_norms([as_float32(table[start:stop]) for table in tables])[-1])
        for start, stop in _tiles(tables[0].shape[0], rows)
    ]
    return np.concatenate(bad)
