"""The database as TensorFlow variables, filled slice by slice, one table for each rerank stage.

A row of a stage's table holds the dims that the stage adds, as one run of memory; for cosine the
rows' inverse norms at the stage's prefix stand in a table beside. The last row of every table
belongs to empty slots: its dims are zero, and the running product there is minus infinity, which
becomes the score.

A row of int8 codes carries its scales as the bytes of float32 numbers.
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


class PrefixTable(tf.Module):
    """The dims from `low` to `high` of every row, and the inverse norms at prefix `high`.

    Args:
        index: `NestedIndex` whose blocks are read, a slice at a time.
        low: int, 0 or a nesting dim of the index.
        high: int, a nesting dim above `low`.
        order: optional int array (rows,): row `i` of the table is row `order[i]` of the index.
            Defaults to the index's own order.

    Attributes:
        rows: variable (index rows + 1, high - low) in the blocks' storage dtype, float32 where they
            have several; int8 codes have further columns.
        norms: float32 variable (index rows + 1,); `None` for metric="dot".
    """

    def __init__(self, index, low: int, high: int, order: np.ndarray | None = None):
        super().__init__(name=f"dims_{low}_{high}")
        self.low, self.high = low, high
        dims = index.nesting_dims
        first, last = dims.index(low) + 1 if low else 0, dims.index(high)
        blocks = index.blocks[first : last + 1]
        storage, count = shared_storage(blocks), len(index)
        dtype = np.dtype(np.float32) if isinstance(storage, list) else blocks[0].dtype
        # The widths of the blocks that have a scale of their own.
        self._scaled = [block.shape[1] for block in blocks] if storage == "int8" else []

        def columns(picked):
            parts = [block[picked] for block in blocks]
            if self._scaled:
                codes, scales = [p.codes for p in parts], [_as_bytes(p.scales) for p in parts]
                return np.concatenate([*codes, *scales], axis=1)
            return np.concatenate([as_float32(p).astype(dtype, copy=False) for p in parts], axis=1)

        width = columns(slice(0, 1)).shape[1]

        def rows(start, stop):
            empty = np.zeros((stop - min(stop, count), width), dtype)
            return np.concatenate([columns(slice(start, min(stop, count))), empty])

        places = None
        if order is not None:
            places = np.append(np.empty(count, np.int64), count)
            places[order] = np.arange(count)
        name = f"{low}_{high}"
        self.rows = variable_from_rows((count + 1, width), dtype, rows, f"rows_{name}", places)
        self.norms = None
        if index.metric == "cosine":
            norms = index.inverse_norms[:, last]
            norms = np.append(norms if order is None else norms[order], np.float32(1))
            self.norms = variable_from_array(norms, f"norms_{name}")

    def query_part(self, queries: tf.Tensor) -> tf.Tensor:
        """The queries' dims that face `values`: (queries, high - low)."""
        return queries[:, self.low : self.high] if self.low else first_dims(queries, self.high)

    def values(self, rows: tf.Tensor) -> tf.Tensor:
        """Rows (..., width) of the table as float32 (..., high - low)."""
        if not self._scaled:
            return tf.cast(rows, tf.float32)
        dims, count = self.high - self.low, len(self._scaled)
        numbers = tf.reshape(rows[..., dims:], [*tf.unstack(tf.shape(rows))[:-1], count, 4])
        # tf.repeat loses the last axis of no rows.
        blocks = np.repeat(np.arange(count), self._scaled)
        scales = tf.gather(tf.bitcast(numbers, tf.float32), blocks, axis=-1)
        return tf.cast(rows[..., :dims], tf.float32) * scales


def first_dims(queries: tf.Tensor, dim: int) -> tf.Tensor:
    """The first `dim` dims of the queries (queries, width); without an op where these are all."""
    return queries if queries.shape[1] == dim else queries[:, :dim]


def _as_bytes(numbers: np.ndarray) -> np.ndarray:
    """float32 numbers (rows, columns) as their bytes, int8 (rows, 4 columns)."""
    return np.ascontiguousarray(numbers, np.float32).view(np.int8)


def variable_from_ids(ids: np.ndarray) -> tf.Variable:
    """The ids as a variable (rows + 1,), int64 or string; the last one, -1 or "", means none."""
    if ids.dtype.kind == "U":
        values = tf.constant([*(one.encode() for one in ids.tolist()), b""], tf.string)
    else:
        values = np.append(ids, -1)
    return tf.Variable(values, trainable=False, name="ids")
