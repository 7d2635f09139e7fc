"""Measured values over seeds, and differences between them with their noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """One figure of one system, over seeds.

    Args:
        by_seed: {seed: value}, fractions where they are accuracies.
        each: {seed: array (examples,)}, of which a value is the mean, such as which examples were
            right; differences are then tested example by example. Default empty.
        examples: int, how many examples each value was measured on; 0 where it is not a mean over
            examples. Default 0, or the length of `each`.

    >>> Measured.of_examples({0: np.array([True, False]), 1: np.array([True, True])}).mean
    0.75
    """

    by_seed: Mapping[int, float]
    each: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)
    examples: int = 0

    @classmethod
    def of_examples(cls, each) -> Measured:
        """The means of {seed: bools or floats (examples,)}."""
        each = {seed: np.asarray(values) for seed, values in each.items()}
        values = {seed: float(array.mean()) for seed, array in each.items()}
        return cls(values, each, len(next(iter(each.values()))))

    @property
    def values(self) -> np.ndarray:
        """float64 (seeds,), by ascending seed."""
        return np.array([self.by_seed[seed] for seed in sorted(self.by_seed)], "float64")

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def spread(self) -> float:
        """Standard deviation of the sample of seeds; NaN for one seed."""
        return float(self.values.std(ddof=1)) if len(self.by_seed) > 1 else math.nan

    def text(self, scale=100.0, digits=2) -> str:
        """Such as "82.61 ± 0.12", or "82.61" for one seed."""
        shown = f"{scale * self.mean:.{digits}f}"
        return shown if math.isnan(self.spread) else f"{shown} ± {scale * self.spread:.{digits}f}"


@dataclasses.dataclass(frozen=True)
class Difference:
    """`mean` of one value less another over `seeds`; differences up to `noise` are none."""

    mean: float
    noise: float
    seeds: int

    @property
    def above(self) -> bool:
        return self.mean > self.noise

    @property
    def below(self) -> bool:
        return self.mean < -self.noise

    def text(self, scale=100.0) -> str:
        return f"{scale * self.mean:+.2f} (noise {scale * self.noise:.2f})"


def difference(one: Measured, other: Measured) -> Difference:
    """`one` less `other`, over the seeds that both have.

        noise = 2 max(standard error over seeds, standard error over examples)

    The error over seeds needs two of them. That over examples is of each example's difference
    where both know them, else of two independent shares; 0 where neither is a mean of examples.

    Raises:
        ValueError: no common seed.

    >>> one, other = Measured({0: 0.5, 1: 0.75}), Measured({0: 0.25, 1: 0.25})
    >>> difference(one, other)
    Difference(mean=0.375, noise=0.25, seeds=2)
    """
    seeds = sorted(set(one.by_seed) & set(other.by_seed))
    if not seeds:
        raise ValueError(
            f"Differences need a common seed. Received the seeds {sorted(one.by_seed)} and "
            f"{sorted(other.by_seed)}."
        )
    gaps = np.array([one.by_seed[seed] - other.by_seed[seed] for seed in seeds])
    over_seeds = gaps.std(ddof=1) / math.sqrt(len(seeds)) if len(seeds) > 1 else 0.0
    noise = 2.0 * max(float(over_seeds), _over_examples(one, other, seeds))
    return Difference(float(gaps.mean()), noise, len(seeds))


def _over_examples(one, other, seeds):
    if all(seed in one.each and seed in other.each for seed in seeds):
        pairs = [one.each[s].astype("float64") - other.each[s].astype("float64") for s in seeds]
        gaps = np.mean(pairs, axis=0)
        return float(gaps.std() / math.sqrt(len(gaps)))
    variances = [
        share * (1.0 - share) / measured.examples
        for measured in (one, other)
        if measured.examples
        for share in [min(max(measured.mean, 0.0), 1.0)]
    ]
    return math.sqrt(sum(variances))
