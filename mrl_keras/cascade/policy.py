"""`CascadePolicy`: which prefixes a cascade asks, and when it stops."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from mrl_keras.cascade.logits import prefix_confidence
from mrl_keras.files import read_json, write_json
from mrl_keras.nesting import NestingDims


class CascadeAnswer(NamedTuple):
    """Classes, their probabilities and the dims used, each (examples,)."""

    classes: np.ndarray
    probabilities: np.ndarray
    dims: np.ndarray


@dataclasses.dataclass(frozen=True)
class CascadePolicy:
    """Adaptive classification: the smallest prefix whose confidence passes its threshold.

    An example is classified with the first prefix. Where the largest softmax probability is
    strictly above that prefix's threshold, this is the answer; otherwise the next prefix is
    asked, and the last prefix answers always. A threshold of 0 stops everything, 1 nothing.

    Args:
        dims: `NestingDims` or ints, ascending, the prefixes to ask.
        thresholds: floats from 0 to 1, one for each prefix but the last.
        temperatures: floats above 0, one for each prefix; logits are divided by them before
            the softmax. Default `()`, which is 1 for every prefix.

    Raises:
        ValueError: a wrong number of thresholds or temperatures, or a value outside its range.

    Example:

    >>> policy = CascadePolicy([8, 16], thresholds=[0.75])
    >>> logits = np.log([[[0.8, 0.2], [0.1, 0.9]], [[0.6, 0.4], [0.1, 0.9]]])
    >>> policy.decide(logits).classes.tolist(), policy.decide(logits).dims.tolist()
    ([0, 1], [8, 16])

    Source: arXiv 2205.13147, Section 4.2.1 and Appendix D.1.
    """

    dims: Sequence[int]
    thresholds: Sequence[float]
    temperatures: Sequence[float] = ()

    def __post_init__(self):
        dims = NestingDims(self.dims)
        temperatures = self.temperatures if len(self.temperatures) else (1.0,) * len(dims)
        thresholds = _floats(self.thresholds, "thresholds", len(dims) - 1, "prefix but the last")
        temperatures = _floats(temperatures, "temperatures", len(dims), "prefix")
        if any(not 0.0 <= value <= 1.0 for value in thresholds):
            raise ValueError(f"`thresholds` must lie from 0 to 1. Received {list(thresholds)}.")
        if any(not 0.0 < value < math.inf for value in temperatures):
            raise ValueError(
                f"`temperatures` must be finite and above 0. Received {list(temperatures)}."
            )
        object.__setattr__(self, "dims", dims)
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "temperatures", temperatures)

    def decide(self, logits) -> CascadeAnswer:
        """What the cascade answers, given the logits of all prefixes.

        Args:
            logits: (examples, prefixes, classes), or (views, examples, prefixes, classes) for
                test-time augmentation, where the views' probabilities are averaged.

        Raises:
            ValueError: shapes that don't fit the dims, or logits that are not finite.
        """
        confidence, predictions = prefix_confidence(logits, len(self.dims), self.temperatures)
        place = stops(confidence, self.thresholds)[:, None]
        return CascadeAnswer(
            np.take_along_axis(predictions, place, axis=1)[:, 0],
            np.take_along_axis(confidence, place, axis=1)[:, 0],
            np.asarray(self.dims)[place[:, 0]],
        )

    def up_to(self, dim: int) -> Self:
        """Early stopping: the same cascade, whose last prefix is `dim`.

        Raises:
            ValueError: `dim` is not one of the policy's dims.
        """
        count = self.dims.index(dim) + 1
        return CascadePolicy(
            self.dims[:count], self.thresholds[: count - 1], self.temperatures[:count]
        )

    def to_dict(self) -> dict:
        """Plain lists, for JSON."""
        return {
            "dims": list(self.dims),
            "thresholds": list(self.thresholds),
            "temperatures": list(self.temperatures),
        }

    @classmethod
    def from_dict(cls, values: dict) -> Self:
        """The policy that `to_dict` gave.

        Raises:
            ValueError: keys that are missing or not known.
        """
        wanted = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != wanted:
            raise ValueError(f"A policy needs the keys {sorted(wanted)}. Received {values!r}.")
        return cls(**values)

    def save(self, path) -> None:
        """Writes the policy as JSON to a local or remote path; the file is whole or absent."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path) -> Self:
        """The policy that `save` wrote.

        Raises:
            FileNotFoundError: no file.
            ValueError: the file holds no policy.
        """
        return cls.from_dict(read_json(path))


def stops(confidence, thresholds) -> np.ndarray:
    """Where each example stops: ints (examples,), places on the prefix axis.

    Args:
        confidence: (examples, prefixes).
        thresholds: floats, one for each prefix but the last.
    """
    sure = np.ones(confidence.shape, bool)
    sure[:, :-1] = confidence[:, :-1] > np.asarray(thresholds, "float64")
    return sure.argmax(axis=1)


def accuracy_and_cost(confidence, right, costs, thresholds) -> tuple[float, float]:
    """(accuracy, mean cost of an example) of one cascade.

    Args:
        confidence, right: (examples, prefixes).
        costs: floats (prefixes,), such as `stop_costs` gives.
        thresholds: as for `stops`.
    """
    place = stops(confidence, thresholds)
    return float(right[np.arange(len(place)), place].mean()), float(costs[place].mean())


def stop_costs(dims, cost: str) -> np.ndarray:
    """Dims that an example costs which stops at each prefix.

    Args:
        dims: ints.
        cost: "last", the dim of the prefix that answered; or "cumulative", the sum of the dims
            of all prefixes that were asked, which is what separate classifiers (MRL) multiply.

    >>> stop_costs([8, 16, 32], "last"), stop_costs([8, 16, 32], "cumulative")
    (array([ 8., 16., 32.]), array([ 8., 24., 56.]))
    """
    if cost not in ("last", "cumulative"):
        raise ValueError(f'`cost` must be "last" or "cumulative". Received {cost!r}.')
    dims = np.asarray(dims, "float64")
    return dims if cost == "last" else np.cumsum(dims)


def _floats(values, name, count, each):
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be a sequence of numbers. Received {values!r}.") from None
    if len(numbers) != count:
        raise ValueError(
            f"`{name}` must hold {count} numbers, one for each {each}. "
            f"Received {len(numbers)}: {list(numbers)}."
        )
    return numbers
