"""The database as TensorFlow variables, filled slice by slice, one table for each rerank stage.

A row of a stage's table holds the dims that the stage adds and, for cosine, the row's inverse
norm at the stage's prefix, so that one gather reads all that a stage needs of a row, as one run of
memory. The last row of every table belongs to empty slots: its dims are zero, and the running
product there is minus infinity, which becomes the score.

A row of int8 codes carries its scales and its norm as the bytes of float32 numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mrl_keras.retrieval.arrays import as_float32
from mrl_keras.retrieval.index.storage import shared_storage

_SLICE_BYTES = 8 << 20
_ALIGNMENT = 64


def variable_from_rows(
    shape: tuple[int, ...],
    dtype,
    rows: Callable[[int, int], np.ndarray],
    name: str,
    places: np.ndarray | None = None,
) -> tf.Variable:
    """Makes a variable over memory that is filled a few megabytes at a time and never copied.

    TensorFlow takes the memory over through DLPack. Other ways hold the values twice:
    `tf.Variable` copies a NumPy array, and assigning to a slice of a variable makes every later
    read of it, saving included, a copy. A constant of the graph is limited to 2 GB by protocol
    buffers.

    Args:
        shape: ints, the shape; axis 0 is cut into slices.
        dtype: NumPy dtype of a fixed size, bfloat16 included.
        rows: `rows(start, stop)` gives the values of these rows; it is asked for all of them in
            order, so that rows on disk are read once and in a row, whatever their `places`.
        name: str, the variable's name in the checkpoint.
        places: optional int array (rows,), where each row goes. Defaults to their own order.
    """
    dtype = np.dtype(dtype)
    values = _aligned_array(shape, dtype)
    step = max(1, _SLICE_BYTES // max(1, math.prod(shape[1:]) * dtype.itemsize))
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        where = slice(start, stop) if places is None else places[start:stop]
        values[where] = rows(start, stop)
    # DLPack does not take NumPy's bfloat16: hand over its bits. bitcast does not copy them.
    known = dtype.isbuiltin == 1
    bits = values if known else values.view(np.uint16)
    tensor = tf.experimental.dlpack.from_dlpack(bits.__dlpack__())
    tensor = tensor if known else tf.bitcast(tensor, tf.as_dtype(dtype))
    return tf.Variable(tensor, trainable=False, name=name)


def variable_from_array(values: np.ndarray, name: str) -> tf.Variable:
    """A variable that holds an array, as `variable_from_rows` makes it."""
    return variable_from_rows(values.shape, values.dtype, lambda a, b: values[a:b], name)


def _aligned_array(shape, dtype):
    """An empty array at an address that TensorFlow's kernels can use as it is."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def norm_columns(inverse_norms: np.ndarray, dtype) -> np.ndarray:
    """float32 inverse norms (rows,) as columns (rows, c) of `dtype` whose sum they are.

    float32 needs one column. bfloat16 has 8 significant bits and float32 has 24, so three
    bfloat16 columns, each the rest that the ones before leave, add up to the float32 exactly.

    >>> columns = norm_columns(np.array([0.1], "float32"), tf.bfloat16.as_numpy_dtype)
    >>> columns.shape, float(columns.astype("float32").sum()) == float(np.float32(0.1))
    ((1, 3), True)
    """
    rest = np.asarray(inverse_norms, np.float32)
    if np.dtype(dtype) == np.float32:
        return rest[:, None]
    columns = []
    for _ in range(3):
        column = rest.astype(dtype)
        rest = rest - column.astype(np.float32)
        columns.append(column)
    return np.stack(columns, axis=1)


class PrefixTable(tf.Module):
    """The dims from `low` to `high` of every row, with the inverse norm at prefix `high`.

    Args:
        index: `NestedIndex` whose blocks are read, a slice at a time.
        low: int, 0 or a nesting dim of the index.
        high: int, a nesting dim above `low`.
        order: optional int array (rows,): row `i` of the table is row `order[i]` of the index.
            Defaults to the index's own order.

    Attributes:
        rows: variable (index rows + 1, high - low + further columns) in the blocks' storage dtype;
            float32 where they have several.
    """

    def __init__(self, index, low: int, high: int, order: np.ndarray | None = None):
        super().__init__(name=f"dims_{low}_{high}")
        self.low, self.high = low, high
        dims = index.nesting_dims
        first, last = dims.index(low) + 1 if low else 0, dims.index(high)
        blocks = index.blocks[first : last + 1]
        norms = index.inverse_norms[:, last] if index.metric == "cosine" else None
        storage, count = shared_storage(blocks), len(index)
        dtype = np.dtype(np.float32) if isinstance(storage, list) else blocks[0].dtype
        self._has_norms = norms is not None
        # The widths of the blocks that have a scale of their own.
        self._scaled = [block.shape[1] for block in blocks] if storage == "int8" else []

        def columns(picked):
            parts = [block[picked] for block in blocks]
            if self._scaled:
                parts, numbers = [p.codes for p in parts], [p.scales for p in parts]
                if norms is not None:
                    numbers.append(norms[picked, None])
                return np.concatenate([*parts, *(as_bytes(one) for one in numbers)], axis=1)
            parts = [as_float32(part).astype(dtype, copy=False) for part in parts]
            if norms is not None:
                parts.append(norm_columns(norms[picked], dtype))
            return np.concatenate(parts, axis=1)

        width = columns(slice(0, 1)).shape[1]
        self._norm_width = 0 if self._scaled else width - (high - low)

        def rows(start, stop):
            last = min(stop, count)
            picked = slice(start, last)
            empty = np.zeros((stop - last, width), dtype)
            if norms is not None and self._scaled:
                empty[:, -4:] = as_bytes(np.ones((1, 1), np.float32))
            elif norms is not None:
                empty[:, high - low] = 1
            return np.concatenate([columns(picked), empty])

        places = None
        if order is not None:
            places = np.append(np.empty(count, np.int64), count)
            places[order] = np.arange(count)
        shape, name = (count + 1, width), f"rows_{low}_{high}"
        self.rows = variable_from_rows(shape, dtype, rows, name, places)

    def query_part(self, queries: tf.Tensor) -> tf.Tensor:
        """The queries' dims that face `values`: (queries, width), 0 at the norm columns."""
        whole = self.low == 0 and queries.shape[1] == self.high
        part = queries if whole else queries[:, self.low : self.high]
        return tf.pad(part, [[0, 0], [0, self._norm_width]]) if self._norm_width else part

    def values(self, rows: tf.Tensor) -> tf.Tensor:
        """Rows (..., width) of the table as float32, for the product with `query_part`."""
        if not self._scaled:
            return tf.cast(rows, tf.float32)
        codes = tf.cast(rows[..., : self.high - self.low], tf.float32)
        scales = self._numbers(rows)[..., : len(self._scaled)]
        # tf.repeat loses the last axis of no rows.
        blocks = np.repeat(np.arange(len(self._scaled)), self._scaled)
        return codes * tf.gather(scales, blocks, axis=-1)

    def inverse_norms(self, rows: tf.Tensor) -> tf.Tensor | None:
        """The inverse norms within rows (..., width), or `None` for metric="dot"."""
        if not self._has_norms:
            return None
        if self._scaled:
            return self._numbers(rows)[..., -1]
        columns = tf.cast(rows[..., self.high - self.low :], tf.float32)
        return columns[..., 0] if self._norm_width == 1 else tf.reduce_sum(columns, axis=-1)

    def _numbers(self, rows):
        """The float32 numbers that stand after the codes: scales, then the norm."""
        count = len(self._scaled) + self._has_norms
        parts = tf.reshape(
            rows[..., self.high - self.low :], [*tf.unstack(tf.shape(rows))[:-1], count, 4]
        )
        return tf.bitcast(parts, tf.float32)


def as_bytes(numbers: np.ndarray) -> np.ndarray:
    """float32 numbers (rows, columns) as their bytes, int8 (rows, 4 columns)."""
    return np.ascontiguousarray(numbers, np.float32).view(np.int8)


def variable_from_ids(ids: np.ndarray) -> tf.Variable:
    """The ids as a variable (rows + 1,), int64 or string; the last one, -1 or "", means none."""
    if ids.dtype.kind == "U":
        values = tf.constant([*(one.encode() for one in ids.tolist()), b""], tf.string)
    else:
        values = np.append(ids, -1)
    return tf.Variable(values, trainable=False, name="ids")
