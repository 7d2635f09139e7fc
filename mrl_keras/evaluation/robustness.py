"""Accuracy on other domains, beside the clean run on the same classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mrl_keras.evaluation.neighbours import check_labels
from mrl_keras.nesting import NestingDims


@dataclass(frozen=True)
class RobustnessRow:
    """Accuracy at one dim on one set: `shifted`, and `clean` on the same classes."""

    shifted: float
    clean: float


def robustness_accuracy(
    predict, clean, sets: Iterable, dims
) -> dict[str, dict[int, RobustnessRow]]:
    """Top-1 accuracy on out-of-domain sets at every prefix, over the classes that a set has.

    The logits of other classes are left out in both runs, and clean examples of other classes too.

    Args:
        predict: function, images -> logits (images, prefixes, classes).
        clean: pair (images, labels), the in-domain held-out set.
        sets: tuples (name, images, labels, mapping): `mapping` is a dict from the set's labels to
            the model's classes, or `None` for the same labels.
        dims: ints, the prefixes on axis 1 of the logits.

    Returns:
        dict from name to dict from dim to `RobustnessRow`.

    Raises:
        ValueError: an empty set, labels without a class, a class absent from the clean set,
            logits of another shape or with NaN, no set, or a repeated name.

    Source: arXiv 2205.13147, Section 5.1, Table 17.
    """
    dims, rows = NestingDims(dims), {}
    clean_logits, clean_labels = _logits(predict, *clean, dims, "clean")
    count = clean_logits.shape[-1]
    _check_classes(clean_labels, count, "clean")
    for name, images, labels, mapping in sets:
        if name in rows:
            raise ValueError(f"Names of sets must differ. Received {name!r} twice.")
        logits, labels = _logits(predict, images, labels, dims, name)
        labels = _mapped(labels, mapping, name)
        _check_classes(labels, count, name)
        classes = np.unique(labels)
        absent = np.setdiff1d(classes, clean_labels)
        if len(absent):
            raise ValueError(f"The clean set lacks the classes {absent.tolist()} of {name!r}.")
        same = np.isin(clean_labels, classes)
        shifted = _accuracy(logits, labels, classes)
        beside = _accuracy(clean_logits[same], clean_labels[same], classes)
        pairs = zip(shifted, beside, strict=True)
        rows[name] = {d: RobustnessRow(*p) for d, p in zip(dims, pairs, strict=True)}
    if not rows:
        raise ValueError("`sets` must hold at least one set. Received none.")
    return rows


def _accuracy(logits, labels, classes):
    guess = classes[logits[:, :, classes].argmax(axis=-1)]
    return (guess == labels[:, None]).mean(axis=0).tolist()


def _logits(predict, images, labels, dims, name):
    if not len(images):
        raise ValueError(f"The set {name!r} holds no image.")
    labels = check_labels(labels, images, f"labels of {name}")
    logits = np.asarray(predict(images))
    if logits.ndim != 3 or logits.shape[:2] != (len(images), len(dims)):
        raise ValueError(
            f"`predict` must give ({len(images)}, {len(dims)} prefixes, classes) for {name!r}. "
            f"Received shape {logits.shape}."
        )
    if np.isnan(logits).any():
        raise ValueError(f"`predict` gave NaN logits for {name!r}.")
    return logits, labels


def _mapped(labels, mapping: Mapping[int, int] | None, name):
    if mapping is None:
        return labels
    absent = sorted({int(label) for label in labels} - set(mapping))
    if absent:
        raise ValueError(f"The class mapping of {name!r} lacks the labels {absent}.")
    return np.array([mapping[int(label)] for label in labels])


def _check_classes(labels, count, name):
    if labels.min() < 0 or labels.max() >= count:
        raise ValueError(
            f"Labels of {name!r} must lie between 0 and {count - 1}. "
            f"Received {labels.min()} ... {labels.max()}."
        )
