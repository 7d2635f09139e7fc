"""Linear classification accuracy at every prefix: of a trained head, or of a probe."""

from __future__ import annotations

import numpy as np

from mrl_keras.evaluation.neighbours import check_labels
from mrl_keras.nesting import NestingDims


def head_accuracy(nested_logits, labels, dims) -> dict[int, float]:
    """Top-1 accuracy of a trained head at each of its prefixes (Table 1).

    Args:
        nested_logits: (examples, prefixes, classes), the output of `MatryoshkaDense`.
        labels: ints (examples,).
        dims: ints, the prefixes on axis 1.

    Returns:
        dict from dim to the fraction of examples classified right.

    Raises:
        ValueError: shapes that don't fit.

    Example:

    >>> import numpy as np
    >>> from mrl_keras.evaluation import head_accuracy
    >>> logits = np.array([[[2.0, 1.0], [1.0, 2.0]]])
    >>> head_accuracy(logits, [1], dims=[4, 8])
    {4: 0.0, 8: 1.0}
    """
    logits, dims = np.asarray(nested_logits), NestingDims(dims)
    labels = check_labels(labels, logits, "labels")
    if logits.ndim != 3 or logits.shape[1] != len(dims):
        raise ValueError(
            f"`nested_logits` must be (examples, {len(dims)} prefixes, classes) for the dims "
            f"{list(dims)}. Received shape {logits.shape}."
        )
    right = logits.argmax(axis=-1) == labels[:, None]
    return {dim: float(value) for dim, value in zip(dims, right.mean(axis=0), strict=True)}


def linear_probe_accuracy(
    train_embeddings, train_labels, embeddings, labels, dims, l2: float = 1e-3
) -> dict[int, float]:
    """Accuracy of a least-squares linear classifier fitted on each frozen prefix.

    The probe for prefixes that no head was trained on, such as interpolated ones. For each
    prefix m it is the ridge regression of centred one-hot labels Y on the centred prefix,

        W_m = (X_m' X_m / n + l2 s I)^-1 X_m' Y / n,    s = mean diagonal of X' X / n,

    solved for all prefixes from one Cholesky factor: the factor of a leading block of the
    Gram matrix is the leading block of the factor, and the forward substitution of prefix m
    is the first m rows of that of the full width.

    Args:
        train_embeddings: (train examples, d).
        train_labels: ints (train examples,).
        embeddings: (examples, d), held out.
        labels: ints (examples,).
        dims: ints, ascending, the prefixes to probe, the last at most d.
        l2: positive ridge strength, relative to the mean variance s. Default 1e-3.

    Returns:
        dict from dim to the fraction of held-out examples classified right.

    Raises:
        ValueError: labels or dims that don't fit the embeddings, or `l2` not above zero.

    Example:

    >>> import numpy as np
    >>> from mrl_keras.evaluation import linear_probe_accuracy
    >>> x = np.array([[1.0, 0.0], [2.0, 0.1], [-1.0, 0.0], [-2.0, 0.1]])
    >>> linear_probe_accuracy(x, [0, 0, 1, 1], x, [0, 0, 1, 1], dims=[1, 2])
    {1: 1.0, 2: 1.0}
    """
    train, test = np.asarray(train_embeddings, "float64"), np.asarray(embeddings, "float64")
    train_labels = check_labels(train_labels, train, "train_labels")
    labels, dims = check_labels(labels, test, "labels"), NestingDims(dims)
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise ValueError(
            "The embeddings must be (examples, d) with one width d. "
            f"Received shapes {train.shape} and {test.shape}."
        )
    if dims.width > train.shape[1]:
        raise ValueError(
            f"`dims` must not exceed the embedding width {train.shape[1]}. Received {list(dims)}."
        )
    if not l2 > 0.0:
        raise ValueError(f"`l2` must be above zero. Received {l2!r}.")
    classes, targets = np.unique(train_labels, return_inverse=True)
    mean = train.mean(axis=0)
    weights = nested_ridge(train - mean, np.eye(len(classes))[targets], dims, l2)
    prior = np.bincount(targets) / len(targets)
    accuracy = {}
    for dim, weight in zip(dims, weights, strict=True):
        scores = (test - mean)[:, :dim] @ weight + prior
        accuracy[dim] = float(np.mean(classes[scores.argmax(axis=1)] == labels))
    return accuracy


def nested_ridge(x, y, dims, l2) -> list[np.ndarray]:
    """The ridge weights (m, outputs) of every prefix m of centred `x`, from one factor.

    Args:
        x: float (examples, d), centred.
        y: float (examples, outputs).
        dims: NestingDims of prefixes up to d.
        l2: ridge strength relative to the mean diagonal of the Gram matrix.
    """
    x = x[:, : dims.width]
    gram = x.T @ x / len(x)
    ridge = l2 * max(np.trace(gram) / len(gram), np.finfo("float64").tiny)
    factor = np.linalg.cholesky(gram + ridge * np.eye(len(gram)))
    forward = np.linalg.solve(factor, x.T @ (y - y.mean(axis=0)) / len(x))
    return [np.linalg.solve(factor[:dim, :dim].T, forward[:dim]) for dim in dims]
