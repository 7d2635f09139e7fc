"""Two handwritten digits side by side: the numbers 00 to 99, made of labelled digits."""

from __future__ import annotations

import numpy as np

from mrl_keras.checks import whole_number

NUMBERS = tuple(f"{number:02}" for number in range(100))
"""The classes: "00" to "99"."""


def digit_pairs(images, labels, per_class: int, seed=0):
    """Numbers of two digits: each class `10 * tens + ones` has as many distinct pairs.

    For each class, `per_class` of all pairs of an image of the tens digit (left) and one of the
    ones digit (right) are drawn without replacement; then the pairs are shuffled. So the pairs of
    disjoint images have no image in common either.

    Args:
        images: (examples, height, width, channels).
        labels: ints (examples,), 0 to 9; each digit needs an example.
        per_class: int, pairs of each of the 100 classes.
        seed: int or ints, of the draws, as NumPy's `default_rng` takes it. Default 0.

    Returns:
        (images (100 * per_class, height, 2 * width, channels), labels int64 (100 * per_class,),
        sources int64 (100 * per_class, 2), the rows of the left and the right image).

    Raises:
        ValueError: shapes or labels that don't fit, a digit without an example, or more pairs than
            there are of some class.

    Example:

    >>> digits = np.arange(10).reshape(10, 1, 1, 1)
    >>> pairs, numbers, sources = digit_pairs(digits, np.arange(10), per_class=1)
    >>> pairs.shape, sorted(numbers.tolist()) == list(range(100))
    ((100, 1, 2, 1), True)
    >>> bool((pairs[:, 0, :, 0] @ [10, 1] == numbers).all())
    True
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4 or labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            "`images` must be (examples, height, width, channels) and `labels` ints (examples,). "
            f"Received {images.shape}, and {labels.dtype} {labels.shape}."
        )
    per_class = whole_number(per_class, "`per_class`")
    rows = [np.flatnonzero(labels == digit) for digit in range(10)]
    counts = [len(of_digit) for of_digit in rows]
    if sum(counts) != len(labels) or not min(counts):
        raise ValueError(
            f"`labels` must be the digits 0 to 9, each of them at least once. Received {counts} "
            f"examples of these among {len(labels)}."
        )
    if per_class > min(counts) ** 2:
        raise ValueError(
            f"`per_class` must not exceed the {min(counts) ** 2} pairs that {min(counts)} images "
            f"of the rarest digit give. Received {per_class}."
        )
    rng, sources = np.random.default_rng(seed), []
    for number in range(100):
        left, right = rows[number // 10], rows[number % 10]
        drawn = rng.choice(len(left) * len(right), per_class, replace=False)
        sources.append(np.stack([left[drawn // len(right)], right[drawn % len(right)]], axis=1))
    order = rng.permutation(100 * per_class)
    sources = np.concatenate(sources)[order]
    numbers = np.repeat(np.arange(100, dtype="int64"), per_class)[order]
    pairs = np.concatenate([images[sources[:, 0]], images[sources[:, 1]]], axis=2)
    return pairs, numbers, sources
