"""Cosines of sentence pairs, and their rank correlation with human scores."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

from mrl_keras.evaluation.checks import checked_embeddings
from mrl_keras.nesting import NestingDims


def prefix_cosines(first, second, dims) -> np.ndarray:
    """The cosine of each pair at every prefix; each dimension's product is computed once.

    Args:
        first: (pairs, d).
        second: (pairs, d).
        dims: ints, ascending, the prefixes.

    Returns:
        float64 (dims, pairs); a zero prefix has cosine 0 with everything.

    Raises:
        ValueError: shapes that don't fit, no pairs, or non-finite numbers.

    Example:

    >>> prefix_cosines(np.array([[1.0, 0.0]]), np.array([[3.0, 4.0]]), dims=[1, 2]).tolist()
    [[1.0], [0.6]]
    """
    dims = NestingDims(dims)
    first = checked_embeddings(first, dims, "first")
    second = checked_embeddings(second, dims, "second")
    if first.shape != second.shape:
        raise ValueError(
            "`first` and `second` must have one shape, a row for each pair. "
            f"Received {first.shape} and {second.shape}."
        )

    def sums(one, other):
        blocks = [
            np.einsum("ij,ij->i", one[:, low:high], other[:, low:high]) for low, high in dims.blocks
        ]
        return np.cumsum(blocks, axis=0)

    norms = np.sqrt(sums(first, first) * sums(second, second))
    return sums(first, second) / np.where(norms == 0.0, 1.0, norms)


def spearman(first, second, scores, dims) -> dict[int, float]:
    """Spearman's rank correlation of cosine and score at every prefix, in one pass.

    The correlation of ranks, where equal values share the mean of their ranks: 1 where the
    cosines order the pairs as the scores do, 0 where they know nothing of the scores. Cosines are
    equal where 10 decimals are, so that the ones of parallel prefixes tie.

    Args:
        first: (pairs, d), embeddings of the first sentences.
        second: (pairs, d), of the second.
        scores: (pairs,), what people gave the pairs, on any scale.
        dims: ints, ascending, the prefixes: trained, interpolated or both.

    Returns:
        dict from dim to the correlation in [-1, 1]; NaN where all cosines are equal, as at one
        dim when all have one sign.

    Raises:
        ValueError: shapes that don't fit, fewer than two pairs, non-finite numbers, or scores
            that are all equal.

    Example:

    >>> from mrl_keras.evaluation import spearman
    >>> first = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    >>> second = np.array([[1.0, 0.1], [1.0, 2.0], [0.0, 1.0]])
    >>> spearman(first, second, [5.0, 0.0, 2.0], dims=[2])
    {2: 0.5}

    Source: arXiv 1708.00055 (the STS benchmark), for which it is the usual measure.
    """
    cosines = prefix_cosines(first, second, dims)
    scores = np.asarray(scores, "float64")
    if scores.shape != cosines.shape[1:] or len(scores) < 2 or not np.isfinite(scores).all():
        raise ValueError(
            f"`scores` must be {cosines.shape[1]} finite numbers, one for each of at least two "
            f"pairs. Received shape {scores.shape}."
        )
    if (scores == scores[0]).all():
        raise ValueError(
            f"`scores` must differ for a rank correlation. All {len(scores)} are {scores[0]}."
        )
    found = {}
    for dim, row in zip(NestingDims(dims), np.round(cosines, 10), strict=True):
        found[dim] = float(spearmanr(row, scores).statistic) if np.ptp(row) else float("nan")
    return found
