"""Methods that trade one end for another: points, their front, and what is said of a method."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names of those points (x, y) that no other one reaches in both, by x.

    >>> front({"a": (1, 3), "b": (2, 2), "c": (1, 2)})
    ['a', 'b']
    """

    def reached(name):
        x, y = points[name]
        others = (points[other] for other in points if other != name)
        return any(a >= x and b >= y and (a, b) != (x, y) for a, b in others)

    return sorted((name for name in points if not reached(name)), key=lambda name: points[name])


def noise_of(found: Mapping[str, np.ndarray]) -> float:
    """Half of the mean distance of the seeds (seeds, ends), over all methods and both ends."""
    spreads = [values.max(axis=0) - values.min(axis=0) for values in found.values()]
    return float(np.mean(spreads)) / 2


def verdict(
    name: str,
    means: Mapping[str, tuple[float, float]],
    noise: float,
    constants: Collection[str],
) -> str:
    """A sentence: whether constant weights reach what a method does, at both ends.

    >>> means = {"1": (80.0, 90.0), "adaloss": (82.0, 90.0)}
    >>> verdict("adaloss", means, 0.5, ["1"])
    'ahead: no constant comes within 0.50 points of it at both ends'
    """
    small, full = means[name]
    near = [
        one for one in constants if means[one][0] >= small - noise and means[one][1] >= full - noise
    ]
    if not near:
        return f"ahead: no constant comes within {noise:.2f} points of it at both ends"
    better = [
        one
        for one in near
        if means[one][0] >= small
        and means[one][1] >= full
        and max(means[one][0] - small, means[one][1] - full) > noise
    ]
    if better:
        return f"does not win: behind {', '.join(better)} by more than {noise:.2f} points at an end"
    return f"does not win: level with {', '.join(near)} within {noise:.2f} points"
