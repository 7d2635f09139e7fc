"""Where prefixes disagree: classes over the dims, the first right prefix, the oracle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrl_keras.nesting import NestingDims

TRENDS = ("improving", "dipping", "declining", "constant")


def class_accuracy(predictions, labels, classes: int) -> np.ndarray:
    """Accuracy of each class at each prefix.

    Args:
        predictions: ints (examples, prefixes), the class that each prefix names.
        labels: ints (examples,).
        classes: int, how many classes there are.

    Returns:
        float64 (classes, prefixes), fractions.

    Raises:
        ValueError: no examples, shapes that don't fit, labels outside the classes, or a class
            that no example has.

    >>> class_accuracy([[0, 0], [1, 0], [1, 1]], [0, 0, 1], classes=2).tolist()
    [[0.5, 1.0], [1.0, 1.0]]
    """
    right, labels = _right(predictions, labels)
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"`labels` must lie from 0 to {classes - 1}. Received {labels.min()} to {labels.max()}."
        )
    counts = np.bincount(labels, minlength=classes)
    absent = np.flatnonzero(counts == 0)
    if absent.size:
        raise ValueError(
            f"{absent.size} of {classes} classes have no example, the first of them class "
            f"{absent[0]}. Evaluate on a split that has all classes, or renumber the labels."
        )
    sums = np.stack([np.bincount(labels, column, classes) for column in right.T], axis=1)
    return sums / counts[:, None]


def relative_class_accuracy(accuracy) -> np.ndarray:
    """Accuracy of each class at each prefix less that at the widest: Figure 12's histogram.

    Args:
        accuracy: floats (classes, prefixes), as `class_accuracy` gives them.

    >>> relative_class_accuracy([[0.5, 0.75]]).tolist()
    [[-0.25, 0.0]]
    """
    accuracy = _accuracies(accuracy)
    return accuracy - accuracy[:, -1:]


def class_trends(accuracy, tolerance: float = 0.0) -> dict[str, np.ndarray]:
    """Classes by how their accuracy goes with dims.

    "improving" never falls and ends higher than it starts, "declining" never rises and ends
    lower, "constant" never changes, and "dipping" is all else: it falls somewhere and rises
    somewhere.

    Args:
        accuracy: floats (classes, prefixes), as `class_accuracy` gives them.
        tolerance: float, steps up to this do not count. Defaults to 0.

    Returns:
        {trend: ints, the classes}; each class is in exactly one.

    Raises:
        ValueError: no class, a single prefix, values outside [0, 1], or a negative tolerance.

    >>> found = class_trends([[0.1, 0.2], [0.3, 0.1], [0.4, 0.4]])
    >>> {name: classes.tolist() for name, classes in found.items()}
    {'improving': [0], 'dipping': [], 'declining': [1], 'constant': [2]}

    Source: arXiv 2205.13147, Section 5 and Figure 12.
    """
    accuracy = _accuracies(accuracy)
    if accuracy.shape[1] < 2:
        raise ValueError("A trend needs at least two prefixes. Received one.")
    if not tolerance >= 0:
        raise ValueError(f"`tolerance` must not be negative. Received {tolerance!r}.")
    steps = np.diff(accuracy, axis=1)
    rises, falls = (steps > tolerance).any(axis=1), (steps < -tolerance).any(axis=1)
    chosen = {
        "improving": rises & ~falls,
        "dipping": rises & falls,
        "declining": falls & ~rises,
        "constant": ~rises & ~falls,
    }
    return {name: np.flatnonzero(chosen[name]) for name in TRENDS}


def first_correct_dim(predictions, labels, dims: Sequence[int]) -> dict:
    """How many examples each prefix is the smallest to classify rightly (Table 22).

    Args:
        predictions: ints (examples, prefixes).
        labels: ints (examples,).
        dims: `NestingDims` or ints, the prefixes on the prefix axis.

    Returns:
        {dim: fraction of the examples, ..., None: fraction that no prefix classifies rightly};
        the fractions sum to 1.

    Raises:
        ValueError: no examples, or shapes that don't fit.

    >>> first_correct_dim([[0, 0], [1, 0], [1, 1]], [0, 0, 0], dims=[8, 16])
    {8: 0.3333333333333333, 16: 0.3333333333333333, None: 0.3333333333333333}

    Source: arXiv 2205.13147, Table 22.
    """
    right, _ = _right(predictions, labels)
    dims = NestingDims(dims)
    if len(dims) != right.shape[1]:
        raise ValueError(
            f"`predictions` must have {len(dims)} prefixes, one for each of {list(dims)}. "
            f"Received {right.shape[1]}."
        )
    first = np.where(right.any(axis=1), right.argmax(axis=1), len(dims))
    shares = np.bincount(first, minlength=len(dims) + 1) / len(first)
    return dict(zip((*dims, None), map(float, shares), strict=True))


def oracle_accuracy(predictions, labels) -> np.ndarray:
    """Accuracy of an oracle that may choose among the first m prefixes (Table 23).

    It is 1 less what no prefix classifies rightly: the paper's MRL has 81.54 = 100 - 18.46.

    Args:
        predictions: ints (examples, prefixes).
        labels: ints (examples,).

    Returns:
        float64 (prefixes,), never falling; the last is the oracle over all prefixes.

    Raises:
        ValueError: no examples, or shapes that don't fit.

    >>> oracle_accuracy([[0, 1], [1, 0], [1, 1], [0, 0]], [0, 0, 0, 0]).tolist()
    [0.5, 0.75]

    Source: arXiv 2205.13147, Table 23.
    """
    right, _ = _right(predictions, labels)
    return np.logical_or.accumulate(right, axis=1).mean(axis=0)


def _right(predictions, labels):
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.ndim != 2 or labels.shape != predictions.shape[:1] or not predictions.size:
        raise ValueError(
            "`predictions` must be (examples, prefixes) with at least one example, and `labels` "
            f"(examples,). Received the shapes {predictions.shape} and {labels.shape}."
        )
    for name, values in (("predictions", predictions), ("labels", labels)):
        if values.dtype.kind not in "iu":
            raise ValueError(f"`{name}` must be ints. Received {values.dtype}.")
    return predictions == labels[:, None], labels


def _accuracies(values):
    values = np.asarray(values, "float64")
    if values.ndim != 2 or not values.size or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            "`accuracy` must be (classes, prefixes), at least one of each, with values from 0 to "
            f"1. Received shape {values.shape}; see `class_accuracy`."
        )
    return values
