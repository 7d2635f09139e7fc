"""Accuracy against expected dims, averaged over random held-out splits (Table 3, Figure 6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mrl_keras.cascade.greedy import calibrate_temperatures, greedy_thresholds, threshold_grid
from mrl_keras.cascade.joint import most_accurate_thresholds
from mrl_keras.cascade.logits import check_labelled, prefix_confidence
from mrl_keras.cascade.policy import stop_costs, stops
from mrl_keras.checks import whole_number

POLICIES = ("greedy", "joint")
_MEASURES = ("accuracy", "expected_dim", "cumulative_dim", "prefix_accuracy")


@dataclasses.dataclass(frozen=True)
class CurveOptions:
    """Which policies `cascade_curve` compares, on which splits.

    Args:
        policies: which of "greedy" (`learn_thresholds`) and "joint" (`optimize_thresholds`).
            Default both.
        splits: int from 2. Default 30, the paper's.
        held_out: float between 0 and 1, the fraction of the examples that thresholds are learned
            on. Default 0.2, the paper's 10,000 of 50,000.
        seed: int, of the splits. Default 0.
        cost: "last" or "cumulative", the dims that "joint" keeps within. Default "last".
        grid: floats from 0 to 1, the thresholds to try. Default None, the authors' 100 values.
        calibrate: bool, learn temperatures on each held-out part too; then confidences are
            computed for every split. Default False.

    Raises:
        ValueError: an unknown policy or cost, or a value outside its range.

    Example:

    >>> CurveOptions(policies=["greedy"], seed=1).splits
    30
    """

    policies: Sequence[str] = POLICIES
    splits: int = 30
    held_out: float = 0.2
    seed: int = 0
    cost: str = "last"
    grid: Sequence[float] | None = None
    calibrate: bool = False

    def __post_init__(self):
        unknown = [policy for policy in self.policies if policy not in POLICIES]
        if isinstance(self.policies, str) or unknown or not len(self.policies):
            raise ValueError(
                f"`policies` must be a sequence of some of {list(POLICIES)}. "
                f"Received {self.policies!r}."
            )
        whole_number(self.splits, "`splits`", least=2)
        whole_number(self.seed, "`seed`", least=0)
        stop_costs((), self.cost)
        threshold_grid(self.grid)
        try:
            inside = 0.0 < float(self.held_out) < 1.0
        except (TypeError, ValueError):
            inside = False
        if not inside:
            raise ValueError(f"`held_out` must lie between 0 and 1. Received {self.held_out!r}.")

    def held_out_count(self, examples: int) -> int:
        """How many of the examples thresholds are learned on.

        Raises:
            ValueError: a part of the split is empty.
        """
        count = round(float(self.held_out) * examples)
        if count in (0, examples):
            raise ValueError(
                f"A split of {examples} examples with `held_out` {self.held_out:g} leaves one part "
                "empty. Give more examples, or another fraction."
            )
        return count


@dataclasses.dataclass(frozen=True, eq=False)
class CurveRow:
    """One policy, stopped early at one dim, measured on the test part of every split.

    Args:
        policy: "greedy" or "joint".
        dim: int, the largest dim of the greedy cascade. The joint one of this row may use all
            dims, within the expected dim that the greedy one has on the held-out part.
        accuracy: floats (splits,), fractions.
        expected_dim: floats (splits,), the mean of the dims that answered.
        cumulative_dim: floats (splits,), the mean of the sums of all dims that were asked.
        prefix_accuracy: floats (splits,), of the prefix `dim` alone, without a cascade.
    """

    policy: str
    dim: int
    accuracy: np.ndarray
    expected_dim: np.ndarray
    cumulative_dim: np.ndarray
    prefix_accuracy: np.ndarray

    def summary(self) -> dict:
        """Mean and standard deviation (of the sample of splits) of each measure, by name."""
        row = {"policy": self.policy, "dim": self.dim, "splits": len(self.accuracy)}
        for name in _MEASURES:
            values = getattr(self, name)
            row |= {name: float(values.mean()), f"{name}_std": float(values.std(ddof=1))}
        return row


def cascade_curve(logits, labels, dims, options: CurveOptions | None = None) -> list[CurveRow]:
    """Adaptive classification at every early stop, on random splits into held-out and test part.

    In each split the thresholds are learned on the held-out part, and accuracy and expected dims
    are measured on the rest, with early stopping at every dim. All policies see the same splits,
    and "joint" is given, at every early stop, the number of dims that "greedy" spends on the
    held-out part: the two rows differ in accuracy at about equal dims.

    Confidences are computed once: 30 splits of 50,000 examples take seconds after that.

    Args:
        logits: (examples, prefixes, classes) or (views, examples, prefixes, classes).
        labels: ints (examples,).
        dims: `NestingDims` or ints, the prefixes on the prefix axis.
        options: `CurveOptions`. Default None, the paper's 30 splits for both policies.

    Returns:
        `CurveRow`s: the policies one after the other, each with dims ascending.
        `mrl_keras.files.write_csv(path, [row.summary() for row in rows])` writes them as a table.

    Raises:
        ValueError: as `learn_thresholds`, or a part of the split that is empty.

    Example:

    >>> logits = np.log([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.2, 0.8]]] * 10)
    >>> options = CurveOptions(policies=["greedy"], seed=1)
    >>> rows = cascade_curve(logits, [0, 1] * 10, dims=[8, 16], options=options)
    >>> [(row.dim, round(row.summary()["accuracy"], 2)) for row in rows]
    [(8, 0.51), (16, 1.0)]

    Source: arXiv 2205.13147, Section 4.2.1, Appendix D.1, Table 3, Figure 6.
    """
    options = options or CurveOptions()
    views, labels, dims = check_labelled(logits, labels, dims)
    count, rng = options.held_out_count(len(labels)), np.random.default_rng(options.seed)
    fixed = None if options.calibrate else prefix_confidence(views, len(dims))
    # (policies, dims, splits, measures)
    shape = (len(options.policies), len(dims), options.splits, len(_MEASURES))
    values = np.empty(shape)
    for split in range(options.splits):
        order = rng.permutation(len(labels))
        learn, test = order[:count], order[count:]
        confidence, predictions = fixed or _calibrated_confidence(views, labels, dims, learn)
        right = predictions == labels[:, None]
        cascades = _cascades(confidence[learn], right[learn], dims, options)
        for i, policy in enumerate(options.policies):
            for j, thresholds in enumerate(cascades[policy]):
                values[i, j, split, :3] = _measure(confidence[test], right[test], dims, thresholds)
        values[:, :, split, 3] = right[test].mean(axis=0)
    return [
        CurveRow(policy, dim, *values[i, j].T)
        for i, policy in enumerate(options.policies)
        for j, dim in enumerate(dims)
    ]


def _cascades(confidence, right, dims, options):
    """dict from policy to the thresholds of its cascades, one for each early stop."""
    thresholds = greedy_thresholds(confidence, right, threshold_grid(options.grid))
    greedy = [thresholds[:j] for j in range(len(dims))]
    found = {"greedy": greedy}
    if "joint" in options.policies:
        costs = stop_costs(dims, options.cost)
        budgets = [costs[stops(confidence[:, : j + 1], greedy[j])].mean() for j in range(len(dims))]
        found["joint"] = most_accurate_thresholds(confidence, right, costs, budgets, options.grid)
    return found


def _measure(confidence, right, dims, thresholds):
    """(accuracy, expected dim, cumulative dim) of one cascade."""
    place = stops(confidence[:, : len(thresholds) + 1], thresholds)
    accuracy = right[np.arange(len(place)), place].mean()
    return accuracy, *(stop_costs(dims, cost)[place].mean() for cost in ("last", "cumulative"))


def _calibrated_confidence(views, labels, dims, learn):
    temperatures = calibrate_temperatures(views[:, learn], labels[learn], dims)
    return prefix_confidence(views, len(dims), temperatures)
