"""Measured plans and their Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mrl_keras.retrieval.plan import SearchPlan


@dataclass(frozen=True)
class TuningPoint:
    """One plan with its quality and its cost.

    Attributes:
        plan: `SearchPlan`.
        value: float, the metric on the held-out queries, in [0, 1].
        mflops: float, `mflops_per_query` by the paper's count, with the index's own shortlist.
        seconds: float, measured seconds for each query of a batch, or `None` where not measured.
        error: float, the standard error of (`value` - full width's), from each query's
            difference. Defaults to 0.
        index: int, the place of the plan's index among those that were tuned. Defaults to 0.
        bytes: int, that index's `NestedIndex.memory_bytes()`. Defaults to 0.
    """

    plan: SearchPlan
    value: float
    mflops: float
    seconds: float | None = None
    error: float = 0.0
    index: int = 0
    bytes: int = 0


def pareto_front(points: Sequence[TuningPoint], cost: str = "mflops") -> tuple[TuningPoint, ...]:
    """The points that no point of the same or less cost matches or beats, by rising cost.

    Args:
        points: `TuningPoint`s.
        cost: "mflops", "bytes" or "seconds"; points without a measured time are left out of the
            last. Defaults to "mflops".
    """
    costed = [point for point in points if getattr(point, cost) is not None]
    front = []
    for point in sorted(costed, key=lambda point: (getattr(point, cost), -point.value)):
        if not front or point.value > front[-1].value:
            front.append(point)
    return tuple(front)
