"""A batch that is worked on a part at a time, in a loop of the graph."""

import keras

from mrl_keras import lazy_tensorflow as tf


class Chunks:
    """A batch cut into chunks of one size: the last begins early, and what came before is old.

    Args:
        inputs: nested structure of tensors (rows, ...).
        size: int, rows of a chunk; fewer where the batch has fewer.
    """

    def __init__(self, inputs, size):
        self._batch = inputs
        first = tf.nest.flatten(inputs)[0]
        known = first.shape[0] is not None
        self.rows = first.shape[0] if known else tf.shape(first)[0]
        self.size = min(size, max(self.rows, 1)) if known else tf.clip_by_value(self.rows, 1, size)
        self.count = (self.rows + self.size - 1) // self.size
        self.all_new = known and self.rows % self.size == 0  # else it depends on the chunk

    def start(self, number):
        return tf.minimum(number * self.size, self.rows - self.size)

    def inputs(self, number):
        return tf.nest.map_structure(lambda x: self._part(x, number), self._batch)

    def is_new(self, number, rank):
        """Which rows of the chunk no chunk before had: bool tensor (size, 1, ...) of `rank`."""
        is_new = self.start(number) + tf.range(self.size) >= number * self.size
        return tf.reshape(is_new, [-1] + [1] * (rank - 1))

    def new_part(self, values, number):
        """The chunk's rows of `values`, zero where the chunk before had them."""
        part = self._part(values, number)
        return tf.where(self.is_new(number, part.shape.rank), part, 0)

    def with_new_part(self, values, part, number):
        """`values` with the chunk's new rows set to those of `part`."""
        rank = part.shape.rank
        part = tf.where(self.is_new(number, rank), part, self._part(values, number))
        start = [self.start(number)] + [0] * (rank - 1)
        return keras.ops.slice_update(values, start, part)

    def _part(self, values, number):
        rest = values.shape.rank - 1
        part = tf.slice(values, [self.start(number)] + [0] * rest, [self.size] + [-1] * rest)
        size = self.size if isinstance(self.size, int) else None
        return tf.ensure_shape(part, (size, *values.shape[1:]))

    def run(self, step, *state):
        """`step(number, *state) -> state` for one chunk after the other."""
        return tf.while_loop(
            lambda number, *_: number < self.count,
            lambda number, *state: (number + 1, *step(number, *state)),
            (tf.constant(0), *state),
            parallel_iterations=1,
        )[1:]
