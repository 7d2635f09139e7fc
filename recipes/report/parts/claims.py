"""The paper's claims, each decided from measured values: pure functions, a verdict each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from recipes.report.parts.measured import Difference, Measured, difference

HOLDS, FAILS = "holds", "does not hold here"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim, what was found (numbers), and "holds" or "does not hold here"."""

    claim: str
    verdict: str
    numbers: str

    @property
    def holds(self) -> bool:
        return self.verdict == HOLDS


def verdict(claim, holds, numbers) -> Verdict:
    return Verdict(claim, HOLDS if holds else FAILS, numbers)


def at_least_as_accurate(
    claim, ours: Mapping[int, Measured], theirs: Mapping[int, Measured]
) -> Verdict:
    """Holds if `ours` is below `theirs` at no common dim by more than the noise.

    Args:
        claim: str, the sentence.
        ours, theirs: {dim: `Measured`}, with at least one common dim.
    """
    found = _by_dim(ours, theirs)
    lost = {dim: gap for dim, gap in found.items() if gap.below}
    shown = ", ".join(f"{dim}: {gap.text()}" for dim, gap in found.items())
    numbers = f"difference in points by dim: {shown}"
    if lost:
        numbers += f"; below by more than the noise at {', '.join(map(str, lost))}"
    return verdict(claim, not lost, numbers)


def mrl_against_ff(claim, systems: Mapping[str, Mapping[int, Measured]]) -> list[Verdict]:
    """`at_least_as_accurate` of the system "MRL" against "FF"; empty without FF runs."""
    if "FF" not in systems:
        return []
    return [at_least_as_accurate(claim, systems["MRL"], systems["FF"])]


def better_at_the_lowest(
    claim, ours: Mapping[int, Measured], theirs: Mapping[int, Measured]
) -> Verdict:
    """Holds if `ours` is above `theirs` by more than the noise at the lowest common dim."""
    dim, gap = next(iter(_by_dim(ours, theirs).items()))
    numbers = (
        f"at {dim} dims {ours[dim].text()} against {theirs[dim].text()}, "
        f"difference {gap.text()} points"
    )
    return verdict(claim, gap.above, numbers)


def collapse(
    claim,
    ours: Mapping[int, Measured],
    baselines: Mapping[str, Mapping[int, Measured]],
    chance: float,
) -> Verdict:
    """Holds if, at the lowest dim, each baseline keeps less than half of ours above chance.

    Args:
        claim: str.
        ours: {dim: `Measured`}.
        baselines: {name: {dim: `Measured`}}, each with the lowest dim of `ours`.
        chance: float, accuracy of guessing.
    """
    dim = min(ours)
    shown, kept = [], []
    if ours[dim].mean <= chance:
        return verdict(claim, False, f"at {dim} dims MRL itself, {ours[dim].text()}, only guesses")
    for name, values in baselines.items():
        kept.append((values[dim].mean - chance) / (ours[dim].mean - chance))
        shown.append(f"{name} {values[dim].text()} (keeps {100 * kept[-1]:.0f} %)")
    numbers = f"at {dim} dims, MRL {ours[dim].text()}: {', '.join(shown)}"
    return verdict(claim, all(share < 0.5 for share in kept), numbers)


def lies_between(claim, values: Mapping[int, Measured], trained) -> Verdict:
    """Holds if each interpolated dim lies between its trained neighbours, within the noise.

    Args:
        claim: str.
        values: {dim: `Measured`}, trained dims and interpolated ones.
        trained: ints, the trained dims; interpolated dims lie between two of them.
    """
    outside, shown = [], []
    for dim in sorted(set(values) - set(trained)):
        low = max(other for other in trained if other < dim)
        high = min(other for other in trained if other > dim)
        gaps = difference(values[dim], values[low]), difference(values[dim], values[high])
        ends = sorted((values[low].mean, values[high].mean))
        shown.append(f"{dim}: {values[dim].text()} in {100 * ends[0]:.2f} ... {100 * ends[1]:.2f}")
        if all(gap.below for gap in gaps) or all(gap.above for gap in gaps):
            outside.append(dim)
    numbers = "; ".join(shown)
    if outside:
        numbers += f"; outside by more than the noise at {', '.join(map(str, outside))}"
    return verdict(claim, not outside, numbers)


def fraction_of_the_dims(claim, points, full: Measured, width: int, most=0.5) -> Verdict:
    """Holds if a cascade is as accurate as the full width within the noise, with few dims.

    The noise is twice the deviation, over all splits, of the cascade's accuracy less the full
    width's on the same images.

    Args:
        claim: str, the sentence.
        points: (accuracy `Measured`, floats (splits,) its accuracy less the full width's,
            expected dim, cumulative dim) of each early stop.
        full: `Measured`, the full width's accuracy.
        width: int, d.
        most: float, the share of d that still counts as a fraction. Default 0.5.
    """
    gaps = [Difference(float(p[1].mean()), 2 * float(p[1].std(ddof=1)), len(p[1])) for p in points]
    enough = [pair for pair in zip(points, gaps, strict=True) if not pair[1].below]
    if not enough:
        best = max(gaps, key=lambda gap: gap.mean)
        numbers = f"the best early stop is {best.text()} points from the full width"
        return verdict(claim, False, numbers)
    (accuracy, _, expected, cumulative), gap = min(enough, key=lambda pair: pair[0][2])
    numbers = (
        f"{accuracy.text()} at {expected:.1f} expected dims (the dim that answers; "
        f"{cumulative:.1f} when all asked dims are summed) against {full.text()} at {width}: "
        f"{width / expected:.1f} times fewer dims, difference {gap.text()} points"
    )
    return verdict(claim, expected <= most * width, numbers)


def fraction_of_the_cost(claim, chosen: Measured, full: Measured, ratio: Measured) -> Verdict:
    """Holds if a plan loses no more than the noise at half of the full width's cost or less.

    Args:
        claim: str.
        chosen, full: `Measured`, the plan's metric and the full width's on the same queries.
        ratio: `Measured`, MFLOPs of the plan over those of the full width.
    """
    gap = difference(chosen, full)
    numbers = (
        f"{chosen.text()} against {full.text()} at the full width, difference {gap.text()} points, "
        f"with {1 / ratio.mean:.1f} times fewer MFLOPs"
    )
    return verdict(claim, not gap.below and ratio.mean <= 0.5, numbers)


def falls_less(claim, ours: Mapping[int, Measured], others: Mapping[int, Measured]) -> Verdict:
    """Holds if `ours` loses a smaller share from the widest to the lowest dim than `others`."""
    shares = []
    for values in (ours, others):
        low, high = values[min(values)].mean, values[max(values)].mean
        shares.append(math.nan if high == 0.0 else 1.0 - low / high)
    numbers = (
        f"from {max(ours)} to {min(ours)} dims {100 * shares[0]:.1f} % of it is lost, "
        f"against {100 * shares[1]:.1f} %"
    )
    return verdict(claim, shares[0] < shares[1], numbers)


def _by_dim(ours, theirs):
    common = sorted(set(ours) & set(theirs))
    if not common:
        raise ValueError("The two systems have no common dim. Give runs of the same dims.")
    return {dim: difference(ours[dim], theirs[dim]) for dim in common}
