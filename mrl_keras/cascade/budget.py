"""What a budget of dims leaves over, spent: thresholds moved two at a time."""

from __future__ import annotations

import itertools

import numpy as np

from mrl_keras.cascade.policy import accuracy_and_cost, stops

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
