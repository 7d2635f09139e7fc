"""Linear classification accuracy at every prefix: of a trained head, or of a probe."""

from __future__ import annotations

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.evaluation.checks import check_classes_known, check_labels, checked_logits
from mrl_keras.nesting import NestingDims


def head_accuracy(nested_logits, labels, dims, top: int = 1) -> dict[int, float]:
    """Top-k accuracy of a trained head at each of its prefixes (Tables 1 and 4).

    Args:
        nested_logits: (examples, prefixes, classes), the output of `MatryoshkaDense`.
        labels: ints (examples,).
        dims: ints, the prefixes on axis 1.
        top: int, k; an example is right when its class is among the k of highest logit. Of equal
            logits the first class comes first. Default 1.

    Returns:
        dict from dim to the fraction of examples classified right.

    Raises:
        ValueError: shapes that don't fit, no examples, NaN logits, labels outside the classes, or
            more than there are asked for with `top`.

    Example:

    >>> import numpy as np
    >>> from mrl_keras.evaluation import head_accuracy
    >>> logits = np.array([[[2.0, 1.0], [1.0, 2.0]]])
    >>> head_accuracy(logits, [1], dims=[4, 8])
    {4: 0.0, 8: 1.0}
    """
    logits, labels, dims = checked_logits(nested_logits, labels, dims)
    right = among_top(logits, labels, top).mean(axis=0)
    return {dim: float(value) for dim, value in zip(dims, right, strict=True)}


def among_top(scores, places, top: int) -> np.ndarray:
    """Whether the class at `places` is among the `top` of highest score; of equals the first wins.

    Args:
        scores: (examples, prefixes, classes).
        places: ints (examples,), positions on the last axis.
        top: int, at most the classes.

    Returns:
        bools (examples, prefixes).
    """
    if whole_number(top, "`top`") > scores.shape[-1]:
        raise ValueError(f"`top` must not exceed the {scores.shape[-1]} classes. Received {top}.")
    if top == 1:
        return scores.argmax(axis=-1) == places[:, None]
    places = places[:, None, None]
    own = np.take_along_axis(scores, np.broadcast_to(places, (*scores.shape[:2], 1)), axis=-1)
    before = np.arange(scores.shape[-1]) < places
    ahead = (scores > own) | ((scores == own) & before)
    return ahead.sum(axis=-1) < top


def linear_probe_accuracy(
    train_embeddings,
    train_labels,
    embeddings,
    labels,
    dims,
    inverse_regularization: float = 1.0,
    top: int = 1,
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
        top: int, k of top-k accuracy, at most the classes of `train_labels`. Default 1.

    Returns:
        dict from dim to the fraction of held-out examples classified right.

    Raises:
        ValueError: labels or dims that don't fit the embeddings, no held-out example, one class
            only, a held-out class that no train example has, or `inverse_regularization` not above
            zero.
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
    check_classes_known(labels, train_labels)
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
        accuracy[dim] = _probe_accuracy(probe, test[:, :dim], labels, top)
    return accuracy


def _probe_accuracy(probe, rows, labels, top):
    scores = probe.decision_function(rows)
    if scores.ndim == 1:  # scikit-learn gives two classes one score, of the second
        scores = np.stack([-scores, scores], axis=1)
    places = np.searchsorted(probe.classes_, labels)
    return float(among_top(scores[:, None], places, top).mean())


def _logistic_regression(inverse_regularization):
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError('This needs scikit-learn: pip install "mrl_keras[data]"') from error
    return LogisticRegression(C=inverse_regularization, max_iter=1000, warm_start=True)


def _check_probe(train, train_labels, test, dims, inverse_regularization):
    fits = train.ndim == test.ndim == 2 and train.shape[1] == test.shape[1]
    if not fits or not len(test):
        raise ValueError(
            "The embeddings must be (examples, d) with one width d, and an example held out. "
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
