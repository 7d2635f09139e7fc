"""The candidates of a rerank: their check, and their inner products with the queries."""

from __future__ import annotations

import numpy as np

from mrl_keras.retrieval.arrays import PAD_INDEX, as_float32

GATHER_BYTES = 8 << 20
"""The most that the rows gathered at once may take, so that they stay in the caches."""


def gathered_products(block: np.ndarray, rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Inner products of each query with its own rows of a block.

    Args:
        block: (all rows, dims) table, float32, bfloat16 or `QuantizedRows`.
        rows: int (queries, m) row numbers.
        queries: float32 (queries, dims).

    Returns:
        float32 (queries, m).
    """
    # `take` copies whole rows, which indexing with the same array does two or three times slower.
    return np.matmul(as_float32(np.take(block, rows, axis=0)), queries[:, :, None])[..., 0]


def check_candidates(candidates: np.ndarray, n_queries: int, n_rows: int) -> np.ndarray:
    """Candidates as int64 (queries, m), -1 in empty slots and in place of repeated rows.

    Raises:
        ValueError: another shape or dtype, or a number outside the rows.
    """
    candidates = np.asarray(candidates)
    if candidates.ndim != 2 or len(candidates) != n_queries or candidates.dtype.kind not in "iu":
        raise ValueError(
            f"`candidates` must be ints of the shape ({n_queries}, candidates). Received "
            f"{candidates.dtype} {candidates.shape}."
        )
    candidates = candidates.astype(np.int64)
    if candidates.size and (candidates.min() < PAD_INDEX or candidates.max() >= n_rows):
        raise ValueError(
            f"`candidates` must lie between 0 and {n_rows - 1}, or be -1 for an empty slot. "
            f"Received {candidates.min()} to {candidates.max()}."
        )
    ordered = np.sort(candidates, axis=1)
    twice = ordered[:, 1:] == ordered[:, :-1]
    if not (twice & (ordered[:, 1:] >= 0)).any():
        return candidates
    ordered[:, 1:][twice] = PAD_INDEX
    return ordered
