"""Logits of all prefixes: views of them, checks, and each prefix's confidence and prediction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mrl_keras.nesting import NestingDims

_BLOCK_VALUES = 4_000_000


def prefix_confidence(logits, prefixes=None, temperatures=None):
    """The largest softmax probability of every prefix, and its class.

    Args:
        logits: (examples, prefixes, classes), or (views, examples, prefixes, classes), where the
            views' probabilities are averaged (test-time augmentation).
        prefixes: how many there must be on the prefix axis. Default None, any number.
        temperatures: one for each prefix, by which logits are divided. Default None, ones.

    Returns:
        (confidence float64, predictions int64), both (examples, prefixes).

    Raises:
        ValueError: another shape, or logits that are not finite.

    Example:

    >>> confidence, predictions = prefix_confidence(np.log([[[0.8, 0.2], [0.1, 0.9]]]))
    >>> confidence.round(6).tolist(), predictions.tolist()
    ([[0.8, 0.9]], [[0, 1]])
    """
    views = check_logits(logits, prefixes)
    _, examples, prefixes, classes = views.shape
    scale = np.ones(prefixes) if temperatures is None else np.asarray(temperatures, "float64")
    confidence = np.empty((examples, prefixes))
    predictions = np.empty((examples, prefixes), "int64")
    step = max(1, _BLOCK_VALUES // (prefixes * classes))
    for start in range(0, examples, step):
        rows = slice(start, start + step)
        mean = sum(softmax(view[rows] / scale[:, None]) for view in views) / len(views)
        confidence[rows], predictions[rows] = mean.max(axis=-1), mean.argmax(axis=-1)
    return confidence, predictions


def flipped_views(predict: Callable, images) -> np.ndarray:
    """Logits of images and of their mirror images: test-time augmentation by horizontal flip.

    Args:
        predict: function, images (batch, height, width, channels) -> logits (batch, prefixes,
            classes), such as `model.predict`.
        images: (batch, height, width, channels).

    Returns:
        (2, batch, prefixes, classes), which the functions of this package take as `logits`.

    Raises:
        ValueError: images that are not four-dimensional.

    Example:

    >>> images = np.arange(4.0).reshape(1, 1, 4, 1)
    >>> flipped_views(lambda batch: batch[:, 0, :2, :], images)[:, 0, :, 0].tolist()
    [[0.0, 1.0], [3.0, 2.0]]
    """
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(
            f"`images` must be (batch, height, width, channels). Received shape {images.shape}."
        )
    return np.stack([np.asarray(predict(images)), np.asarray(predict(images[:, :, ::-1]))])


def softmax(logits) -> np.ndarray:
    """softmax over the last axis, in float64."""
    logits = np.asarray(logits, "float64")
    exponential = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponential / exponential.sum(axis=-1, keepdims=True)


def check_logits(logits, prefixes=None) -> np.ndarray:
    """`logits` as (views, examples, prefixes, classes), finite."""
    array = np.asarray(logits)
    if array.dtype.kind not in "fiu":  # ml_dtypes' bfloat16 is of kind "V"
        array = array.astype("float32")
    wanted = "prefixes" if prefixes is None else f"{prefixes} prefixes"
    fits = array.ndim in (3, 4) and 0 not in (*array.shape[-2:], *array.shape[:-3])
    if not fits or prefixes not in (None, array.shape[-2]):
        raise ValueError(
            f"`logits` must be (examples, {wanted}, classes), or (views, examples, {wanted}, "
            f"classes) for test-time augmentation. Received shape {array.shape}."
        )
    views = array if array.ndim == 4 else array[None]
    finite = np.ones(views.shape[1], bool)
    for view in views:
        finite &= np.isfinite(view).all(axis=(1, 2))
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise ValueError(
            f"`logits` must be finite. Those of {len(bad)} examples hold NaN or infinity, the "
            f"first in row {bad[0]}; leave these rows out, or repair the model."
        )
    return views


def check_labelled(logits, labels, dims):
    """(views, labels, NestingDims): logits with one label in range for each example.

    Raises:
        ValueError: no example, a wrong number of labels, or a label outside the classes.
    """
    dims = NestingDims(dims)
    views = check_logits(logits, len(dims))
    examples, classes = views.shape[1], views.shape[3]
    labels = np.asarray(labels)
    if examples == 0:
        raise ValueError("`logits` must hold at least one example. Received none.")
    if labels.shape != (examples,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"`labels` must be {examples} ints, one for each example. "
            f"Received shape {labels.shape} of dtype {labels.dtype}."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"`labels` must lie from 0 to {classes - 1}, the classes of the logits. "
            f"Received values from {labels.min()} to {labels.max()}."
        )
    return views, labels.astype("int64"), dims
