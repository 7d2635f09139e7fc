"""Nested search in the graph: shortlist, reranks with growing prefixes, padded answers."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mrl_keras.export.graph.certificate import Certificate
from mrl_keras.export.graph.tables import (
    PrefixTable,
    first_dims,
    variable_from_array,
    variable_from_ids,
)
from mrl_keras.retrieval.arrays import LOWEST_SCORE

_FEW_QUERIES, _MANY_QUERIES = 16, 256
_BLOCK_BYTES = 32 << 20
_BLOCKS_AT_ONCE = 2
# What a part of a rerank gathers, about; each further part costs some ops.
_PART_BYTES, _MOST_PARTS = 4 << 20, 4


class NestedSearch(tf.Module):
    """A `SearchPlan` over a `NestedIndex` as a graph function.

    The answers are those of `NestedIndex.search`. Queries are taken in blocks, so that the
    gathered rows stay within some megabytes. A block's ops use several cores each.

    Args:
        index: `NestedIndex`.
        plan: `SearchPlan`.
        shortlist_class: one of `mrl_keras.export.graph.shortlists`, which finds the shortlists.

    Attributes:
        finder: the shortlist.
        default_leaves, num_leaves: ints, the leaves that the plan opens and how many there are.
    """

    def __init__(self, index, plan, shortlist_class):
        super().__init__(name="nested_search")
        self.plan = plan
        self.finder = finder = shortlist_class(index, plan)
        self.n_rows, self.width = len(index), index.width
        self.num_leaves = finder.num_leaves
        self.default_leaves = min(plan.leaves or finder.default_leaves, finder.num_leaves)
        self._cosine = index.metric == "cosine"
        exact = finder.kind == "exact"
        self._certificate = Certificate(index, plan, exact) if plan.certified else None
        self._reads = self.width if plan.certified else max(finder.reads, *plan.dims)
        edges = (finder.dims_read, *plan.rerank_dims[finder.reranks :])
        self.tables = [
            PrefixTable(index, low, high, finder.order)
            for low, high in zip(edges, edges[1:], strict=False)
        ]
        self._parts = [
            int(np.clip(_MANY_QUERIES * rows * row_bytes / _PART_BYTES, 1, _MOST_PARTS))
            for rows, row_bytes in self._gathered(plan.shortlist_size, plan.k)
        ]
        order, self.row_indices = finder.order, None
        self.ids = variable_from_ids(index.ids if order is None else index.ids[order])
        if order is not None:
            row_indices = np.append(order, -1).astype(np.int64)
            self.row_indices = variable_from_array(row_indices, "row_indices")
        embedding = tf.TensorSpec([None, self.width], tf.float32)
        number, numbers = tf.TensorSpec([], tf.int32), tf.TensorSpec([None], tf.int32)
        # A tf.function would run the searches of a block one after another, because it orders
        # stateful ops, and they count as such. They only read, so a wrapped graph is safe.
        self._search_many = tf.compat.v1.wrap_function(
            _place_on_cpu(self._search_blocks), [embedding, number, number, number, numbers]
        )

    def search(
        self,
        embeddings: tf.Tensor,
        k: tf.Tensor,
        shortlist: tf.Tensor,
        leaves: tf.Tensor,
        row_numbers: tuple[tf.Tensor, tf.Tensor] | None = None,
    ) -> dict[str, tf.Tensor]:
        """The `k` best rows of each query.

        Args:
            embeddings: float32 (queries, width). A row with NaN or inf gets no results.
            k, shortlist, leaves: int32 scalars, k <= shortlist and 1 <= leaves <= num_leaves.
            row_numbers: optional (ks, shortlists), int32 (queries,), at most `k` and `shortlist`:
                how many slots each query fills, and how much of the shortlist counts for it; of
                what ScaNN leaves, where ScaNN reranks.

        Returns:
            `ids` int64 or string, `indices` int64 and `scores` float32, all (queries, k), best
            first. Empty slots hold -1 or "", -1, and the lowest float32. For a certified plan
            `certified` too, bool (queries,), as in `CertifiedResult`.
        """
        return _place_on_cpu(self._search)(embeddings, k, shortlist, leaves, row_numbers)

    def _search(self, embeddings, k, shortlist, leaves, row_numbers):
        row_ks, row_shortlists = row_numbers or (None, None)

        def few():
            widths = self._widths(shortlist, k)
            return self._search_block(embeddings, row_shortlists, widths, leaves, True)

        def many():
            each = row_shortlists
            if each is None:
                each = tf.fill([tf.shape(embeddings)[0]], shortlist)
            return self._search_many(embeddings, k, shortlist, leaves, each)

        most = tf.minimum(_FEW_QUERIES, self._most_queries(shortlist, k))
        # Counting rows rather than values would take one op more.
        is_few = tf.size(embeddings, tf.int64) <= tf.cast(most, tf.int64) * self.width
        scores, slots, *bounds = tf.cond(is_few, few, many)
        if isinstance(k, int):
            for part in (scores, slots):
                part.set_shape([None, k])
        if row_ks is not None:
            inside = tf.range(k)[None, :] < row_ks[:, None]
            slots = tf.where(inside, slots, self.n_rows)
            scores = tf.where(inside, scores, LOWEST_SCORE)
        # Empty slots, whose score is minus infinity, have the lowest one now.
        scores = tf.clip_by_value(scores, LOWEST_SCORE, -LOWEST_SCORE)
        indices = self._indices(slots)
        if self.row_indices is None:
            indices = tf.where(slots < self.n_rows, tf.cast(slots, tf.int64), -1)
        answer = {"ids": tf.gather(self.ids, slots), "indices": indices, "scores": scores}
        if self._certificate is not None:
            last = scores[:, -1] if row_ks is None else tf.gather(scores, row_ks - 1, batch_dims=1)
            answer["certified"] = last > bounds[0]
        return answer

    def _widths(self, shortlist, k):
        """How many rows of each query the shortlist and then each rerank leaves."""
        if not self.plan.rerank_dims:
            return [k]
        known = isinstance(k, int) and isinstance(shortlist, int)
        least, most = (min, max) if known else (tf.minimum, tf.maximum)
        keep = [most(k, least(shortlist, size)) for size in self.plan.rerank_sizes]
        return [shortlist, *keep, k]

    def _gathered(self, shortlist, k):
        """(rows, bytes of each as float32) of what every rerank gathers for a query."""
        widths = self._widths(shortlist, k)[self.finder.reranks :]
        row_bytes = [4 * int(table.rows.shape[1]) for table in self.tables]
        return list(zip(widths, row_bytes, strict=False))

    def _most_queries(self, shortlist, k):
        """How many queries fit into a block whose largest gather stays within its budget."""
        # Divided twice: the product of a long shortlist and wide rows is beyond int32.
        fitting = [
            max(_BLOCK_BYTES // size, 1) // rows for rows, size in self._gathered(shortlist, k)
        ]
        return tf.maximum(tf.reduce_min([_MANY_QUERIES, *fitting]), 1)

    def _search_blocks(self, queries, k, shortlist, leaves, row_shortlists):
        widths, count = self._widths(shortlist, k), tf.shape(queries)[0]
        most = self._most_queries(shortlist, k)
        blocks = (count + most - 1) // most
        block = (count + blocks - 1) // blocks

        def search(part):
            compute = _place_on_cpu(self._search_block)
            return compute(queries[part], row_shortlists[part], widths, leaves, False)

        def body(number, *arrays):
            found = search(slice(number * block, (number + 1) * block))
            written = (array.write(number, one) for array, one in zip(arrays, found, strict=True))
            return number + 1, *written

        kinds = [(tf.float32, [None, None]), (tf.int32, [None, None])]
        if self._certificate is not None:
            kinds.append((tf.float32, [None]))

        def in_turn():
            arrays = [
                tf.TensorArray(dtype, blocks, infer_shape=False, element_shape=shape)
                for dtype, shape in kinds
            ]
            _, *arrays = tf.while_loop(
                lambda number, *_: number < blocks,
                body,
                (0, *arrays),
                parallel_iterations=_BLOCKS_AT_ONCE,
            )
            return tuple(array.concat() for array in arrays)

        return tf.cond(blocks > 1, in_turn, lambda: search(slice(None)))

    def _search_block(self, queries, row_shortlists, widths, leaves, few):
        """(scores, slots) of a block, and for a certified plan what bounds all other rows.

        `row_shortlists` None: the whole shortlist of each query.

        The time of one query is that of its ops, some microseconds for each, whatever they do: a
        few queries get fewer of them, and no branch. Many are not copied.
        """
        finite = tf.math.is_finite(tf.math.reduce_euclidean_norm(queries, axis=1, keepdims=True))
        given, mask = first_dims(queries, self._reads), tf.cast(finite, tf.float32)
        part = first_dims(queries, self.plan.dims[-1])
        norms = tf.math.reduce_euclidean_norm(part, axis=1, keepdims=True)
        inverse = tf.math.multiply_no_nan(tf.math.divide_no_nan(1.0, norms), mask)

        def cleaned():
            return tf.math.multiply_no_nan(given, mask)

        if few:
            unit = tf.math.multiply_no_nan(given, inverse)
            queries = unit if self._cosine else cleaned()
        else:
            queries = tf.cond(tf.reduce_all(finite), lambda: given, cleaned)
            unit = first_dims(queries, self.finder.reads) * inverse
        candidates, widths = widths[0], widths[self.finder.reranks :]
        asked = {"given": given, "unit": unit, "scored": queries}[self.finder.asks]
        scores, running, slots = self.finder.find(asked, finite, widths[0], leaves, candidates, few)
        bounds = ()
        if self._certificate is not None:
            counts = candidates if row_shortlists is None else row_shortlists
            bounds = (self._certificate.bounds(queries, scores, counts, finite),)
        if row_shortlists is not None:
            inside = tf.range(widths[0])[None, :] < tf.expand_dims(row_shortlists, 1)
            slots = tf.where(inside, slots, self.n_rows)
        if self.tables:
            if running is not None:
                running = self._unless_empty(slots, running)
            scores, slots = self._rerank(queries, running, slots, widths, few)
        else:
            scores = self._unless_empty(slots, scores)
        if self._cosine and not few:
            # Minus infinity stays, whatever the query.
            scores *= tf.where(inverse > 0, inverse, 1.0)
        return scores, slots, *bounds

    def _unless_empty(self, slots, values):
        return tf.where(tf.equal(slots, self.n_rows), float("-inf"), values)

    def _indices(self, slots):
        """The index's own numbers of the rows in `slots`; -1, or the number of rows, in empty ones.

        Wherever these are sorted to, their score of minus infinity is below any row's.
        """
        return slots if self.row_indices is None else tf.gather(self.row_indices, slots)

    def _rerank(self, queries, running, slots, widths, few):
        """Each stage gathers only the dims it adds, and carries the running dot product on.

        `widths`: how many slots the first stage gets, and each stage leaves.
        """
        for stage, (table, size, kept) in enumerate(
            zip(self.tables, widths, widths[1:], strict=False)
        ):
            last = stage == len(self.tables) - 1
            if last and few:
                slots, running = self._by_index(slots, running, size)
            added = self._products(table, slots, queries, 1 if few else self._parts[stage])
            if running is None:
                running = self._unless_empty(slots, added)
            else:
                running += added
            scores = running
            if table.norms is not None:
                # One op after another: handing one to another thread costs more than it does.
                with tf.control_dependencies([running]):
                    scores = running * tf.gather(table.norms, slots)
            if last and not few:
                return self._best(scores, slots, size, kept)
            scores, order = tf.math.top_k(scores, kept, sorted=last)
            slots = tf.gather(slots, order, batch_dims=1)
            if not last:
                running = tf.gather(running, order, batch_dims=1)
        return scores, slots

    def _products(self, table, slots, queries, parts):
        """The rows' products with the queries over the dims of a table, (queries, slots).

        One part of the queries after another, so that what an op writes is still in the caches
        when the next one reads it. Without the matrix library, whose fixed cost for each query is
        that of many rows.
        """
        asked, products = [(slots, table.query_part(queries))], []
        if parts > 1:
            step = (tf.shape(slots)[0] + parts - 1) // parts
            cuts = [slice(number * step, (number + 1) * step) for number in range(parts)]
            asked = [tuple(whole[cut] for whole in asked[0]) for cut in cuts]
        for rows, query in asked:
            with tf.control_dependencies(products[-1:]):
                values = table.values(tf.gather(table.rows, rows))
                products.append(tf.reduce_sum(values * tf.expand_dims(query, 1), axis=-1))
        return tf.concat(products, axis=0) if parts > 1 else products[0]

    def _by_index(self, slots, values, size):
        """By ascending index: top_k then brings equal scores out in this order."""
        order = tf.math.top_k(-self._indices(slots), size).indices
        parts = (slots, values)
        return tuple(p if p is None else tf.gather(p, order, batch_dims=1) for p in parts)

    def _best(self, scores, slots, size, kept):
        """The best of many queries' rows; equal scores, which are rare, by ascending index."""
        ranked, order = tf.math.top_k(scores, size)

        def by_index():
            again, values = self._by_index(slots, scores, size)
            best, order = tf.math.top_k(values, kept)
            return best, tf.gather(again, order, batch_dims=1)

        def as_ranked():
            return ranked[:, :kept], tf.gather(slots, order[:, :kept], batch_dims=1)

        ties = tf.reduce_any(tf.equal(ranked[:, 1:], ranked[:, :-1]))
        return tf.cond(ties, _place_on_cpu(by_index), _place_on_cpu(as_ranked))


def _place_on_cpu(compute):
    """`compute` with its ops on the CPU, even where a server has accelerators.

    ScaNN's kernels are there, and the database would fill an accelerator's memory.
    """

    def computed(*inputs):
        with tf.device("CPU"):
            return compute(*inputs)

    return computed
