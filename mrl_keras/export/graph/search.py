"""Nested search in the graph: shortlist, reranks with growing prefixes, padded answers."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mrl_keras.export.graph.tables import PrefixTable, variable_from_array, variable_from_ids
from mrl_keras.retrieval.arrays import LOWEST_SCORE

_FEW_QUERIES, _MANY_QUERIES = 16, 128
_BLOCK_BYTES = 16 << 20
_BLOCKS_AT_ONCE = 4


class NestedSearch(tf.Module):
    """A `SearchPlan` over a `NestedIndex` as a graph function.

    The answers are those of `NestedIndex.search`. Queries are taken in blocks, so that the
    gathered rows stay within a few megabytes and, in one call, the blocks keep several cores busy.

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
        edges = (finder.dims_read, *plan.rerank_dims[finder.reranks :])
        self.tables = [
            PrefixTable(index, low, high, finder.order)
            for low, high in zip(edges, edges[1:], strict=False)
        ]
        order, self.row_indices = finder.order, None
        self.ids = variable_from_ids(index.ids if order is None else index.ids[order])
        if order is not None:
            row_indices = np.append(order, self.n_rows).astype(np.int32)
            self.row_indices = variable_from_array(row_indices, "row_indices")
        embedding = tf.TensorSpec([None, self.width], tf.float32)
        number, numbers = tf.TensorSpec([], tf.int32), tf.TensorSpec([None], tf.int32)
        # A tf.function would run the blocks one after another, because it orders stateful ops and
        # the searcher's lookup counts as one. They only read, so a wrapped graph is safe.
        self._search_many = tf.compat.v1.wrap_function(
            _place_on_cpu(self._search_blocks), [embedding, number, number, number, numbers]
        )

    def search(
        self,
        embeddings: tf.Tensor,
        k: tf.Tensor,
        shortlist: tf.Tensor,
        leaves: tf.Tensor,
        row_shortlists: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """The `k` best rows of each query.

        Args:
            embeddings: float32 (queries, width). A row with NaN or inf gets no results.
            k, shortlist, leaves: int32 scalars, k <= shortlist and 1 <= leaves <= num_leaves.
            row_shortlists: optional int32 (queries,), at most `shortlist`: how much of the
                shortlist counts for each query; of what ScaNN leaves, where ScaNN reranks.

        Returns:
            `ids` int64 or string, `indices` int64 and `scores` float32, all (queries, k), best
            first. Empty slots hold -1 or "", -1, and the lowest float32.
        """
        if row_shortlists is None:
            row_shortlists = tf.fill([tf.shape(embeddings)[0]], shortlist)
        search = _place_on_cpu(self._search)
        return search(embeddings, k, shortlist, leaves, row_shortlists)

    def _search(self, embeddings, *numbers):
        inputs, (k, shortlist) = (embeddings, *numbers), numbers[:2]
        scores, slots = tf.cond(
            tf.shape(embeddings)[0] <= tf.minimum(_FEW_QUERIES, self._most_queries(shortlist, k)),
            lambda: self._search_few(*inputs),
            lambda: self._search_many(*inputs),
        )
        if isinstance(k, int):
            scores, slots = tf.ensure_shape(scores, [None, k]), tf.ensure_shape(slots, [None, k])
        found, indices = slots < self.n_rows, self._indices(slots)
        return {
            "ids": tf.gather(self.ids, slots),
            "indices": tf.where(found, tf.cast(indices, tf.int64), -1),
            "scores": tf.where(
                found, tf.clip_by_value(scores, LOWEST_SCORE, -LOWEST_SCORE), LOWEST_SCORE
            ),
        }

    def blank(self, found: dict[str, tf.Tensor], empty: tf.Tensor) -> dict[str, tf.Tensor]:
        """An answer of `search` with the slots that the bool tensor `empty` names left empty."""
        missing = b"" if self.ids.dtype == tf.string else -1
        fills = {"ids": missing, "indices": -1, "scores": LOWEST_SCORE}
        return {
            name: tf.where(empty, tf.constant(fill, found[name].dtype), found[name])
            for name, fill in fills.items()
        }

    def _widths(self, shortlist, k):
        """How many rows of each query the shortlist and then each rerank leaves."""
        if not self.plan.rerank_dims:
            return [k]
        keep = [tf.maximum(k, tf.minimum(shortlist, size)) for size in self.plan.rerank_sizes]
        return [shortlist, *keep, k]

    def _most_queries(self, shortlist, k):
        """How many queries fit into a block whose largest gather stays within its budget."""
        row_bytes = [
            4 * width * int(table.rows.shape[1])
            for width, table in zip(
                self._widths(shortlist, k)[self.finder.reranks :], self.tables, strict=False
            )
        ]
        return tf.maximum(_BLOCK_BYTES // tf.reduce_max([1, *row_bytes]), 1)

    def _search_few(self, queries, k, shortlist, leaves, row_shortlists):
        widths = self._widths(shortlist, k)
        return self._search_block(queries, row_shortlists, widths, leaves, _few_products)

    def _search_blocks(self, queries, k, shortlist, leaves, row_shortlists):
        widths, count = self._widths(shortlist, k), tf.shape(queries)[0]
        half = tf.clip_by_value((count + 1) // 2, _FEW_QUERIES, _MANY_QUERIES)
        block = tf.minimum(half, self._most_queries(shortlist, k))
        blocks = (count + block - 1) // block

        def body(number, scores, slots):
            part = slice(number * block, (number + 1) * block)
            search = _place_on_cpu(self._search_block)
            found = search(queries[part], row_shortlists[part], widths, leaves, tf.linalg.matvec)
            return number + 1, scores.write(number, found[0]), slots.write(number, found[1])

        arrays = [
            tf.TensorArray(dtype, blocks, infer_shape=False, element_shape=[None, None])
            for dtype in (tf.float32, tf.int32)
        ]
        _, scores, slots = tf.while_loop(
            lambda number, *_: number < blocks,
            body,
            (0, *arrays),
            parallel_iterations=_BLOCKS_AT_ONCE,
        )
        return scores.concat(), slots.concat()

    def _search_block(self, queries, row_shortlists, widths, leaves, products):
        squared = tf.reduce_sum(tf.square(queries), axis=1)
        finite = tf.math.is_finite(squared)
        queries, squared = tf.cond(
            tf.reduce_all(finite),
            lambda: (queries, squared),
            lambda: (tf.where(finite[:, None], queries, 0.0), tf.where(finite, squared, 0.0)),
        )
        candidates, widths = widths[0], widths[self.finder.reranks :]
        scores, running, slots = self.finder.find(queries, widths[0], leaves, candidates)
        counts = tf.where(finite, row_shortlists, 0)
        outside = tf.range(widths[0])[None, :] >= counts[:, None]
        slots = tf.where(outside, self.n_rows, slots)
        if self.tables:
            running = tf.where(outside, float("-inf"), running)
            scores, slots = self._rerank(queries, running, slots, widths[1:], products)
        if self._cosine:
            if self.plan.dims[-1] < self.width:
                squared = tf.reduce_sum(tf.square(queries[:, : self.plan.dims[-1]]), axis=1)
            scores *= tf.math.divide_no_nan(1.0, tf.sqrt(squared))[:, None]
        return scores, slots

    def _indices(self, slots):
        """The index's own numbers of the rows in `slots`; the number of rows in empty slots."""
        return slots if self.row_indices is None else tf.gather(self.row_indices, slots)

    def _rerank(self, queries, running, slots, keep, products):
        """Each stage gathers only the dims it adds, and carries the running dot product on."""
        for stage, (table, kept) in enumerate(zip(self.tables, keep, strict=True)):
            last = stage == len(self.tables) - 1
            if last:
                # By ascending index, so that equal scores come out in this order.
                order = tf.math.top_k(-self._indices(slots), tf.shape(slots)[1]).indices
                running, slots = (
                    tf.gather(values, order, batch_dims=1) for values in (running, slots)
                )
            rows = tf.cast(tf.gather(table.rows, slots), tf.float32)
            running += products(rows, table.query_part(queries))
            # One op after another: handing the norms to another thread costs more than they do.
            with tf.control_dependencies([running]):
                norms = table.inverse_norms(rows)
            scores = running if norms is None else running * norms
            scores, order = tf.math.top_k(scores, kept, sorted=last)
            slots = tf.gather(slots, order, batch_dims=1)
            if not last:
                running = tf.gather(running, order, batch_dims=1)
        return scores, slots


def _place_on_cpu(compute):
    """`compute` with its ops on the CPU, even where a server has accelerators.

    ScaNN's kernels are there, and the database would fill an accelerator's memory.
    """

    def computed(*inputs):
        with tf.device("CPU"):
            return compute(*inputs)

    return computed


def _few_products(rows, queries):
    """matvec for a few queries, without the matrix library's fixed cost for each call."""
    return tf.reduce_sum(rows * queries[:, None, :], axis=-1)
