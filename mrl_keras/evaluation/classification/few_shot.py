"""Few-shot classification by the nearest class mean, at every prefix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.evaluation.checks import check_labels, checked_embeddings, unit_rows
from mrl_keras.nesting import NestingDims


@dataclass(frozen=True)
class FewShotAccuracy:
    """Accuracy over repeats: `mean`, and `half_width` of its 95 % confidence interval.

    The interval is 1.96 standard errors of the mean; `half_width` is NaN for one repeat.
    """

    mean: float
    half_width: float


@dataclass(frozen=True)
class ShotDraws:
    """How the classes and shots of a few-shot evaluation are drawn.

    Args:
        ways: int, k, classes of each repeat. Default None, all classes of the held-out labels.
        repeats: int, draws. Default 10.
        seed: int. Default 0.
    """

    ways: int | None = None
    repeats: int = 10
    seed: int = 0


def few_shot_accuracy(
    train_embeddings,
    train_labels,
    embeddings,
    labels,
    dims,
    shots: int,
    draws: ShotDraws | None = None,
) -> dict[int, FewShotAccuracy]:
    """n-shot k-way accuracy of the nearest class mean at every prefix.

    Each repeat draws some classes and `shots` train examples of each; a class is the mean of its
    shots' L2-normalised prefixes, and a held-out example goes to the class of highest cosine. All
    prefixes see the same draws.

    Args:
        train_embeddings: (train examples, d).
        train_labels: ints (train examples,).
        embeddings: (examples, d), held out.
        labels: ints (examples,).
        dims: ints, ascending, the prefixes.
        shots: int, n, train examples of each class.
        draws: `ShotDraws`: ways, repeats and seed. Default None, 10 draws of all classes.

    Returns:
        dict from dim to `FewShotAccuracy`.

    Raises:
        ValueError: non-finite embeddings, shapes or dims that don't fit, empty sets, a held-out
            class absent from the train set, fewer train examples than `shots`, or fewer classes
            than `ways`.

    Example:

    >>> from mrl_keras.evaluation import few_shot_accuracy
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> few_shot_accuracy(x, [0, 1], x, [0, 1], dims=[2], shots=1)[2].mean
    1.0

    Source: arXiv 2205.13147, Section 5.1, Table 15.
    """
    dims, draws = NestingDims(dims), draws or ShotDraws()
    train, test = checked_embeddings(train_embeddings, dims), checked_embeddings(embeddings, dims)
    train_labels = check_labels(train_labels, train, "train_labels")
    labels = check_labels(labels, test, "labels")
    shots, repeats = whole_number(shots, "`shots`"), whole_number(draws.repeats, "`repeats`")
    classes = np.unique(labels)
    ways = len(classes) if draws.ways is None else whole_number(draws.ways, "`ways`", least=2)
    if ways > len(classes):
        raise ValueError(f"`ways` must not exceed the {len(classes)} classes. Received {ways}.")
    rows = {label: np.flatnonzero(train_labels == label) for label in classes}
    for label, found in rows.items():
        if len(found) < shots:
            raise ValueError(
                f"Each class needs `shots`={shots} train examples. Class {label} has {len(found)}."
            )
    generator = np.random.default_rng(whole_number(draws.seed, "`seed`", least=0))
    found = {dim: [] for dim in dims}
    for _ in range(repeats):
        drawn = np.sort(generator.choice(classes, ways, replace=False))
        support = np.stack([generator.choice(rows[label], shots, replace=False) for label in drawn])
        asked = np.isin(labels, drawn)
        for dim in dims:
            means = unit_rows(unit_rows(train[support, :dim]).mean(axis=1))
            guess = drawn[(test[asked, :dim] @ means.T).argmax(axis=1)]
            found[dim].append(np.mean(guess == labels[asked]))
    return {dim: _summary(np.array(values)) for dim, values in found.items()}


def _summary(values):
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return FewShotAccuracy(float(values.mean()), float(1.96 * error))
