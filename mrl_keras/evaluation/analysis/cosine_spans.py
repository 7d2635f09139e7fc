"""How far the cosine similarities of positive and of random pairs lie apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrl_keras.evaluation.classification.few_shot import checked_embeddings, unit_rows
from mrl_keras.nesting import NestingDims


@dataclass(frozen=True)
class CosineSpan:
    """Mean cosine of positive and of random pairs; `span` is their difference."""

    positive: float
    random: float

    @property
    def span(self) -> float:
        """`positive` - `random`."""
        return self.positive - self.random


def cosine_spans(queries, documents, dims) -> dict[int, CosineSpan]:
    """Mean cosine of aligned pairs and of all other pairs, at every prefix.

    Args:
        queries: (pairs, d).
        documents: (pairs, d); row i is the positive of query i, and random to all others.
        dims: ints, ascending, the prefixes.

    Returns:
        dict from dim to `CosineSpan`.

    Raises:
        ValueError: fewer than two pairs, shapes that don't fit, or non-finite numbers.

    Example:

    >>> from mrl_keras.evaluation import cosine_spans
    >>> cosine_spans(np.eye(2), np.eye(2), dims=[2])[2].span
    1.0

    Source: arXiv 2205.13147, Table 6.
    """
    dims = NestingDims(dims)
    first = checked_embeddings(queries, dims, "queries")
    second = checked_embeddings(documents, dims, "documents")
    if first.shape != second.shape or len(first) < 2:
        raise ValueError(
            "`queries` and `documents` must have one shape, with at least two pairs. "
            f"Received {first.shape} and {second.shape}."
        )
    spans, count = {}, len(first)
    for dim in dims:
        one, other = unit_rows(first[:, :dim]), unit_rows(second[:, :dim])
        positive = np.sum(one * other)
        # The sum over all pairs is the product of the sums, so that no (pairs, pairs) is made.
        everything = one.sum(axis=0) @ other.sum(axis=0)
        random = (everything - positive) / (count * (count - 1))
        spans[dim] = CosineSpan(float(positive / count), float(random))
    return spans
