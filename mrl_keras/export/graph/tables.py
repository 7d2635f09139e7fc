"""The database as TensorFlow variables, filled slice by slice, one table for each rerank stage.

A row of a stage's table holds the dims that the stage adds and, for cosine, the row's inverse
norm at the stage's prefix, so that one gather reads all that a stage needs of a row, as one run of
memory. The last row of every table belongs to empty slots: its dims are zero, and the running
product there is minus infinity, which becomes the score.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

_SLICE_BYTES = 8 << 20
_ALIGNMENT = 64


def variable_from_rows(
    shape: tuple[int, ...],
    dtype,
    rows: Callable[[int, int], np.ndarray],
    name: str,
) -> tf.Variable:
    """Makes a variable over memory that is filled a few megabytes at a time and never copied.

    TensorFlow takes the memory over through DLPack. Other ways hold the values twice:
    `tf.Variable` copies a NumPy array, and assigning to a slice of a variable makes every later
    read of it, saving included, a copy. A constant of the graph is limited to 2 GB by protocol
    buffers.

    Args:
        shape: ints, the shape; axis 0 is cut into slices.
        dtype: NumPy dtype of a fixed size, bfloat16 included.
        rows: `rows(start, stop)` gives the values of these rows.
        name: str, the variable's name in the checkpoint.
    """
    dtype = np.dtype(dtype)
    values = _aligned_array(shape, dtype)
    step = max(1, _SLICE_BYTES // max(1, math.prod(shape[1:]) * dtype.itemsize))
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        values[start:stop] = rows(start, stop)
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
        rows: variable (index rows + 1, high - low + norm columns) in the index's storage dtype.
        norm_width: int, 0 for metric="dot", else 1 (float32) or 3 (bfloat16).
    """

    def __init__(self, index, low: int, high: int, order: np.ndarray | None = None):
        super().__init__(name=f"dims_{low}_{high}")
        self.low, self.high = low, high
        dims = index.nesting_dims
        first = dims.index(low) + 1 if low else 0
        blocks = index.blocks[first : dims.index(high) + 1]
        norms = index.inverse_norms[:, dims.index(high)] if index.metric == "cosine" else None
        dtype, count = blocks[0].dtype, len(index)
        self.norm_width = 0 if norms is None else norm_columns(norms[:1], dtype).shape[1]
        width = high - low + self.norm_width

        def rows(start, stop):
            last = min(stop, count)
            picked = slice(start, last) if order is None else order[start:last]
            parts = [block[picked] for block in blocks]
            if norms is not None:
                parts.append(norm_columns(norms[picked], dtype))
            empty = np.zeros((stop - last, width), dtype)
            empty[:, high - low : high - low + 1] = 1
            return np.concatenate([np.concatenate(parts, axis=1), empty])

        shape = (count + 1, width)
        self.rows = variable_from_rows(shape, dtype, rows, f"rows_{low}_{high}")

    def query_part(self, queries: tf.Tensor) -> tf.Tensor:
        """The queries' dims that face a row's columns: (queries, width), 0 at the norm columns."""
        part = queries[:, self.low : self.high]
        return tf.pad(part, [[0, 0], [0, self.norm_width]]) if self.norm_width else part

    def inverse_norms(self, rows: tf.Tensor) -> tf.Tensor | None:
        """The inverse norms within float32 `rows` (..., width), or `None` for metric="dot"."""
        if not self.norm_width:
            return None
        columns = rows[..., self.high - self.low :]
        return columns[..., 0] if self.norm_width == 1 else tf.reduce_sum(columns, axis=-1)


def variable_from_ids(ids: np.ndarray) -> tf.Variable:
    """The ids as a variable (rows + 1,), int64 or string; the last one, -1 or "", means none."""
    if ids.dtype.kind == "U":
        values = tf.constant([*(one.encode() for one in ids.tolist()), b""], tf.string)
    else:
        values = np.append(ids, -1)
    return tf.Variable(values, trainable=False, name="ids")
