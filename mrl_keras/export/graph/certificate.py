"""Whether answers are proven to be full width's, in the graph."""

from __future__ import annotations

import tensorflow as tf

from mrl_keras.retrieval.exact.unread import SLACK


class Certificate:
    """What a certified plan adds to a `NestedSearch`: a bound on the scores of all other rows.

    Args:
        index: `NestedIndex`.
        plan: a certified `SearchPlan`.
        exact: bool, whether the shortlist's scores are exact and all rows were looked at. Where it
            is not, nothing is known of the rows that were left out, and no answer is certain.
    """

    def __init__(self, index, plan, exact):
        self._rows = len(index)
        self._bound = index.unread_bound(plan.shortlist_dim) if exact else None

    def bounds(self, queries, near, counts, answered):
        """What no row outside of each query's shortlist scores more than, float32 (queries,).

        Args:
            queries: float32 (queries, width), finite, as they were scored.
            near: float32 (queries, size), the scores of the shortlist as `finder.find` gives them.
            counts: int32 (queries,), how many of them count; or an int or a scalar, all of them.
            answered: bool (queries, 1), the queries that get an answer.

        Returns:
            In the units of scores that are divided by the query's norm where the metric is cosine.
            Infinite where nothing is known, and minus infinity where no row is outside.
        """
        known = isinstance(counts, int)
        if self._bound is None or (known and counts >= self._rows):
            nothing = float("inf" if self._bound is None else "-inf")
            bounds = tf.fill([tf.shape(queries)[0]], nothing)
        else:
            bounds = self._highest(queries, near, counts)
            if not known:
                bounds = tf.where(counts >= self._rows, float("-inf"), bounds)
        return tf.where(tf.squeeze(answered, 1), bounds, float("inf"))

    def _highest(self, queries, near, counts):
        """`UnreadBound.highest`, for cosines divided by the norms of the queries."""
        bound = self._bound
        each = getattr(counts, "shape", tf.TensorShape([])).rank == 1
        scores = tf.gather(near, tf.maximum(counts - 1, 0), batch_dims=1) if each else near[:, -1]
        norms, tails = tf.norm(queries, axis=1), tf.norm(queries[:, bound.dim :], axis=1)
        if not bound.cosine:
            return scores + tails * bound.tail + SLACK * bound.norm * norms
        length = tf.sqrt(tf.square(scores) + tf.square(tails))
        share = tf.math.divide_no_nan(scores, length)
        share = tf.clip_by_value(share, bound.least, bound.most)
        highest = scores * share + tails * tf.sqrt(1.0 - tf.square(share))
        return tf.math.divide_no_nan(highest, norms) + SLACK
