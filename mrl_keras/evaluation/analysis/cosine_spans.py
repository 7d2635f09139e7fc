"""How far the cosine similarities of positive and of random pairs lie apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrl_keras.evaluation.checks import check_classes_known, checked_embeddings, unit_rows
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


def same_class_rows(labels, train_labels, seed: int = 0) -> np.ndarray:
    """For each example the row of a random train example of its class.

    Args:
        labels: ints (examples,).
        train_labels: ints (train examples,), with every class of `labels`.
        seed: int. Default 0.

    Returns:
        ints (examples,).

    Raises:
        ValueError: a class that no train example has.

    >>> same_class_rows([1, 0], [0, 1]).tolist()
    [1, 0]
    """
    labels, train_labels = np.asarray(labels), np.asarray(train_labels)
    check_classes_known(labels, train_labels)
    generator, rows = np.random.default_rng(seed), np.empty(len(labels), int)
    for label in np.unique(labels):
        here = np.flatnonzero(labels == label)
        rows[here] = generator.choice(np.flatnonzero(train_labels == label), len(here))
    return rows
