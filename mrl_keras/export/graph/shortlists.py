"""Shortlists in the graph: by brute force, sign bits, ScaNN, and partitions in plain ops.

Each class is made from a `NestedIndex` and a `SearchPlan`, whose first dim is the prefix that it
searches. Its `find` takes the queries of one block and gives, best first,

- scores: float32 (queries, size), the score at the shortlist's prefix; `None` where the exact
  score is not known;
- running: float32 (queries, size), the dot product over the first `dims_read` dims, to which
  reranks add; minus infinity in empty slots; `None` where it is 0 in all others;
- slots: int32 (queries, size), row numbers in the shortlist's `order`; the number of rows N stands
  in empty slots, and in all slots of a query that is not `answered`, bool (queries, 1).

Where `reranks` is 1, `find` does the plan's first rerank as well, from `candidates` rows. `few`
says that the block is of a few queries.

`asks` says which queries `find` takes: as "given", whatever their values; of "unit" length; or
"scored", whose product with a row is its score, before the row's norm. `reads` is an int, the first
dims of a query that it needs.

`order` is an int array (rows,): the rows of the index in the order in which the shortlist numbers
them, leaf by leaf, so that the rows of one query lie close together in every table; or `None` for
the index's own order.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mrl_keras.export.graph.scann_resource import ScannParts, ScannResource
from mrl_keras.export.graph.tables import PrefixTable, first_dims, variable_from_array
from mrl_keras.retrieval.partition.leaves import leaf_order
from mrl_keras.retrieval.scann.rows import REORDER_WEIGHT
from mrl_keras.retrieval.scann.searcher import scann_ops
from mrl_keras.retrieval.signs import WORD_BITS

MINUS_INFINITY = float("-inf")
_CHUNK_BYTES, _CHUNK_ROWS = 8 << 20, 32_768
_PARALLEL_FROM = 64
_QUERIES_AT_ONCE = 4


def _scores(products, norms):
    """Scores of rows from their dot products with the query and the rows' inverse norms."""
    return products if norms is None else products * norms


def _pad_columns(values, size, fill):
    if isinstance(size, int):  # two ops in place of six
        return tf.pad(values, [[0, 0], [0, size]], constant_values=fill)[:, :size]
    missing = tf.maximum(size - tf.shape(values)[1], 0)
    return tf.pad(values, [[0, 0], [0, missing]], constant_values=fill)


class ExactShortlist(tf.Module):
    """Brute force over the prefix, a chunk of rows at a time."""

    kind, asks, reranks, order = "exact", "scored", 0, None
    num_leaves = default_leaves = 1

    def __init__(self, index, plan):
        super().__init__(name="exact_shortlist")
        self.dims_read = self.reads = plan.shortlist_dim
        self.n_rows = len(index)
        self.table = PrefixTable(index, 0, plan.shortlist_dim)
        self._chunk = min(_CHUNK_ROWS, max(256, _CHUNK_BYTES // (4 * self.table.rows.shape[1])))

    def find(self, queries, answered, size, leaves, candidates=None, few=False):
        del leaves, candidates, few
        part = self.table.query_part(queries)
        count = tf.shape(queries)[0]
        empty = (
            tf.fill([count, size], MINUS_INFINITY),
            tf.fill([count, size], MINUS_INFINITY),
            tf.fill([count, size], self.n_rows),
        )
        shape = tf.TensorShape([None, None])

        def scan(start, *best):
            return start + self._chunk, *self._merge(part, start, size, best)

        loop = tf.while_loop(
            lambda start, *_: start < self.n_rows,
            scan,
            (0, *empty),
            shape_invariants=(tf.TensorShape([]), shape, shape, shape),
            parallel_iterations=1,
        )
        *scores, slots = loop[1:]
        return *scores, tf.where(answered, slots, self.n_rows)

    def _merge(self, part, start, size, best):
        """The `size` best of `best` and of one chunk of rows."""
        stop = tf.minimum(start + self._chunk, self.n_rows)
        norms = None if self.table.norms is None else self.table.norms[start:stop]
        products = tf.matmul(part, self.table.values(self.table.rows[start:stop]), transpose_b=True)
        scores, slots = tf.math.top_k(_scores(products, norms), tf.minimum(size, stop - start))
        found = (scores, tf.gather(products, slots, batch_dims=1), start + slots)
        scores, running, slots = (tf.concat(both, axis=1) for both in zip(best, found, strict=True))
        scores, kept = tf.math.top_k(scores, size)
        return (
            scores,
            tf.gather(running, kept, batch_dims=1),
            tf.gather(slots, kept, batch_dims=1),
        )


class SignShortlist(tf.Module):
    """The rows whose sign bits differ least, a chunk of rows at a time, in plain ops.

    The index has a shortlist of sign bits (`SignSearcher`).
    """

    kind, asks, reranks, order = "signs", "given", 0, None
    num_leaves = default_leaves = 1
    dims_read = 0

    def __init__(self, index, plan):
        super().__init__(name="sign_shortlist")
        del plan
        searcher, self.n_rows = index.shortlist, len(index)
        self.reads, self._words = searcher.dim, searcher.codes.shape[1]
        self.codes = variable_from_array(searcher.codes.view(np.int64), "sign_codes")
        self.thresholds = variable_from_array(searcher.thresholds, "sign_thresholds")

    def find(self, queries, answered, size, leaves, candidates=None, few=False):
        del leaves, candidates, few
        asked, count = self._packed(first_dims(queries, self.reads)), tf.shape(queries)[0]
        row_bytes = 8 * self._words * tf.maximum(count, 1)
        chunk = tf.clip_by_value(_CHUNK_BYTES // row_bytes, 256, _CHUNK_ROWS)
        farthest = tf.fill([count, size], -WORD_BITS * self._words - 1)
        shape = tf.TensorShape([None, None])

        def scan(start, nearness, slots):
            stop = tf.minimum(start + chunk, self.n_rows)
            differing = tf.bitwise.bitwise_xor(asked[:, None], self.codes[start:stop])
            bits = tf.cast(tf.raw_ops.PopulationCount(x=differing), tf.int32)
            # Of equal ones top_k takes the first, which is the lowest row.
            new, places = tf.math.top_k(-tf.reduce_sum(bits, -1), tf.minimum(size, stop - start))
            nearness = tf.concat([nearness, new], axis=1)
            slots = tf.concat([slots, start + places], axis=1)
            nearness, kept = tf.math.top_k(nearness, size)
            return stop, nearness, tf.gather(slots, kept, batch_dims=1)

        _, _, slots = tf.while_loop(
            lambda start, *_: start < self.n_rows,
            scan,
            (0, farthest, tf.fill([count, size], self.n_rows)),
            shape_invariants=(tf.TensorShape([]), shape, shape),
            parallel_iterations=1,
        )
        return None, None, tf.where(answered, slots, self.n_rows)

    def _packed(self, prefixes):
        """`packed_signs` of the queries, int64 (queries, words)."""
        bits = tf.cast(prefixes > self.thresholds, tf.int64)
        bits = tf.pad(bits, [[0, 0], [0, WORD_BITS * self._words - self.reads]])
        bits = tf.reshape(bits, [-1, self._words, WORD_BITS])
        return tf.reduce_sum(tf.bitwise.left_shift(bits, tf.range(WORD_BITS, dtype=tf.int64)), -1)


class ScannShortlist(tf.Module):
    """ScaNN's own searcher over the L2-normalised prefix; needs its custom ops.

    The index has a ScaNN shortlist. ScaNN does the plan's first rerank where it can.
    """

    kind, asks = "scann", "unit"
    dims_read = 0

    def __init__(self, index, plan):
        super().__init__(name="scann_shortlist")
        parameters = index.shortlist.parameters
        self.n_rows, self._dim, self.reads = len(index), index.shortlist.dim, index.shortlist.width
        self.reranks = int(index.shortlist.reranks(plan))
        self.num_leaves, self.default_leaves = parameters.num_leaves, parameters.leaves_to_search
        self.parts = ScannParts(index.shortlist)
        self.order = self.parts.order
        self.searcher = ScannResource(self.parts)

    def _scann_queries(self, queries):
        """As `searcher_queries`."""
        asked = first_dims(queries, self.reads)
        if self.reads == self._dim:
            return asked
        return tf.concat([queries[:, : self._dim], REORDER_WEIGHT * asked], axis=1)

    def find(self, queries, answered, size, leaves, candidates=None, few=False):
        _, ops = scann_ops()
        handle = self.searcher.handle()
        found = tf.minimum(size, self.n_rows)
        candidates = tf.minimum(size if candidates is None else candidates, self.n_rows)
        # The serial search refuses an empty batch, the parallel one answers it.
        parallel = tf.size(queries) < 1
        if not few:
            parallel |= tf.shape(queries)[0] >= _PARALLEL_FROM

        def search(asked, answered):
            slots, scores = ops.scann_search_batched(
                handle, asked, found, candidates, leaves, parallel
            )
            for part in (slots, scores):
                part.set_shape([None, None])  # the op's own shapes are unknown
            # ScaNN fills short rows with index 0 and score NaN, which would read as row 0.
            slots = tf.where(tf.equal(scores, scores) & answered, slots, self.n_rows)
            # Leaves with few rows, and no queries, give fewer columns.
            return _pad_columns(slots, size, self.n_rows)

        asked = self._scann_queries(queries)
        if few:
            return None, None, search(asked, answered)
        # ScaNN's pool has a thread less than there are cores: on two cores it would use one.
        half = (tf.shape(queries)[0] + 1) // 2
        slots = [search(asked[p], answered[p]) for p in (slice(None, half), slice(half, None))]
        return None, None, tf.concat(slots, axis=0)


class PartitionShortlist(tf.Module):
    """The leaves of a partition or of ScaNN's tree, searched exactly and without custom ops.

    A query opens the leaves whose centres have the highest inner product with its prefix, as
    `Leaves.open` and ScaNN do, and scores every row in them once. Each leaf is one run of memory;
    rows that are in it as their second leaf are gathered. The index has a `PartitionSearcher` or a
    `ScannSearcher`.
    """

    kind, asks, reranks = "partition", "scored", 0

    def __init__(self, index, plan):
        super().__init__(name="partition_shortlist")
        leaves = index.shortlist.partition()
        self.order = leaves.order
        self.n_rows, self.dims_read = len(index), plan.shortlist_dim
        self.num_leaves, self._centre_dim = leaves.centres.shape
        self.reads = max(self._centre_dim, self.dims_read)
        self.default_leaves = index.shortlist.parameters.leaves_to_search
        self.table = PrefixTable(index, 0, self.dims_read, self.order)
        self.centres = variable_from_array(leaves.centres, "centres")
        self.starts = variable_from_array(leaves.starts, "leaf_starts")
        self.spilled = None
        if leaves.spilled is not None:
            slots = leaf_order(self.order)[leaves.spilled]
            self.spilled = variable_from_array(slots, "spilled")
            self.spilled_starts = variable_from_array(leaves.spilled_starts, "spilled_starts")
            first = leaves.tokens[leaves.spilled, 0]
            self.spilled_first = variable_from_array(first, "spilled_first")

    def find(self, queries, answered, size, leaves, candidates=None, few=False):
        del candidates, few
        prefix = first_dims(queries, self._centre_dim)
        opened = tf.math.top_k(tf.matmul(prefix, self.centres, transpose_b=True), leaves).indices
        part = self.table.query_part(queries)
        # map_fn cannot stack no results, so an empty batch gets one row, which is cut off again.
        count = tf.shape(queries)[0]
        extra = [[0, tf.maximum(1 - count, 0)], [0, 0]]
        found = tf.map_fn(
            lambda one: self._search_leaves(*one, size),
            (tf.pad(part, extra), tf.pad(opened, extra)),
            fn_output_signature=tuple(
                tf.TensorSpec([None], dtype) for dtype in (tf.float32, tf.float32, tf.int32)
            ),
            parallel_iterations=_QUERIES_AT_ONCE,
        )
        *scores, slots = (values[:count] for values in found)
        return *scores, tf.where(answered, slots, self.n_rows)

    def _search_leaves(self, query, opened, size):
        """The best rows of one query's leaves, padded to `size`."""
        places = _runs(self.starts, opened)
        if self.spilled is not None:
            places = tf.concat([places, self._spilled_into(opened)], axis=0)
        norms = None if self.table.norms is None else tf.gather(self.table.norms, places)
        rows = tf.gather(self.table.rows, places)
        products = tf.linalg.matvec(self.table.values(rows), query)
        count = tf.minimum(size, tf.shape(places)[0])
        scores, kept = tf.math.top_k(_scores(products, norms), count)
        missing = [[0, size - count]]
        return (
            tf.pad(scores, missing, constant_values=MINUS_INFINITY),
            tf.pad(tf.gather(products, kept), missing, constant_values=MINUS_INFINITY),
            tf.pad(tf.gather(places, kept), missing, constant_values=self.n_rows),
        )

    def _spilled_into(self, opened):
        """The slots whose second leaf is open and whose first one is not."""
        places = _runs(self.spilled_starts, opened)
        is_open = tf.reduce_any(opened[:, None] == tf.range(self.num_leaves), axis=0)
        new = ~tf.gather(is_open, tf.gather(self.spilled_first, places))
        return tf.boolean_mask(tf.gather(self.spilled, places), new)


def _runs(starts, opened):
    """The places from `starts[l]` to `starts[l + 1]` of each opened leaf l, one after another."""
    return tf.ragged.range(tf.gather(starts, opened), tf.gather(starts, opened + 1)).values
