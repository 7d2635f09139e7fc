"""Reranks over prefix blocks: each stage reads only the dims it adds."""

from __future__ import annotations

import numpy as np

from mrl_keras.retrieval.arrays import (
    LOWEST_SCORE,
    PAD_POSITION,
    as_float32,
    best_columns,
    inverse_norms,
    order_rows,
    pad_columns,
    squared_norms,
)

_GATHER_BYTES = 8 << 20


def rerank_blocks(index, queries, candidates, plan):
    """The engine of `NestedIndex.rerank`; `queries` are checked, `plan` holds the rerank dims."""
    candidates = _checked_candidates(candidates, len(queries), len(index))
    finite = np.isfinite(squared_norms(queries))
    candidates = np.where(finite[:, None], candidates, PAD_POSITION)
    shape = (len(queries), plan.k)
    scores = np.full(shape, LOWEST_SCORE, np.float32)
    positions = np.full(shape, PAD_POSITION, np.int64)
    for start, stop in _query_blocks(index, candidates.shape[1], len(queries), plan):
        part = slice(start, stop)
        scores[part], positions[part] = _rerank(index, queries[part], candidates[part], plan)
    return scores, positions


def _rerank(index, queries, positions, plan):
    running = np.zeros(positions.shape, np.float32)
    # Non-finite queries have no candidates left; zeros keep them out of the arithmetic.
    queries = np.where(np.isfinite(squared_norms(queries))[:, None], queries, np.float32(0))
    block = 0
    for stage, dim in enumerate(plan.dims):
        last = index.nesting_dims.index(dim)
        rows = np.maximum(positions, 0)
        while block <= last:
            low, high = index.nesting_dims.blocks[block]
            running += _products(index.blocks[block], rows, queries[:, low:high])
            block += 1
        scores = running * index.inverse_norms[rows, last]
        scores = np.where(positions < 0, -np.inf, scores)
        keep = plan.sizes[stage] if stage < len(plan.sizes) else plan.k
        kept = best_columns(scores, keep)
        if kept is not None:
            scores, positions, running = (
                np.take_along_axis(part, kept, 1) for part in (scores, positions, running)
            )
    if index.metric == "cosine":
        norms = inverse_norms(squared_norms(queries[:, : plan.dims[-1]]))[:, None]
        scores = np.multiply(scores, norms, where=positions >= 0, out=scores)
    scores = np.where(positions < 0, LOWEST_SCORE, scores)
    return pad_columns(*order_rows(scores, positions), plan.k)


def prefix_scores(index, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """What every prefix makes of the candidates, each dimension's products computed once.

    Args:
        index: `NestedIndex`.
        queries: float32 (queries, width), checked.
        candidates: int (queries, m) row numbers, -1 for empty slots.

    Returns:
        float32 (prefixes, queries, m): scores that order rows as the index's metric does (a
        query's own norm is left out); -inf for empty slots and for non-finite queries.
    """
    scores = np.empty((len(index.nesting_dims), *candidates.shape), np.float32)
    finite = np.isfinite(squared_norms(queries))
    rows = max(1, _GATHER_BYTES // (4 * max(1, candidates.shape[1]) * index.width))
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        asked = np.where(finite[part, None], queries[part], np.float32(0))
        taken, running = np.maximum(candidates[part], 0), np.float32(0)
        for place, (low, high) in enumerate(index.nesting_dims.blocks):
            running = running + _products(index.blocks[place], taken, asked[:, low:high])
            scores[place, part] = running * index.inverse_norms[taken, place]
    scores[:, (candidates < 0) | ~finite[:, None]] = -np.inf
    return scores


def _products(block, rows, queries):
    """Inner products of gathered rows (queries, m, dims) with their queries, (queries, m)."""
    # `take` copies whole rows, which indexing with the same array does two or three times slower.
    return np.matmul(as_float32(np.take(block, rows, axis=0)), queries[:, :, None])[..., 0]


def _query_blocks(index, width, n_queries, plan):
    """(start, stop) of query blocks whose largest gather stays within a few megabytes."""
    widest, kept = 1, width
    low = 0
    for stage, dim in enumerate(plan.dims):
        widest = max(widest, kept * (dim - low))
        low, kept = dim, plan.sizes[stage] if stage < len(plan.sizes) else plan.k
    rows = max(1, _GATHER_BYTES // (4 * widest))
    for start in range(0, n_queries, rows):
        yield start, min(start + rows, n_queries)


def _checked_candidates(candidates, n_queries, n_rows):
    candidates = np.asarray(candidates)
    if candidates.ndim != 2 or len(candidates) != n_queries or candidates.dtype.kind not in "iu":
        raise ValueError(
            f"`candidates` must be ints of the shape ({n_queries}, candidates). Received "
            f"{candidates.dtype} {candidates.shape}."
        )
    candidates = candidates.astype(np.int64)
    if candidates.size and (candidates.min() < PAD_POSITION or candidates.max() >= n_rows):
        raise ValueError(
            f"`candidates` must lie between 0 and {n_rows - 1}, or be -1 for an empty slot. "
            f"Received {candidates.min()} to {candidates.max()}."
        )
    return _without_repeats(candidates)


def _without_repeats(candidates):
    """Rows that occur twice for one query, with all but one occurrence turned into -1."""
    ordered = np.sort(candidates, axis=1)
    twice = ordered[:, 1:] == ordered[:, :-1]
    if not (twice & (ordered[:, 1:] >= 0)).any():
        return candidates
    ordered[:, 1:][twice] = PAD_POSITION
    return ordered
