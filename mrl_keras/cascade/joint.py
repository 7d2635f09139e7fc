"""Thresholds optimised together, for accuracy at a given number of dims."""

import itertools
import math
from typing import NamedTuple

import numpy as np

from mrl_keras.cascade.greedy import greedy_thresholds, threshold_grid
from mrl_keras.cascade.logits import check_labelled, prefix_confidence
from mrl_keras.cascade.policy import CascadePolicy, accuracy_and_cost, stop_costs, stops

_PRICES, _SWEEPS = 40, 20


class FrontPoint(NamedTuple):
    """A policy with its accuracy (a fraction) and expected dim on the held-out examples."""

    policy: CascadePolicy
    accuracy: float
    expected_dim: float


def optimize_thresholds(
    logits, labels, dims, expected_dim=None, cost="last", grid=None, temperatures=None
) -> CascadePolicy:
    """The most accurate cascade found whose expected dim stays within a budget.

    The greedy thresholds look at two prefixes at a time and at accuracy alone. Here all
    thresholds are moved together: for a price per dim, each threshold in turn is set to the
    exact best one given the others (coordinate ascent), until none moves; a path of prices gives
    the front between accuracy and dims. The greedy thresholds are among the starts, so that on
    the held-out examples the result is at least as accurate as theirs at no more dims. What the
    best of the front leaves of the budget is spent by moving two thresholds at a time.

    Args:
        logits: (examples, prefixes, classes) or (views, examples, prefixes, classes).
        labels: ints (examples,).
        dims: `NestingDims` or ints, the prefixes on the prefix axis.
        expected_dim: the most dims that an example may cost on average, a number from the
            smallest dim up. Default None, what the greedy thresholds cost.
        cost: "last", the dim that answered, or "cumulative", the sum of all dims asked. Default
            "last".
        grid: floats from 0 to 1, the thresholds to try at each step. Default None, the authors'
            100 values and 0.
        temperatures: one float above 0 for each prefix. Default None, ones.

    Returns:
        `CascadePolicy`.

    Raises:
        ValueError: as `learn_thresholds`, an unknown cost, or an expected dim below the smallest.

    Example:

    >>> logits = np.log([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.2, 0.8]]])
    >>> optimize_thresholds(logits, [0, 1], dims=[8, 16], expected_dim=12).decide(logits).classes
    array([0, 1])
    """
    dims, outcomes = _outcomes(logits, labels, dims, cost, temperatures)
    if expected_dim is None:
        confidence, right, costs = outcomes
        greedy = greedy_thresholds(confidence, right, threshold_grid(None))
        expected_dim = accuracy_and_cost(confidence, right, costs, greedy)[1]
    (thresholds,) = most_accurate_thresholds(*outcomes, [expected_dim], grid)
    return CascadePolicy(dims, thresholds, () if temperatures is None else temperatures)


def threshold_front(
    logits, labels, dims, cost="last", grid=None, temperatures=None
) -> list[FrontPoint]:
    """Cascades from the cheapest to the most accurate, none beaten in both by another one found.

    Args:
        logits, labels, dims, cost, grid, temperatures: as for `optimize_thresholds`.

    Returns:
        `FrontPoint`s, dims and accuracy ascending.

    Raises:
        ValueError: as `optimize_thresholds`.

    Example:

    >>> logits = np.log([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.2, 0.8]]])
    >>> front = threshold_front(logits, [0, 1], dims=[8, 16])
    >>> [(point.accuracy, point.expected_dim) for point in front]
    [(0.5, 8.0), (1.0, 12.0)]
    """
    dims, outcomes = _outcomes(logits, labels, dims, cost, temperatures)
    temperatures = () if temperatures is None else temperatures
    return [
        FrontPoint(CascadePolicy(dims, thresholds, temperatures), accuracy, dim)
        for thresholds, accuracy, dim in _front_of(*outcomes, _with_zero(grid))
    ]


def _outcomes(logits, labels, dims, cost, temperatures):
    """(dims, (confidence, right, costs)): what every cascade over the examples is made of."""
    views, labels, dims = check_labelled(logits, labels, dims)
    confidence, predictions = prefix_confidence(views, len(dims), temperatures)
    return dims, (confidence, predictions == labels[:, None], stop_costs(dims, cost))


def best_within(front, expected_dim):
    """The most accurate point of a front whose expected dim is at most `expected_dim`."""
    try:
        budget = float(expected_dim)
    except (TypeError, ValueError):
        budget = math.nan
    cheapest = front[0][-1]
    if not budget >= cheapest - 1e-9:
        raise ValueError(
            f"`expected_dim` must be a number of at least {cheapest:g}, the cheapest cascade. "
            f"Received {expected_dim!r}."
        )
    return [point for point in front if point[-1] <= budget + 1e-9][-1]


def most_accurate_thresholds(confidence, right, costs, budgets, grid=None):
    """The thresholds found for each budget.

    Args:
        confidence, right: (examples, prefixes).
        costs: floats (prefixes,), what an answer of each prefix costs; `stop_costs` has them.
        budgets: numbers, the most that an example may cost on average.
        grid: as for `optimize_thresholds`.
    """
    grid = _with_zero(grid)
    front = _front_of(confidence, right, costs, grid)
    return [
        _spend_budget(confidence, right, costs, best_within(front, budget)[0], float(budget), grid)
        for budget in budgets
    ]


def _front_of(confidence, right, costs, grid):
    """The front over arrays: a list of (thresholds, accuracy, expected dim), dims ascending."""
    steps = len(costs) - 1
    greedy = greedy_thresholds(confidence, right, threshold_grid(None))
    # Early stopping at each prefix: a threshold of 0 lets nothing pass.
    starts = [tuple(greedy[:j] + [0.0] * (steps - j)) for j in range(steps + 1)]
    starts += [(0.0,) * j + tuple(greedy[j:]) for j in range(1, steps)]
    seen = {start: accuracy_and_cost(confidence, right, costs, start) for start in starts}
    above = np.searchsorted(grid, confidence[:, :-1], side="left")
    warm = [grid[0]] * steps, [1.0] * steps, list(greedy)
    for thresholds in warm:
        for price in _prices(costs, len(right)):
            thresholds = _ascend(above, confidence, right, price * costs, thresholds, grid)
            if thresholds not in seen:
                seen[thresholds] = accuracy_and_cost(confidence, right, costs, thresholds)
    return _front(seen)


def _with_zero(grid):
    return np.union1d([0.0], threshold_grid(grid))


def _ascend(above, confidence, right, prices, thresholds, grid):
    """Coordinate ascent of mean(right - price of the prefix that answered), to a fixed point."""
    value = right - prices
    thresholds = list(thresholds)
    for _ in range(_SWEEPS):
        before = tuple(thresholds)
        later = value[:, -1]  # what an example earns that goes beyond prefix j
        for j in reversed(range(len(thresholds))):
            earlier = confidence[:, :j] > np.asarray(thresholds[:j])
            reached = ~earlier.any(axis=1)
            thresholds[j] = _best_threshold(
                above[reached, j], value[reached, j] - later[reached], grid, thresholds[j]
            )
            later = np.where(confidence[:, j] > thresholds[j], value[:, j], later)
        if tuple(thresholds) == before:
            break
    return tuple(thresholds)


def _best_threshold(above, gain, grid, current):
    """The smallest threshold of the grid with the largest gain of those confident above it."""
    if not len(above):
        return current
    by_count = np.bincount(above, weights=gain, minlength=len(grid) + 1)
    total = by_count[::-1].cumsum()[::-1][1:]
    return float(grid[np.flatnonzero(total >= total.max() - 1e-9)[0]])


def _prices(costs, examples):
    """Prices per dim: from one example's worth over the whole range to one step's, in log steps."""
    if len(costs) == 1:
        return []
    highest = 2.0 / np.diff(costs).min()
    lowest = 0.1 / (examples * (costs[-1] - costs[0]))
    return [*np.geomspace(highest, lowest, _PRICES), 0.0]


def _front(seen):
    """(thresholds, accuracy, dim) of those that no cheaper or equal one matches in accuracy."""
    front = []
    for thresholds, (accuracy, dim) in sorted(seen.items(), key=lambda s: (s[1][1], -s[1][0])):
        if not front or accuracy > front[-1][1]:
            front.append((thresholds, accuracy, dim))
    return front


def _spend_budget(confidence, right, costs, thresholds, budget, grid) -> tuple[float, ...]:
    """Moves any two thresholds to the best pair of values within the budget, until none gains.

    Every pair of the grid's values is tried, so with two thresholds or one the result is the most
    accurate of all on the grid.

    Args:
        confidence, right: (examples, prefixes), right as bools.
        costs: floats (prefixes,), what an answer of each prefix costs.
        thresholds: floats (prefixes - 1,), to start from, within the budget.
        budget: float, the most that an example may cost on average.
        grid: floats, ascending, the values to try.

    Returns:
        The thresholds. On these examples they are at least as accurate as those given, and
        within the budget; at equal accuracy they do not cost more.
    """
    thresholds, examples = np.append(thresholds, 0.0), len(right)  # the last prefix asks for none
    above = np.searchsorted(grid, confidence, side="left")  # grid[m] passes for m < above
    reached = accuracy_and_cost(confidence, right, costs, thresholds[:-1])
    # A single threshold is paired with the last prefix, whose value changes nothing.
    places = range(min(max(2, len(costs) - 1), len(costs)))
    for _ in range(_SWEEPS):
        before = reached
        for pair in itertools.combinations(places, 2):
            earned, spent = _of_all_values(confidence, above, right, costs, thresholds, pair, grid)
            within = spent <= budget * examples + 1e-6
            best = np.lexsort((spent.ravel(), np.where(within, -earned, 1.0).ravel()))[0]
            found = earned.flat[best] / examples, spent.flat[best] / examples
            if within.flat[best] and (found[0], -found[1]) > (reached[0], -reached[1]):
                reached = found
                thresholds[list(pair)] = grid[list(np.unravel_index(best, earned.shape))]
        if reached == before:
            break
    return tuple(map(float, thresholds[:-1]))


def _of_all_values(confidence, above, right, costs, thresholds, pair, grid):
    """(examples right, dims spent), each (values of the first, of the second), of a pair.

    An example stops at the pair's first prefix where its confidence is above the first value; else
    at the second where it is above that; else where the other thresholds let it stop, `late`. One
    that stops earlier than a prefix of the pair counts as never above its value.
    """
    others = thresholds.copy()
    others[list(pair)] = np.inf
    late = stops(confidence, others[:-1])
    rows, values = np.arange(len(late)), len(grid) + 1
    at_first, at_second = (np.where(late < place, 0, above[:, place]) for place in pair)
    both = at_first * values + at_second

    def totals(of_first, of_second, of_late):
        by_first = np.bincount(at_first, of_first - of_late, values)
        by_both = np.bincount(both, of_second - of_late, values * values).reshape(values, values)
        stopped_first = by_first.sum() - by_first.cumsum()
        stopped_second = by_both.cumsum(axis=0)
        stopped_second = stopped_second.sum(axis=1, keepdims=True) - stopped_second.cumsum(axis=1)
        return of_late.sum() + stopped_first[:-1, None] + stopped_second[:-1, :-1]

    right = right.astype("float64")
    return (
        totals(*(right[:, place] for place in pair), right[rows, late]),
        totals(*costs[list(pair)], costs[late]),
    )
