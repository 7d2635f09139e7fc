"""The engine of exact search: block products, running sums, and the k best of every prefix.

Rows come as one table for each block of dims, so a plain matrix (column views) and a
`NestedIndex` (stored blocks) run through the same code. Tiles of rows meet blocks of queries:

    S_j = S_{j-1} + Q_j X_j^T          one matrix product for each block of dims, added up
    s_j = S_j / norm_j                 norm_j^2 = norm_{j-1}^2 + sum of squares of block j

Partitioning every tile for every prefix would cost more than the products. A tile is therefore only
compared with each query's k-th best score so far (see `Candidates`).
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from mrl_keras.retrieval.arrays import (
    LOWEST_SCORE,
    PAD_INDEX,
    as_float32,
    inverse_norms,
    refuse_rows,
    squared_norms,
)
from mrl_keras.retrieval.exact.candidates import Candidates
from mrl_keras.retrieval.exact.threads import available_cores, blas_threads, query_workers

_QUERY_BLOCK = 256
_TILE_ROWS = 4096
_FIRST_TILE_ROWS = 512
# Below this many multiplications a second thread costs more than it brings. A comparison and the
# copies around it count as much as about 64 multiplications.
_WORTH_THREADS = 1 << 29
_COMPARISON = 64


@dataclass(frozen=True)
class Blocking:
    """Sizes chosen so that the working memory stays within a budget of bytes.

    Attributes:
        queries: int, queries that one product takes.
        rows: int, database rows of a tile.
        superblock: int, queries that share one pass over the database.
        workers: int, query blocks that are worked on at the same time.
        blas_threads: int, threads of each matrix product.
    """

    queries: int
    rows: int
    superblock: int
    workers: int
    blas_threads: int


def plan_blocking(n_queries, widths, n_rows, k, copied, memory_budget) -> Blocking:
    """The largest blocking whose working memory stays within `memory_budget` bytes.

    Working memory is what the search allocates beside its inputs and its answer: for two tiles
    (one at work, one prepared) the norms and, where the database is not float32, a copy; for each
    worker the score matrices; for each query of a superblock the candidates of every prefix,
    and the best of them while they are put in order.
    """
    n_queries = max(n_queries, 1)
    prefixes, width, room = len(widths), sum(widths), Candidates.room(k)
    cores = available_cores()
    if n_queries * n_rows * (width + _COMPARISON * prefixes) < _WORTH_THREADS:
        cores = 1
    workers = query_workers(n_queries, cores)
    rows = min(_TILE_ROWS, n_rows)
    queries = min(_QUERY_BLOCK, -(-n_queries // workers))
    per_query = prefixes * (room * 8 + k * 24 + 24) + 4 * width
    while True:
        tile = rows * (16 * prefixes + (4 * width if copied else 0))
        # Four matrices of scores; a cut and the hits of a tile take copies of their own.
        scratch = queries * (rows * 13 + (room + rows) * 24)
        needed = 2 * tile + workers * scratch
        superblock = int(memory_budget - needed) // (per_query * queries) * queries
        if superblock >= queries * workers:
            return Blocking(
                queries, rows, min(superblock, n_queries), workers, max(1, cores // workers)
            )
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


class _Inline:
    """Stands in for a thread pool where one thread does everything: runs what is submitted."""

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def submit(self, function, *args):
        done = Future()
        done.set_result(function(*args))
        return done


class _Scratch:
    """The matrices one worker writes to: a block's products, their sum, scaled scores, a mask."""

    def __init__(self, queries, rows):
        self._flat = [np.empty(queries * rows, np.float32) for _ in range(3)]
        self._flat.append(np.empty(queries * rows, bool))

    def shaped(self, queries, rows):
        return tuple(part[: queries * rows].reshape(queries, rows) for part in self._flat)


@dataclass(frozen=True)
class _Tile:
    """Rows `first` to `stop` of every table, and 1 / norm of every prefix or `None`."""

    first: int
    stop: int
    blocks: list
    norms: np.ndarray | None


class NestedScan:
    """One exact search over tables of prefix blocks; `run` answers queries.

    Args:
        tables: one matrix (rows, dims of the block) for each prefix's new dims, any real dtype,
            memory-mapped or not.
        k: int, from 1 to the number of rows.
        cosine: bool, whether rows and queries are L2-normalised, each prefix by itself.
        memory_budget: int, bytes of working memory.
        inverse_norms: optional float32 (rows, prefixes), 1 / norm of every prefix of rows known
            to be finite. Without it they are computed, and the rows are checked.
        last_only: bool, whether only the widest prefix's neighbours are wanted.
        advance: optional function, called with the number of (query, row) pairs just done.
    """

    def __init__(
        self,
        tables: Sequence[np.ndarray],
        k: int,
        cosine: bool,
        memory_budget: int,
        inverse_norms: np.ndarray | None = None,
        last_only: bool = False,
        advance: Callable[[int], None] | None = None,
    ):
        self._tables, self._k, self._cosine = tuple(tables), k, cosine
        self._memory_budget, self._advance = memory_budget, advance
        self._inverse_norms = inverse_norms
        self._widths = [table.shape[1] for table in tables]
        self._rows = tables[0].shape[0]
        first = len(self._tables) - 1 if last_only else 0
        self._wanted = range(first, len(self._tables))

    def run(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The k best rows of every wanted prefix.

        Args:
            queries: float32 (queries, width), finite.

        Returns:
            (scores, indices): float32 and int64, both (prefixes, queries, k), ordered; slots
            without a row hold `LOWEST_SCORE` and `PAD_INDEX`.

        Raises:
            ValueError: non-finite rows in the tables, or a budget too small for any blocking.
        """
        copied = any(table.dtype != np.float32 for table in self._tables)
        sizes = plan_blocking(
            len(queries), self._widths, self._rows, self._k, copied, self._memory_budget
        )
        shape = (len(self._wanted), len(queries), self._k)
        scores = np.full(shape, LOWEST_SCORE, np.float32)
        indices = np.full(shape, PAD_INDEX, np.int64)
        free = queue.SimpleQueue()
        for _ in range(sizes.workers):
            free.put(_Scratch(sizes.queries, sizes.rows))
        executor = ThreadPoolExecutor(sizes.workers) if sizes.workers > 1 else _Inline()
        with blas_threads(sizes.blas_threads), executor as pool:
            for start in range(0, len(queries), sizes.superblock):
                part = slice(start, start + sizes.superblock)
                found = self._superblock(pool, free, sizes, queries[part])
                scores[:, part], indices[:, part] = found
        return scores, indices

    def _superblock(self, pool, free, sizes, queries):
        """One pass over the database for the queries of a superblock."""
        starts = range(0, len(queries), sizes.queries)
        parts = [queries[start : start + sizes.queries] for start in starts]
        held = [Candidates(len(self._wanted), len(part), self._k) for part in parts]

        def meet(part, candidates, tile):
            scratch = free.get()
            try:
                self._meet(part, tile, candidates, scratch)
            finally:
                free.put(scratch)

        edges = list(self._edges(sizes.rows))
        upcoming = pool.submit(self._tile, *edges[0])
        for following in [*edges[1:], None]:
            tile = upcoming.result()
            jobs = [pool.submit(meet, *job, tile) for job in zip(parts, held, strict=True)]
            if following is not None:
                upcoming = pool.submit(self._tile, *following)
            for job in jobs:
                job.result()
            if self._advance is not None:
                self._advance(len(queries) * (tile.stop - tile.first))
        scales = self._query_scales(queries)
        found = [
            [candidates.best(place, scales[prefix, start : start + len(part)])
             for start, part, candidates in zip(starts, parts, held, strict=True)]
            for place, prefix in enumerate(self._wanted)
        ]  # fmt: skip
        return tuple(
            np.stack([np.concatenate([best[which] for best in prefix]) for prefix in found])
            for which in range(2)
        )

    def _meet(self, queries, tile, candidates, scratch):
        """One block of queries against one tile: the scores of every prefix, and the best."""
        products, sums, scores, mask = scratch.shaped(len(queries), tile.stop - tile.first)
        low = 0
        for prefix, block in enumerate(tile.blocks):
            high = low + block.shape[1]
            # The first product starts the sum; the later ones are added to it.
            np.matmul(queries[:, low:high], block.T, out=products if low else sums)
            if low:
                np.add(sums, products, out=sums)
            low = high
            if prefix not in self._wanted:
                continue
            if tile.norms is not None:
                np.multiply(sums, tile.norms[prefix], out=scores)
            ranked = sums if tile.norms is None else scores
            candidates.add(prefix - self._wanted.start, ranked, mask, tile.first)

    def _edges(self, rows):
        """(first, stop) of the tiles. The first ones are short and double in size.

        While there is no threshold to compare with, a tile has to be partitioned whole; and a
        tile as long as all the tiles before it brings about k rows above the threshold.
        """
        first, size = 0, min(max(_FIRST_TILE_ROWS, 2 * self._k), rows)
        while first < self._rows:
            yield first, min(first + size, self._rows)
            first += size
            size = min(max(first, size), rows)

    def _tile(self, first, stop):
        blocks = [as_float32(table[first:stop]) for table in self._tables]
        if self._inverse_norms is not None:
            norms = np.ascontiguousarray(self._inverse_norms[first:stop].T)
        else:
            squared = prefix_squared_norms(blocks)
            if not np.isfinite(squared[-1]).all():
                self._refuse_non_finite(stop - first)
            norms = inverse_norms(squared)
        return _Tile(first, stop, blocks, norms if self._cosine else None)

    def _refuse_non_finite(self, rows):
        bad = [
            ~np.isfinite(
                sum(squared_norms(as_float32(table[i : i + rows])) for table in self._tables)
            )
            for i in range(0, self._rows, rows)
        ]
        refuse_rows(np.concatenate(bad), 0)

    def _query_scales(self, queries):
        """1 / each query's norm, which its rows' scores still lack, (prefixes, queries)."""
        if not self._cosine:
            return np.ones((len(self._widths), len(queries)), np.float32)
        blocks = np.split(queries, np.cumsum(self._widths)[:-1], axis=1)
        return inverse_norms(prefix_squared_norms(blocks))


def prefix_squared_norms(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Squared L2 norms of every prefix from its blocks: running sums, (prefixes, rows)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.cumsum([squared_norms(block) for block in blocks], axis=0, dtype=np.float32)
