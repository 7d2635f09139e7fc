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
    train_embeddings, train_labels, embeddings, labels, dims, inverse_regularization: float = 1.0
) -> dict[int, float]:
    """Accuracy of a multinomial logistic regression fitted on each frozen prefix.

    The probe for prefixes that no head was trained on, such as interpolated ones. The
    prefixes are fitted in ascending order, each starting from the solution of the one
    before it with zeros for the new dims.

    Args:
        train_embeddings: (train examples, d).
        train_labels: ints (train examples,), of at least two classes.
        embeddings: (examples, d), held out.
        labels: ints (examples,).
        dims: ints, ascending, the prefixes to probe, the last at most d.
        inverse_regularization: scikit-learn's C, on components standardised with the mean
            and deviation of the train embeddings. Default 1.0.

    Returns:
        dict from dim to the fraction of held-out examples classified right.

    Raises:
        ValueError: labels or dims that don't fit the embeddings, one class only, or
            `inverse_regularization` not above zero.
        ImportError: scikit-learn is missing.

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
    _check_probe(train, train_labels, test, dims, inverse_regularization)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation[deviation == 0.0] = 1.0
    train, test = (train - mean) / deviation, (test - mean) / deviation
    probe = _logistic_regression(inverse_regularization)
    accuracy = {}
    for low, dim in zip((0, *dims), dims, strict=False):
        if low:
            new = np.zeros((len(probe.coef_), dim - low))
            probe.coef_ = np.concatenate([probe.coef_, new], axis=1)
        probe.fit(train[:, :dim], train_labels)
        accuracy[dim] = float(probe.score(test[:, :dim], labels))
    return accuracy


def _logistic_regression(inverse_regularization):
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError('This needs scikit-learn: pip install "mrl_keras[data]"') from error
    return LogisticRegression(C=inverse_regularization, max_iter=1000, warm_start=True)


def _check_probe(train, train_labels, test, dims, inverse_regularization):
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise ValueError(
            "The embeddings must be (examples, d) with one width d. "
            f"Received shapes {train.shape} and {test.shape}."
        )
    if dims.width > train.shape[1]:
        raise ValueError(
            f"`dims` must not exceed the embedding width {train.shape[1]}. Received {list(dims)}."
        )
    if not inverse_regularization > 0.0:
        raise ValueError(
            f"`inverse_regularization` must be above zero. Received {inverse_regularization!r}."
        )
    if len(np.unique(train_labels)) < 2:
        raise ValueError("`train_labels` must hold at least two classes. Received one.")
