"""Shortlists in the graph: by brute force, by ScaNN, and by ScaNN's partition in plain ops.

Each class is made from a `NestedIndex` and a `SearchPlan`, whose first dim is the prefix that it
searches. Its `find` takes the queries of one block and gives, best first,

- scores: float32 (queries, size), the score at the shortlist's prefix, before the division by
  the query's norm; `None` where the exact score is not known;
- running: float32 (queries, size), the dot product over the first `dims_read` dims, to which
  reranks add; minus infinity in empty slots;
- slots: int32 (queries, size), row numbers in the shortlist's `order`; the number of rows N stands
  in empty slots.

Where `reranks` is 1, `find` does the plan's first rerank as well, from `candidates` rows.

`order` is an int array (rows,): the rows of the index in the order in which the shortlist numbers
them, leaf by leaf, so that the rows of one query lie close together in every table; or `None` for
the index's own order.
"""

from __future__ import annotations

import tensorflow as tf

from mrl_keras.export.graph.scann_resource import ScannParts, ScannResource
from mrl_keras.export.graph.tables import PrefixTable, variable_from_array
from mrl_keras.retrieval.scann.rows import SHORTLIST_WEIGHT
from mrl_keras.retrieval.scann.searcher import scann_ops

MINUS_INFINITY = float("-inf")
_CHUNK_BYTES, _CHUNK_ROWS = 8 << 20, 32_768
_PARALLEL_FROM = 64
_QUERIES_AT_ONCE = 4


def unit_rows(queries: tf.Tensor) -> tf.Tensor:
    """Each row divided by its L2 norm; zero rows stay zero."""
    return tf.math.divide_no_nan(queries, tf.norm(queries, axis=-1, keepdims=True))


def _scores(table, rows, products):
    """Scores of the gathered float32 `rows` from their dot products with the query."""
    norms = table.inverse_norms(rows)
    return products if norms is None else products * norms


def _pad_columns(values, size, fill):
    missing = tf.maximum(size - tf.shape(values)[1], 0)
    return tf.pad(values, [[0, 0], [0, missing]], constant_values=fill)


class ExactShortlist(tf.Module):
    """Brute force over the prefix, a chunk of rows at a time."""

    kind, reranks, order = "exact", 0, None
    num_leaves = default_leaves = 1

    def __init__(self, index, plan):
        super().__init__(name="exact_shortlist")
        self.dims_read, self.n_rows = plan.shortlist_dim, len(index)
        self.table = PrefixTable(index, 0, plan.shortlist_dim)
        self._chunk = min(_CHUNK_ROWS, max(256, _CHUNK_BYTES // (4 * self.table.rows.shape[1])))

    def find(self, queries, size, leaves, candidates=None):
        del leaves, candidates
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
        return loop[1:]

    def _merge(self, part, start, size, best):
        """The `size` best of `best` and of one chunk of rows."""
        stop = tf.minimum(start + self._chunk, self.n_rows)
        rows = tf.cast(self.table.rows[start:stop], tf.float32)
        products = tf.matmul(part, rows, transpose_b=True)
        scores, slots = tf.math.top_k(
            _scores(self.table, rows, products), tf.minimum(size, stop - start)
        )
        found = (scores, tf.gather(products, slots, batch_dims=1), start + slots)
        scores, running, slots = (tf.concat(both, axis=1) for both in zip(best, found, strict=True))
        scores, kept = tf.math.top_k(scores, size)
        return (
            scores,
            tf.gather(running, kept, batch_dims=1),
            tf.gather(slots, kept, batch_dims=1),
        )


class ScannShortlist(tf.Module):
    """ScaNN's own searcher over the L2-normalised prefix; needs its custom ops.

    The index has a ScaNN shortlist. ScaNN does the plan's first rerank where it can.
    """

    kind = "scann"
    dims_read = 0

    def __init__(self, index, plan):
        super().__init__(name="scann_shortlist")
        parameters = index.shortlist.parameters
        self.n_rows, self._dim, self._width = len(index), index.shortlist.dim, index.shortlist.width
        self.reranks = int(index.shortlist.reranks(plan))
        self.num_leaves, self.default_leaves = parameters.num_leaves, parameters.leaves_to_search
        self.parts = ScannParts(index.shortlist)
        self.order = self.parts.order
        self.searcher = ScannResource(self.parts)

    def _scann_queries(self, queries):
        prefix = unit_rows(queries[:, : self._dim])
        if self._width == self._dim:
            return prefix
        return tf.concat([SHORTLIST_WEIGHT * prefix, unit_rows(queries[:, : self._width])], axis=1)

    def find(self, queries, size, leaves, candidates=None):
        _, ops = scann_ops()
        found, count = tf.minimum(size, self.n_rows), tf.shape(queries)[0]
        candidates = tf.minimum(size if candidates is None else candidates, self.n_rows)
        # The serial search refuses an empty batch, the parallel one answers it.
        parallel = (count < 1) | (count >= _PARALLEL_FROM)
        slots, scores = ops.scann_search_batched(
            self.searcher.handle(),
            self._scann_queries(queries),
            found,
            candidates,
            leaves,
            parallel,
        )
        slots, scores = (tf.ensure_shape(part, [None, None]) for part in (slots, scores))
        # ScaNN fills short rows with index 0 and score NaN, which would read as row 0.
        slots = tf.where(tf.math.is_nan(scores), self.n_rows, slots)
        slots = _pad_columns(slots, size, self.n_rows)
        return None, tf.where(slots == self.n_rows, MINUS_INFINITY, 0.0), slots


class PartitionShortlist(tf.Module):
    """The leaves of ScaNN's tree, searched exactly and without custom ops.

    A query opens the leaves whose centres have the highest inner product with its L2-normalised
    prefix, as ScaNN does, and scores every row in them. Each leaf is one run of memory. The index
    has a ScaNN shortlist.
    """

    kind, reranks = "partition", 0

    def __init__(self, index, plan):
        super().__init__(name="partition_shortlist")
        centres, self.order, starts = index.shortlist.partition()
        self.n_rows, self.dims_read = len(index), plan.shortlist_dim
        self.num_leaves = len(centres)
        self.default_leaves = index.shortlist.parameters.leaves_to_search
        self.table = PrefixTable(index, 0, self.dims_read, self.order)
        self.centres = variable_from_array(centres, "centres")
        self.starts = variable_from_array(starts, "leaf_starts")

    def find(self, queries, size, leaves, candidates=None):
        del candidates
        likeness = tf.matmul(
            unit_rows(queries[:, : self.dims_read]), self.centres, transpose_b=True
        )
        opened = tf.math.top_k(likeness, leaves).indices
        starts, stops = tf.gather(self.starts, opened), tf.gather(self.starts, opened + 1)
        part = self.table.query_part(queries)
        # map_fn cannot stack no results, so an empty batch gets one row, which is cut off again.
        count = tf.shape(queries)[0]
        extra = [[0, tf.maximum(1 - count, 0)], [0, 0]]
        found = tf.map_fn(
            lambda one: self._search_leaves(*one, size),
            tuple(tf.pad(values, extra) for values in (part, starts, stops)),
            fn_output_signature=tuple(
                tf.TensorSpec([None], dtype) for dtype in (tf.float32, tf.float32, tf.int32)
            ),
            parallel_iterations=_QUERIES_AT_ONCE,
        )
        return tuple(values[:count] for values in found)

    def _search_leaves(self, query, starts, stops, size):
        """The best rows of one query's leaves, padded to `size`."""
        places = tf.ragged.range(starts, stops).values
        rows = tf.cast(tf.gather(self.table.rows, places), tf.float32)
        products = tf.linalg.matvec(rows, query)
        count = tf.minimum(size, tf.shape(places)[0])
        scores, kept = tf.math.top_k(_scores(self.table, rows, products), count)
        missing = [[0, size - count]]
        return (
            tf.pad(scores, missing, constant_values=MINUS_INFINITY),
            tf.pad(tf.gather(products, kept), missing, constant_values=MINUS_INFINITY),
            tf.pad(tf.gather(places, kept), missing, constant_values=self.n_rows),
        )
