"""The paper's greedy thresholds, and calibrated temperatures, from held-out logits."""

from __future__ import annotations

import numpy as np
from scipy import optimize

from mrl_keras.cascade.logits import check_labelled, prefix_confidence, softmax
from mrl_keras.cascade.policy import CascadePolicy

PAPER_GRID = tuple(np.linspace(0.1, 1.0, 100).tolist())
"""The authors' 100 candidates for a threshold, evenly spaced from 0.1 to 1."""

TEMPERATURE_RANGE = (0.05, 20.0)


def learn_thresholds(logits, labels, dims, grid=None, temperatures=None) -> CascadePolicy:
    """The paper's greedy thresholds, learned on held-out examples.

    For each pair of neighbouring prefixes by itself, over all held-out examples: classify with
    the smaller one where its confidence is strictly above the threshold, else with the larger
    one, and take the smallest threshold of the grid that gives the best accuracy.

    Args:
        logits: (examples, prefixes, classes) or (views, examples, prefixes, classes).
        labels: ints (examples,).
        dims: `NestingDims` or ints, the prefixes on the prefix axis.
        grid: floats from 0 to 1, the thresholds to try. Default None, the authors' 100 values
            evenly spaced from 0.1 to 1.
        temperatures: one float above 0 for each prefix, see `calibrate_temperatures`. Default
            None, ones.

    Returns:
        `CascadePolicy`.

    Raises:
        ValueError: shapes that don't fit, logits that are not finite, labels outside the
            classes, no examples, or a grid outside [0, 1].

    A class that no held-out example has is no error: thresholds are shared by all classes.

    Example:

    >>> logits = np.log([[[0.9, 0.1], [0.2, 0.8]], [[0.4, 0.6], [0.7, 0.3]]])
    >>> policy = learn_thresholds(logits, [0, 0], dims=[8, 16], grid=[0.5, 0.7, 0.8])
    >>> policy.thresholds
    (0.7,)

    Source: arXiv 2205.13147, Section 4.2.1 and Appendix D.1.
    """
    views, labels, dims = check_labelled(logits, labels, dims)
    confidence, predictions = prefix_confidence(views, len(dims), temperatures)
    thresholds = greedy_thresholds(confidence, predictions == labels[:, None], threshold_grid(grid))
    return CascadePolicy(dims, thresholds, () if temperatures is None else temperatures)


def greedy_thresholds(confidence, right, grid) -> list[float]:
    """The greedy threshold of each prefix but the last.

    Args:
        confidence: (examples, prefixes).
        right: bools (examples, prefixes), whether the prefix is right.
        grid: floats (g,), ascending.
    """
    return [
        float(grid[np.argmax(_right_by_threshold(confidence[:, j], right[:, j : j + 2], grid))])
        for j in range(confidence.shape[1] - 1)
    ]


def _right_by_threshold(confidence, right, grid):
    """ints (g,): how many are right where the first of two prefixes answers above the threshold.

    An example whose confidence is above the first b thresholds is answered by the first prefix
    at these, and by the second at the others.
    """
    above = np.searchsorted(grid, confidence, side="left")
    gain = right[:, 0].astype("int64") - right[:, 1]
    by_count = np.zeros(len(grid) + 1, "int64")
    np.add.at(by_count, above, gain)
    return right[:, 1].sum() + by_count[::-1].cumsum()[::-1][1:]


def threshold_grid(grid) -> np.ndarray:
    """The values of `grid` in ascending order, without repeats; the authors' grid for None."""
    try:
        values = np.unique(np.asarray(PAPER_GRID if grid is None else grid, "float64"))
    except (TypeError, ValueError):
        raise ValueError(f"`grid` must hold floats from 0 to 1. Received {grid!r}.") from None
    if values.size == 0 or not (values[0] >= 0.0 and values[-1] <= 1.0):
        raise ValueError(f"`grid` must hold floats from 0 to 1. Received {grid!r}.")
    return values


def calibrate_temperatures(logits, labels, dims) -> tuple[float, ...]:
    """The temperature of every prefix that makes held-out labels most likely.

    Minimises the mean of -log softmax(logits_m / T_m)[label]. This is convex in 1 / T, so the
    minimum is where the slope is 0. Temperatures lie from 0.05 to 20; a prefix that is always
    right gets the lower end.

    Args:
        logits: (examples, prefixes, classes) or (views, examples, prefixes, classes); each view
            counts as an example.
        labels: ints (examples,).
        dims: `NestingDims` or ints, the prefixes on the prefix axis.

    Returns:
        One float for each prefix.

    Raises:
        ValueError: as `learn_thresholds`.

    Example:

    >>> odds = np.log([[[0.75, 0.25]]] * 3 + [[[0.25, 0.75]]])  # right three times out of four
    >>> calibrate_temperatures(2 * odds, [0, 0, 0, 0], dims=[8])[0].__round__(3)
    2.0

    Source: Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599.
    """
    views, labels, dims = check_labelled(logits, labels, dims)
    labels = np.tile(labels, len(views))
    return tuple(
        _temperature(np.concatenate([view[:, j] for view in views]), labels)
        for j in range(len(dims))
    )


def _temperature(logits, labels):
    """1 over the root of the loss's slope in 1 / T, which ascends."""
    logits = np.asarray(logits, "float64")
    logits = logits - logits.max(axis=-1, keepdims=True)
    chosen = logits[np.arange(len(labels)), labels].mean()

    def slope(inverse):
        return (softmax(inverse * logits) * logits).sum(axis=-1).mean() - chosen

    lowest, highest = TEMPERATURE_RANGE
    if slope(1.0 / lowest) <= 0.0:
        return lowest
    if slope(1.0 / highest) >= 0.0:
        return highest
    return float(1.0 / optimize.brentq(slope, 1.0 / highest, 1.0 / lowest, rtol=1e-7))
