"""Exact search that leaves a row as soon as its widest score cannot be among the k best.

The dims after a prefix can add no more than the product of the norms of the two tails:

    <q, x>  <=  <q[:m], x[:m]> + |q[m:]| |x[m:]|                      (Cauchy-Schwarz)

so a row whose bound lies below a query's k-th best score is out, and its other dims are never read.
A Matryoshka embedding has most of its energy in its first dims, where the bound becomes tight.

For a block of queries:

1. One product bounds all rows: the rows' tails stand beside a small prefix as one column more. Only
   the highest bound of each group of neighbouring rows is kept.
2. The rows nearest by that prefix, of the groups with the highest bounds, are the seeds; the k-th
   best of their widest scores is the threshold.
3. Rows of groups that reach the threshold are bounded one by one; what survives is read block by
   block of dims, and bounded again after each.

Each query is judged on a sample of the rows first. One whose rows mostly survive the small prefix,
as on noise, is bounded by a wider one, over whole tiles of rows; the widest is an ordinary scan.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from mrl_keras.retrieval.arrays import (
    LOWEST_SCORE,
    PAD_INDEX,
    as_float32,
    order_rows,
    squared_norms,
)
from mrl_keras.retrieval.exact.threads import available_cores, blas_threads, query_workers
from mrl_keras.retrieval.exact.unread import SLACK, SQUARE_SLACK, UnreadBound

_TILE_ROWS, _QUERY_BLOCK, _SAMPLE_ROWS = 4096, 256, 1024
_LEAST_ROWS, _TILE_SCORES = 256, 1 << 18
"""Rows of a tile that is bounded by a wider prefix, and scores of it."""
_GROUP_ROWS, _MOST_GROUPS = 16, 1 << 16
_SEEDS = 4
"""Seeds of each query, in multiples of k."""
_SEED_GROUPS = 16
"""Groups of rows that seeds are taken from, at least."""
_FEW_GROUPS = 1 / 128
"""Share of the groups that may reach a threshold before other prefixes than the small one are
judged."""
_COMPARISON = 64
"""What comparing a score and taking it out costs, in multiplications of a matrix product."""
_GATHERED = 32
"""What a multiplication of a gathered row costs, in those of a matrix product."""
_PAIRS_AT_ONCE = 1 << 14


class PrunedScores(NamedTuple):
    """The answer of a pruned scan; scores are not divided by the queries' norms.

    Attributes:
        scores: float32 (queries, k), best first.
        indices: int64 (queries, k); ties by ascending index.
        dims_read: float64 (queries,), dims of the widest prefix that were read of a row, on
            average over all rows, the seeds' included; the small prefix counts twice for a query
            that is bounded by a wider one.
    """

    scores: np.ndarray
    indices: np.ndarray
    dims_read: np.ndarray


class PrunedScan:
    """Exact search of the widest prefix over tables of prefix blocks.

    It holds a float32 copy of the first dims: a sixteenth of all, or 16 of fewer than 256, in whole
    blocks.

    Args:
        tables: one matrix (rows, dims of the block) for each prefix's new dims.
        norms: float32 (rows, prefixes), the L2 norm of every prefix of a row.
        cosine: bool, whether a row's score is divided by its norm.
    """

    def __init__(self, tables: Sequence[np.ndarray], norms: np.ndarray, cosine: bool):
        self._tables, self._cosine = tuple(tables), cosine
        self._rows = len(norms)
        self._edges = np.cumsum([0, *(table.shape[1] for table in tables)])
        width = int(self._edges[-1])
        self._whole = np.ascontiguousarray(norms[:, -1])
        self._row_tails = [self._tails_of(prefix) for prefix in norms[:, :-1].T]
        self._row_tails.append(np.zeros_like(self._whole))
        # What a bound is compared with: scores times this are at most 1 in size for both metrics.
        self._scale = self._whole if cosine else np.ones_like(self._whole)
        self._front_level = self._widest_within(min(max(width // 16, 16), width // 2))
        self._group = max(_GROUP_ROWS, -(-self._rows // _MOST_GROUPS))

    @functools.cached_property
    def _front(self):
        """The small prefix of each row and its tail, divided by the row's norm if scores are.

        (groups, rows of a group, dims + 1); zeros after the last row.
        """
        dim, groups = self._edges[self._front_level], -(-self._rows // self._group)
        front = np.zeros((groups * self._group, dim + 1), np.float32)
        columns = [
            *self._tables[: self._front_level],
            self._row_tails[self._front_level - 1][:, None],
        ]
        for first in range(0, self._rows, _TILE_ROWS):
            part = slice(first, min(first + _TILE_ROWS, self._rows))
            front[part] = np.concatenate([as_float32(column[part]) for column in columns], axis=1)
            front[part] = self._divided(front[part], np.arange(part.start, part.stop)[:, None])
        return front.reshape(groups, self._group, dim + 1)

    @functools.cached_property
    def _sample(self):
        """(rows, their blocks in float32)."""
        generator = np.random.default_rng(0)
        count = min(_SAMPLE_ROWS, self._rows)
        rows = np.sort(generator.choice(self._rows, count, replace=False))
        return rows, [as_float32(np.take(table, rows, axis=0)) for table in self._tables]

    def run(self, queries: np.ndarray, k: int) -> PrunedScores:
        """The k best rows of each query.

        Args:
            queries: float32 (queries, width), finite.
            k: int, from 1 to the number of rows.
        """
        answer = _no_answer(len(queries), k)
        cores = available_cores()
        workers = query_workers(len(queries), cores)
        size = max(1, min(_QUERY_BLOCK, -(-len(queries) // workers)))
        blocks = [
            np.arange(start, min(start + size, len(queries)))
            for start in range(0, len(queries), size)
        ]
        if blocks:
            self._front.size  # noqa: B018 - made before threads ask for it, each for itself
        with blas_threads(max(1, cores // workers)), ThreadPoolExecutor(workers) as pool:
            left = list(pool.map(lambda block: self._block(queries, block, k, answer), blocks))
            if not left:
                return answer
            numbers, thresholds, levels = map(np.concatenate, zip(*left, strict=True))
            for level in np.unique(levels):
                chosen = levels == level
                self._scan(queries, numbers[chosen], thresholds[chosen], level, k, answer, pool.map)
        return answer

    def rerank(self, queries: np.ndarray, candidates: np.ndarray, k: int) -> PrunedScores:
        """The k best candidates of each query; `dims_read` is an average over its candidates.

        Args:
            queries: float32 (queries, width), finite.
            candidates: int64 (queries, m), distinct rows, best first by some prefix; -1 in the
                last slots where there are fewer.
            k: int, at least 1; slots that no candidate fills hold the lowest float32 and -1.
        """
        counts = (candidates >= 0).sum(axis=1)
        answer = _no_answer(len(queries), k)
        for count in np.unique(counts[counts > 0]):
            some = np.flatnonzero(counts == count)
            for start in range(0, len(some), _QUERY_BLOCK):
                chosen = some[start : start + _QUERY_BLOCK]
                self._rerank_block(queries, chosen, candidates[chosen, :count], k, answer)
        return answer

    def _rerank_block(self, queries, numbers, candidates, k, answer):
        """Answers some queries that have equally many candidates."""
        asked, count = queries[numbers], candidates.shape[1]
        k, seeds = min(k, count), min(_SEEDS * k, count)
        kth = self._kth_best(asked, candidates[:, :seeds], k)
        owners, rows = np.repeat(np.arange(len(asked)), count), candidates.reshape(-1)
        read = np.full(len(asked), float(seeds * self._edges[-1]))
        pairs = owners, rows, np.zeros(len(rows), np.float32)
        thresholds, tails = kth - self._rounding(asked), self._query_tails(asked)
        pairs = self._later(0, pairs, asked, tails, thresholds, read)
        scores, indices = self._best(asked, k, *pairs)
        answer.scores[numbers, :k], answer.indices[numbers, :k] = scores, indices
        answer.dims_read[numbers] = read / count

    @functools.cached_property
    def unread(self) -> dict[int, UnreadBound]:
        """{dim of a prefix: what bounds the rows that its score leaves unread}."""
        return {
            int(dim): UnreadBound.of_rows(dim, self._cosine, tails, self._whole)
            for dim, tails in zip(self._edges[1:], self._row_tails, strict=True)
        }

    def _block(self, queries, block, k, answer):
        """Answers the queries of a block for which the small prefix is the cheapest one.

        Returns:
            (numbers, thresholds, levels) of the others.
        """
        asked = queries[block]
        tails = self._query_tails(asked)
        maxima = self._group_maxima(asked, tails)
        seeded, seeds = self._seeds(maxima, asked, k)
        thresholds = seeded - self._rounding(asked)
        reached = maxima >= thresholds
        answer.dims_read[block] = self._edges[self._front_level] + seeds / self._rows
        levels = np.full(len(block), self._front_level)
        doubtful = np.flatnonzero(reached.mean(axis=0) > _FEW_GROUPS)
        levels[doubtful] = self._cheapest_levels(
            asked[doubtful], tails[:, doubtful], thresholds[doubtful]
        )
        near, others = levels == self._front_level, levels != self._front_level
        pairs, read = self._surviving(
            asked[near], tails[:, near], thresholds[near], reached[:, near]
        )
        self._store(answer, queries, block[near], k, pairs, read)
        return block[others], thresholds[others], levels[others]

    def _store(self, answer, queries, numbers, k, pairs, read):
        """Writes the k best of the pairs (owners, rows, scores) of some queries, and the reads."""
        scores, indices = self._best(queries[numbers], k, *pairs)
        answer.scores[numbers], answer.indices[numbers] = scores, indices
        answer.dims_read[numbers] += read / self._rows

    def _rounding(self, queries):
        """How far below its true value a score may be computed, float32 (queries,)."""
        norms = np.sqrt(squared_norms(queries))
        return np.float32(SLACK) * (norms if self._cosine else norms * self._whole.max())

    def _query_tails(self, queries):
        """The norm of what each prefix of a query leaves out, (prefixes, queries); last zeros."""
        squares = [squared_norms(queries[:, low:]) for low in self._edges[1:]]
        return np.sqrt(np.array(squares, "float32"))

    def _tails_of(self, prefix):
        """An upper bound on the norm of what a prefix of each row leaves out.

        Squares are rounded to some 1e-7 of |x|^2; `SQUARE_SLACK` keeps the bound an upper one.
        """
        squares = self._whole**2
        return np.sqrt(np.maximum(squares - prefix**2, 0.0) + np.float32(SQUARE_SLACK) * squares)

    def _front_queries(self, queries, tails):
        """Queries as `_front` needs them, (queries, dims + 1)."""
        level = self._front_level
        return np.concatenate([queries[:, : self._edges[level]], tails[level - 1][:, None]], axis=1)

    def _group_maxima(self, queries, tails):
        """The highest bound of each group of rows, (groups, queries)."""
        right = np.ascontiguousarray(self._front_queries(queries, tails).T)
        maxima = np.empty((len(self._front), len(queries)), np.float32)
        step = max(1, _TILE_ROWS // self._group)
        for first in range(0, len(maxima), step):
            groups = self._front[first : first + step]
            bounds = groups.reshape(-1, groups.shape[2]) @ right
            np.max(
                bounds.reshape(len(groups), self._group, -1),
                axis=1,
                out=maxima[first : first + step],
            )
        return maxima

    def _seeds(self, maxima, queries, k):
        """(each query's k-th best score among its seeds, dims read for one query's)."""
        count = min(_SEEDS * k, self._rows)
        groups = min(len(maxima), max(_SEED_GROUPS, -(-2 * count // self._group)) + 1)
        best = np.argpartition(-maxima.T, groups - 1, axis=1)[:, :groups]
        rows = (best[:, :, None] * self._group + np.arange(self._group)).reshape(len(queries), -1)
        dim = self._edges[self._front_level]
        near = np.empty(rows.shape, np.float32)
        for query in range(len(queries)):
            near[query] = (self._front[best[query], :, :dim] @ queries[query, :dim]).reshape(-1)
        near[rows >= self._rows] = -np.inf
        place = np.argpartition(-near, count - 1, axis=1)[:, :count]
        rows = np.take_along_axis(rows, place, axis=1)
        return self._kth_best(queries, rows, k), count * int(self._edges[-1])

    def _kth_best(self, queries, rows, k):
        """The k-th best score of each query among its own rows (queries, seeds)."""
        owners = np.repeat(np.arange(len(queries)), rows.shape[1])
        scores = self._scores(queries, owners, rows.reshape(-1)).reshape(rows.shape)
        return np.partition(scores, -k, axis=1)[:, -k]

    def _divided(self, products, rows):
        """Products as scores: divided by the norms of their rows where the metric is cosine."""
        if not self._cosine:
            return products
        norms = np.broadcast_to(self._whole[rows], products.shape)
        return np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)

    def _widest_within(self, dim):
        """Blocks of the widest prefix within `dim` dims, at least one."""
        return max(1, int(np.searchsorted(self._edges, dim, side="right")) - 1)

    def _cheapest_levels(self, queries, tails, thresholds):
        """How many blocks the first bound of each query reads, by what a sample would cost."""
        rows, blocks = self._sample
        sums = np.zeros((len(queries), len(rows)), np.float32)
        alive = np.zeros((len(blocks), len(queries)))
        for level, block in enumerate(blocks):
            sums += queries[:, self._edges[level] : self._edges[level + 1]] @ block.T
            bound = sums + tails[level][:, None] * self._row_tails[level][rows]
            alive[level] = (bound >= thresholds[:, None] * self._scale[rows]).mean(axis=1)
        # after the first bound at a level: the gathered blocks of all later ones
        later = alive[:-1] * _GATHERED * np.diff(self._edges)[1:, None]
        costs = np.zeros_like(alive)
        costs[:-1] = np.cumsum(later[::-1], axis=0)[::-1]
        first = self._front_level
        costs[first:] += self._edges[first + 1 :, None] + _COMPARISON
        return np.argmin(costs[first - 1 :], axis=0) + first

    def _surviving(self, queries, tails, thresholds, reached):
        """((owners, rows, scores) of the pairs that reach the thresholds, dims read).

        Args:
            reached: bool (groups, queries), the groups whose highest bound does.
        """
        level, dim = self._front_level, self._edges[self._front_level]
        right = self._front_queries(queries, tails)
        every = []
        asking, groups = np.nonzero(reached.T)
        step = max(1, _PAIRS_AT_ONCE // self._group)
        read = np.zeros(len(queries))
        for start in range(0, len(groups), step):
            part, owners = groups[start : start + step], asking[start : start + step]
            front = np.take(self._front, part, axis=0)
            bounds = np.matmul(front, right[owners][:, :, None])[..., 0]
            place, column = np.nonzero(bounds >= thresholds[owners, None])
            rows = part[place] * self._group + column
            products = bounds[place, column] - front[place, column, dim] * right[owners[place], dim]
            if self._cosine:
                products *= self._scale[np.minimum(rows, self._rows - 1)]
            there = rows < self._rows
            pairs = owners[place[there]], rows[there], products[there]
            every.append(self._later(level, pairs, queries, tails, thresholds, read))
        return _joined(every), read

    def _scan(self, queries, numbers, thresholds, level, k, answer, run_all):
        """Answers some queries by bounding all rows by a prefix, in products of whole tiles.

        A tile stays in a core's cache. After each round of tiles, as many rows as all before it,
        the thresholds rise to the k-th best scores so far.
        """
        asked, row_tails = queries[numbers], self._row_tails[level - 1]
        tails, slack = self._query_tails(asked), self._rounding(asked)
        spans = list(zip(self._edges, self._edges[1:], self._tables[:level], strict=False))
        size = max(_LEAST_ROWS, min(_TILE_ROWS, _TILE_SCORES // len(asked)))

        def tile(first, stop):
            part = slice(first, min(first + size, stop))
            sums = None
            for low, high, table in spans:
                product = asked[:, low:high] @ as_float32(table[part]).T
                sums = product if sums is None else np.add(sums, product, out=sums)
            # bound >= threshold * scale, as one product of two columns added to the sums
            margins = left @ np.stack([row_tails[part], self._scale[part]])
            pairs = np.flatnonzero(np.add(margins, sums, out=margins) >= 0.0)
            owners, columns = np.divmod(pairs, sums.shape[1])
            read = np.zeros(len(asked))
            pairs = owners, first + columns, sums.reshape(-1)[pairs]
            return self._later(level, pairs, asked, tails, thresholds, read), read

        start, pairs = 0, _joined([])
        while start < self._rows:
            left = np.stack([tails[level - 1], -thresholds], axis=1)
            stop = min(max(2 * start, size), self._rows)
            found, reads = zip(
                *run_all(tile, range(start, stop, size), itertools.repeat(stop)), strict=True
            )
            answer.dims_read[numbers] += sum(reads) / self._rows
            owners, rows, scores = _joined([pairs, *found])
            thresholds = np.maximum(thresholds, _kth(len(asked), k, owners, rows, scores) - slack)
            near = scores >= thresholds[owners]
            start, pairs = stop, (owners[near], rows[near], scores[near])
        self._store(answer, queries, numbers, k, pairs, float(self._edges[level] * self._rows))

    def _later(self, level, pairs, queries, tails, thresholds, read):
        """(owners, rows, scores) of pairs that reach the thresholds by all later prefixes.

        Args:
            pairs: (owners, rows, products), ints and float32, the products of the first blocks.
            read: float64 (queries,), dims read; what is read here is added.
        """
        owners, rows, products = pairs
        for later in range(level, len(self._tables)):
            if not owners.size:
                break
            low, high = self._edges[later : later + 2]
            read += np.bincount(owners, minlength=len(queries)) * float(high - low)
            asked = np.ascontiguousarray(queries[:, low:high])
            products = products + self._pair_products(self._tables[later], rows, asked, owners)
            bound = products + tails[later][owners] * self._row_tails[later][rows]
            alive = bound >= thresholds[owners] * self._scale[rows]
            owners, rows, products = owners[alive], rows[alive], products[alive]
        return owners, rows, self._divided(products, rows)

    @staticmethod
    def _pair_products(table, rows, queries, owners):
        """The inner products of some (query, row) pairs over one table, float32 (pairs,)."""
        found = np.empty(len(rows), np.float32)
        step = max(1, (_PAIRS_AT_ONCE << 6) // table.shape[1])
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            taken = as_float32(np.take(table, rows[part], axis=0))
            found[part] = np.einsum("pd,pd->p", taken, queries[owners[part]])
        return found

    def _scores(self, queries, owners, rows):
        """The scores of some (query, row) pairs, summed in one order for every pair."""
        scores = np.zeros(len(rows), np.float32)
        for low, high, table in zip(self._edges, self._edges[1:], self._tables, strict=False):
            asked = np.ascontiguousarray(queries[:, low:high])
            scores += self._pair_products(table, rows, asked, owners)
        return self._divided(scores, rows)

    def _best(self, queries, k, owners, rows, scores):
        """(scores, indices) of the k best of each query; at least k pairs of each are given.

        What is within the rounding of the k best is scored anew, so that equal rows tie.
        """
        kth = _kth(len(queries), k, owners, rows, scores)
        near = scores >= (kth - 2 * self._rounding(queries))[owners]
        owners, rows = owners[near], rows[near]
        scores = self._scores(queries, owners, rows)
        starts, order = _ranked(len(queries), owners, rows, scores)
        places = order[starts[:, None] + np.arange(k)]
        return order_rows(scores[places], rows[places])


def _no_answer(queries, k):
    """Empty slots for the `k` best rows of each query, and nothing read."""
    return PrunedScores(
        np.full((queries, k), LOWEST_SCORE, np.float32),
        np.full((queries, k), PAD_INDEX, np.int64),
        np.zeros(queries),
    )


def _ranked(count, owners, rows, scores):
    """(where each of `count` owners starts, the order): best first, ties by ascending row."""
    order = np.lexsort((rows, -scores, owners))
    return np.searchsorted(owners[order], np.arange(count)), order


def _kth(count, k, owners, rows, scores):
    """The k-th best score of each owner, float32 (count,); the lowest float32 of one with fewer."""
    starts, order = _ranked(count, owners, rows, scores)
    enough = np.bincount(owners, minlength=count) >= k
    found = np.full(count, LOWEST_SCORE, np.float32)
    found[enough] = scores[order][starts[enough] + k - 1]
    return found


def _joined(parts):
    """The concatenation of (owners, rows, scores); empty arrays where there are none."""
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    return tuple(map(np.concatenate, zip(*parts, strict=True)))
