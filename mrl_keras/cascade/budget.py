"""What a budget of dims leaves over, spent: thresholds moved two at a time."""

from __future__ import annotations

import itertools

import numpy as np

_SWEEPS = 20


def spend_budget(confidence, right, costs, thresholds, budget, grid) -> tuple[float, ...]:
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
    thresholds, examples = np.array(thresholds, "float64"), len(right)
    above = np.searchsorted(grid, confidence[:, :-1], side="left")  # grid[m] passes for m < above
    places = range(len(thresholds))
    pairs = list(itertools.combinations(places, 2)) or [(place, None) for place in places]
    reached = _totals(confidence, right, costs, thresholds)
    for _ in range(_SWEEPS):
        before = reached
        for pair in pairs:
            earned, spent = _of_all_values(confidence, above, right, costs, thresholds, pair, grid)
            within = spent <= budget * examples + 1e-6
            best = np.lexsort((spent.ravel(), np.where(within, -earned, 1.0).ravel()))[0]
            found = earned.flat[best], spent.flat[best]
            if within.flat[best] and (found[0], -found[1]) > (reached[0], -reached[1]):
                reached = found
                for place, value in zip(pair, np.unravel_index(best, earned.shape), strict=True):
                    if place is not None:
                        thresholds[place] = grid[value]
        if reached == before:
            break
    return tuple(map(float, thresholds))


def _totals(confidence, right, costs, thresholds):
    """(examples right, dims spent) of one cascade."""
    place = _stops(confidence, thresholds)
    return float(right[np.arange(len(place)), place].sum()), float(costs[place].sum())


def _of_all_values(confidence, above, right, costs, thresholds, pair, grid):
    """(examples right, dims spent), each (values of the first, of the second), of a pair.

    An example stops at the pair's first prefix where its confidence is above the first value; else
    at the second where it is above that; else where the other thresholds let it stop, `late`. One
    that stops earlier than a prefix of the pair counts as never above its value.
    """
    first, second = pair
    late = _stops(confidence, thresholds, without=pair)
    rows, values = np.arange(len(late)), len(grid) + 1
    at_first = np.where(late < first, 0, above[:, first])
    at_second = np.zeros_like(at_first)
    if second is not None:
        at_second = np.where(late < second, 0, above[:, second])
    both = at_first * values + at_second

    def totals(of_first, of_second, of_late):
        by_first = np.bincount(at_first, of_first - of_late, values)
        by_both = np.bincount(both, of_second - of_late, values * values).reshape(values, values)
        stopped_first = by_first.sum() - by_first.cumsum()
        stopped_second = by_both.cumsum(axis=0)
        stopped_second = stopped_second.sum(axis=1, keepdims=True) - stopped_second.cumsum(axis=1)
        return of_late.sum() + stopped_first[:-1, None] + stopped_second[:-1, :-1]

    other = first if second is None else second
    right = right.astype("float64")
    ones = np.ones(len(late))
    return (
        totals(right[:, first], right[:, other], right[rows, late]),
        totals(costs[first] * ones, costs[other] * ones, costs[late]),
    )


def _stops(confidence, thresholds, without=()):
    """Where each example stops, ints (examples,), at no prefix of `without`."""
    sure = np.ones(confidence.shape, bool)
    sure[:, :-1] = confidence[:, :-1] > thresholds
    for place in without:
        if place is not None:
            sure[:, place] = False
    return sure.argmax(axis=1)
