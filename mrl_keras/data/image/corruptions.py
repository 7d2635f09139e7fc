"""Corruptions of small images in five severities, deterministic by seed."""

from __future__ import annotations

import numpy as np

from mrl_keras.checks import whole_number


def corrupt(images, kind: str, severity: int, seed: int = 0) -> np.ndarray:
    """Corrupted copies of small colour images, in the manner of CIFAR-10-C.

    The kinds are this project's own: accuracies are not to be compared with CIFAR-10-C's.

    Args:
        images: uint8 (images, height, width, channels).
        kind: one of `CORRUPTIONS`.
        severity: int from 1 (mild) to 5.
        seed: int, for the kinds with noise. Default 0.

    Returns:
        uint8, the shape of `images`.

    Raises:
        ValueError: other dtypes or shapes, no image, an unknown kind, or a severity outside 1
            to 5.

    Example:

    >>> corrupt(np.full((1, 8, 8, 3), 100, "uint8"), "brightness", 5)[0, 0, 0].tolist()
    [190, 190, 190]

    Source: the kinds follow arXiv 1903.12261.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise ValueError(
            "`images` must be uint8 (images, height, width, channels), with at least one image. "
            f"Received {images.dtype} of shape {images.shape}."
        )
    if kind not in _KINDS:
        raise ValueError(f"`kind` must be one of {list(CORRUPTIONS)}. Received {kind!r}.")
    severity = whole_number(severity, "`severity`")
    if severity > 5:
        raise ValueError(f"`severity` must lie between 1 and 5. Received {severity}.")
    function, strengths = _KINDS[kind]
    generator = np.random.default_rng(whole_number(seed, "`seed`", least=0))
    changed = function(images.astype("float32"), strengths[severity - 1], generator)
    return np.clip(np.rint(changed), 0, 255).astype("uint8")


def _gaussian_noise(x, deviation, generator):
    return x + deviation * generator.standard_normal(x.shape, dtype="float32")


def _shot_noise(x, photons, generator):
    return generator.poisson(x / 255.0 * photons) * (255.0 / photons)


def _impulse_noise(x, share, generator):
    hit = generator.random(x.shape) < share
    return np.where(hit, 255.0 * (generator.random(x.shape) < 0.5), x)


def _gaussian_blur(x, deviation, generator):
    radius = int(np.ceil(3 * deviation))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / deviation) ** 2)
    weights /= weights.sum()
    for axis in (1, 2):
        pad = [(radius, radius) if i == axis else (0, 0) for i in range(4)]
        padded, size = np.pad(x, pad, mode="edge"), x.shape[axis]
        parts = (padded.take(range(i, i + size), axis=axis) for i in range(len(weights)))
        x = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    return x


def _brightness(x, shift, generator):
    return x + shift


def _contrast(x, factor, generator):
    mean = x.mean(axis=(1, 2), keepdims=True)
    return mean + factor * (x - mean)


def _pixelate(x, factor, generator):
    """The mean of each cell, whose side is 1 / factor pixels on average."""
    for axis in (1, 2):
        cell = np.floor(np.arange(x.shape[axis]) * factor).astype(int)
        _, starts, sizes = np.unique(cell, return_index=True, return_counts=True)
        sums = np.add.reduceat(x, starts, axis=axis)
        x = np.repeat(sums / np.expand_dims(sizes, tuple({0, 1, 2, 3} - {axis})), sizes, axis=axis)
    return x


_KINDS = {
    "gaussian_noise": (_gaussian_noise, (8, 14, 20, 27, 35)),
    "shot_noise": (_shot_noise, (200, 100, 50, 30, 18)),
    "impulse_noise": (_impulse_noise, (0.01, 0.03, 0.06, 0.1, 0.17)),
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.8, 1.1, 1.5)),
    "brightness": (_brightness, (15, 30, 45, 65, 90)),
    "contrast": (_contrast, (0.75, 0.6, 0.45, 0.3, 0.18)),
    "pixelate": (_pixelate, (0.8, 0.65, 0.5, 0.4, 0.3)),
}

CORRUPTIONS = tuple(_KINDS)
"""The kinds of `corrupt`."""
