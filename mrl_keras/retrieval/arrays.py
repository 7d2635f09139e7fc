"""Checks, ordering and padding of matrices, shared by all searches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mrl_keras.retrieval.quantized import QuantizedRows

LOWEST_SCORE = np.finfo(np.float32).min
"""The score of an empty slot: below every real score, and finite, because JSON has no infinity."""

PAD_INDEX = -1
"""The index of an empty slot; 0 is a row of the database."""

METRICS = ("cosine", "dot")
_CHUNK_ROWS = 65_536


def as_array(values) -> np.ndarray:
    """`values` as an array, also a torch tensor that carries a gradient or lies on a device."""
    if isinstance(values, np.ndarray):
        return values
    if hasattr(values, "detach"):  # torch's, without importing torch
        values = values.detach().cpu()
    return np.asarray(values)


def check_metric(metric: str) -> str:
    """`metric` itself if it is "cosine" or "dot"."""
    if metric not in METRICS:
        raise ValueError(
            f'`metric` must be "cosine" (each prefix L2-normalised by itself, which orders rows '
            f'as L2 distance does) or "dot". Received {metric!r}.'
        )
    return metric


def check_matrix(values, what: str, width: int | None = None):
    """`values` as a matrix of real numbers (rows, dims), neither copied nor cast."""
    matrix = as_array(values)
    if matrix.ndim != 2:
        raise ValueError(f"{what} must have the shape (rows, dims). Received {matrix.shape}.")
    if matrix.dtype.kind not in "fiu" and matrix.dtype.name != "bfloat16":
        raise ValueError(f"{what} must hold real numbers. Received dtype {matrix.dtype}.")
    if width is not None and matrix.shape[1] != width:
        raise ValueError(
            f"{what} must be {width} wide, the embedding width of the database. "
            f"Received the shape {matrix.shape}."
        )
    return matrix


def check_queries(values, width: int) -> np.ndarray:
    """Queries as C-ordered float32 (queries, width); a single vector is refused with advice."""
    matrix = as_array(values)
    if matrix.ndim == 1 and matrix.shape[0] == width:
        raise ValueError(
            f"`queries` must have the shape (queries, {width}). Received the single vector "
            f"{matrix.shape}; pass `queries[None]`."
        )
    matrix = check_matrix(matrix, "`queries`", width)
    # Values beyond float32 become inf here, and such rows get no results later.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(matrix, dtype=np.float32)


def as_float32(rows) -> np.ndarray:
    """`rows`, an array or `QuantizedRows`, as float32.

    bfloat16 is widened by shifting its bits, which is exact and fast.
    """
    if isinstance(rows, QuantizedRows):
        return rows.float32()
    if rows.dtype.name == "bfloat16":
        return (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return np.asarray(rows, dtype=np.float32)


def prefix_chunks(blocks: Sequence) -> Iterator[np.ndarray]:
    """A prefix of all rows from its blocks, float32 chunks (rows, dims)."""
    for start in range(0, len(blocks[0]), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        yield np.concatenate([as_float32(block[part]) for block in blocks], axis=1)


def squared_norms(rows: np.ndarray) -> np.ndarray:
    """The squared L2 norm of each float32 row; NaN, inf and overflow come out non-finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.einsum("nd,nd->n", rows, rows)


def refuse_rows(bad: np.ndarray, first_row: int) -> None:
    """Raises if any of `bad` (rows,) is true, naming the row numbers counted from `first_row`."""
    if not bad.any():
        return
    numbers = np.flatnonzero(bad) + first_row
    shown = ", ".join(str(number) for number in numbers[:20])
    more = f" and {len(numbers) - 20} more" if len(numbers) > 20 else ""
    raise ValueError(
        "The database must hold finite rows whose squared norms fit float32. Rows with NaN, inf "
        f"or overflow: {shown}{more}. Remove or repair them before building."
    )


def inverse_norms(squared: np.ndarray) -> np.ndarray:
    """1 / norm from squared norms, as float32; 0 where the norm is 0, so zero rows score 0."""
    norms = np.sqrt(squared, dtype=np.float32)
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)


def order_rows(scores: np.ndarray, indices: np.ndarray):
    """Each row of `scores` descending, `indices` alongside; ties by ascending index.

    Args:
        scores: float32 (queries, m).
        indices: int (queries, m).

    Returns:
        (scores, indices), both (queries, m).
    """
    order = np.lexsort((indices, -scores), axis=-1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(indices, order, 1)


def best_columns(scores: np.ndarray, k: int) -> np.ndarray | None:
    """Columns of the `k` highest scores of each row (queries, k), in no order.

    `None` where there are `k` columns or fewer, and all of them stay.
    """
    spare = scores.shape[1] - k
    return np.argpartition(scores, spare, axis=1)[:, spare:] if spare > 0 else None


def select_rows(scores: np.ndarray, indices: np.ndarray, k: int):
    """The `k` highest of each row in no order; all of them where there are fewer than `k`.

    Args:
        scores: float32 (queries, m).
        indices: int (queries, m).
        k: int, at least 1.

    Returns:
        (scores, indices), both (queries, min(k, m)).
    """
    kept = best_columns(scores, k)
    if kept is None:
        return scores, indices
    return np.take_along_axis(scores, kept, 1), np.take_along_axis(indices, kept, 1)


def pad_columns(scores: np.ndarray, indices: np.ndarray, k: int):
    """Both widened to `k` columns with `LOWEST_SCORE` and `PAD_INDEX`."""
    missing = k - scores.shape[-1]
    if missing <= 0:
        return scores, indices
    pad = [(0, 0)] * (scores.ndim - 1) + [(0, missing)]
    return (
        np.pad(scores, pad, constant_values=LOWEST_SCORE),
        np.pad(indices, pad, constant_values=PAD_INDEX),
    )
