"""Accuracy on images of another domain, beside clean images of the same classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mrl_keras.evaluation.checks import check_labels
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
            the model's classes (see `class_mapping`), or `None` for the same labels. A label may
            stand for several classes, as ObjectNet's do: then each of them is right.
        dims: ints, the prefixes on axis 1 of the logits.

    Returns:
        dict from name to dict from dim to `RobustnessRow`.

    Raises:
        ValueError: an empty set, labels without a class, a class that two labels stand for, labels
            that no clean example has a class of, logits of another shape or with NaN, no set, or a
            repeated name.

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
        present, labels = np.unique(labels, return_inverse=True)
        classes, groups = _classes_of(present.tolist(), mapping, count, name)
        clean_groups = groups[clean_labels]
        absent = np.setdiff1d(labels, clean_groups)
        if len(absent):
            raise ValueError(
                f"The clean set {name!r} is compared with lacks the classes of the labels "
                f"{present[absent].tolist()}."
            )
        same = clean_groups >= 0
        shifted = _accuracy(logits, labels, classes, groups)
        beside = _accuracy(clean_logits[same], clean_groups[same], classes, groups)
        pairs = zip(shifted, beside, strict=True)
        rows[name] = {d: RobustnessRow(*p) for d, p in zip(dims, pairs, strict=True)}
    if not rows:
        raise ValueError("`sets` must hold at least one set. Received none.")
    return rows


def class_mapping(
    set_classes: Sequence[str],
    model_classes: Sequence[str],
    renamed: Mapping[str, str | Sequence[str]] | None = None,
) -> dict[int, int | tuple[int, ...]]:
    """From the labels of one set to the classes of another, by their names.

    The names of a TensorFlow Datasets set are `mrl_keras.data.class_names(builder)`. imagenet2012,
    imagenet_v2, imagenet_r, imagenet_a and imagenet_sketch all name classes by WordNet id, so that
    their names alone give the mapping, whatever the numbers and the order.

    Args:
        set_classes: names of the set's classes, by label.
        model_classes: names of the model's classes, by number.
        renamed: for a set with names of its own, as ObjectNet has: from its name to the model's
            name, or to several. Default None.

    Returns:
        {label: class, or tuple of classes}, for the labels whose names the model has. Labels
        without a class are left out: drop their examples with `mapped_labels`.

    Raises:
        ValueError: no common name, names that repeat, or `renamed` with an unknown name.

    >>> class_mapping(["n03", "n01"], ["n01", "n02", "n03"])
    {0: 2, 1: 0}
    >>> class_mapping(["chair", "cow"], ["sofa", "stool"], {"chair": ["sofa", "stool"]})
    {0: (0, 1)}
    """
    renamed = {} if renamed is None else dict(renamed)
    for what, names in (("set_classes", set_classes), ("model_classes", model_classes)):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise ValueError(f"`{what}` must not repeat a name. Received {repeated[:5]} twice.")
    place = {name: i for i, name in enumerate(model_classes)}
    targets = {key: [v] if isinstance(v, str) else list(v) for key, v in renamed.items()}
    unknown = [name for name in targets if name not in set_classes]
    unknown += [name for names in targets.values() for name in names if name not in place]
    if unknown:
        raise ValueError(
            f"`renamed` must go from names of the set to names of the model. Unknown: {unknown}."
        )
    mapping = {}
    for label, name in enumerate(set_classes):
        classes = tuple(place[one] for one in targets.get(name, [name]) if one in place)
        if classes:
            mapping[label] = classes[0] if len(classes) == 1 else classes
    if not mapping:
        raise ValueError(
            "The set and the model have no class name in common: "
            f"{list(set_classes)[:3]} ... and {list(model_classes)[:3]} ... Give `renamed`."
        )
    return mapping


def mapped_labels(labels, mapping: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels of one set in the numbering of another, and which examples have one.

    For out-of-domain queries against an in-domain database (Table 9): keep the queries whose
    class the database has, and give their mapped labels to `exact_retrieval_table`.

    Args:
        labels: ints (examples,).
        mapping: from labels to classes, one for each, as `class_mapping` gives it.

    Returns:
        (kept, classes): bools (examples,), and ints for the kept examples in their order.

    Raises:
        ValueError: labels other than ints, several classes for one label, or no example left.

    >>> kept, classes = mapped_labels([4, 9, 4], {4: 0})
    >>> kept.tolist(), classes.tolist()
    ([True, False, True], [0, 0])
    """
    labels = check_labels(labels, labels, "labels")
    several = [label for label, value in mapping.items() if np.ndim(value)]
    if several:
        raise ValueError(f"One class for each label is needed. Labels with several: {several}.")
    kept = np.isin(labels, list(mapping))
    if not kept.any():
        raise ValueError("No example has a label of `mapping`.")
    return kept, np.array([mapping[int(label)] for label in labels[kept]])


def _accuracy(logits, labels, classes, groups):
    guess = groups[classes[logits[:, :, classes].argmax(axis=-1)]]
    return (guess == labels[:, None]).mean(axis=0).tolist()


def _classes_of(present, mapping, count, name):
    """(classes, groups): the classes of the labels, and each class's label by place, or -1."""
    if mapping is None:
        mapping = {label: label for label in present}
    absent = sorted(set(present) - set(mapping))
    if absent:
        raise ValueError(f"The class mapping of {name!r} lacks the labels {absent}.")
    groups = np.full(count, -1)
    for place, label in enumerate(present):
        own = np.atleast_1d(mapping[label])
        _check_classes(own, count, name)
        taken = own[groups[own] != -1]
        if len(taken):
            raise ValueError(
                f"Two labels of {name!r} stand for the class {taken[0]}: "
                f"{present[groups[taken[0]]]} and {label}."
            )
        groups[own] = place
    return np.flatnonzero(groups >= 0), groups


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


def _check_classes(labels, count, name):
    if labels.min() < 0 or labels.max() >= count:
        raise ValueError(
            f"Labels of {name!r} must lie between 0 and {count - 1}. "
            f"Received {labels.min()} ... {labels.max()}."
        )
