"""Nesting dims: the trained prefix sizes of an embedding, checked, and their relative importance.

Needs the standard library alone, so that the parts of the package that take arrays stay free of
Keras.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from mrl_keras.checks import as_int, whole_number


class NestingDims(Sequence):
    """The trained prefix sizes M of an embedding: ascending, the last is the embedding width.

    An immutable, hashable sequence of Python ints; wherever the package takes
    `nesting_dims`, a plain list of ints works too and goes through the same checks.

    Args:
        dims: iterable of ints, strictly ascending, each at least 1. The last one is
            the embedding width d.
        width: optional int, the embedding width the dims are meant for. When given,
            no dim may exceed it and the last dim must equal it, since the full
            embedding is itself a trained prefix (Section 3: M ends at d).

    Raises:
        ValueError: for an empty list, a value that is not an int, a dim below 1, a repeated
            dim, dims that do not ascend, a dim over `width`, or a missing full width.
            Each has its own text, which names the offending value.

    Example:

    >>> dims = NestingDims.halving(64, smallest=8)
    >>> list(dims)
    [8, 16, 32, 64]
    >>> dims.block_edges
    (0, 8, 16, 32, 64)
    >>> dims.interpolated()
    (12, 24, 48)

    Source: arXiv 2205.13147, Section 3 (the set M) and Appendix C.
    """

    __slots__ = ("_dims",)

    def __init__(self, dims: Iterable[int], width: int | None = None):
        checked = dims._dims if isinstance(dims, NestingDims) else _checked_dims(dims)
        if width is not None:
            _check_width(checked, whole_number(width, "The embedding width `width`"))
        object.__setattr__(self, "_dims", checked)

    @classmethod
    def halving(cls, width: int, smallest: int = 8) -> NestingDims:
        """Halve from `width` down while the result is at least `smallest`.

        The paper's choice: 8, 16, ..., 2048 for ResNet50 and 12, 24, ..., 768 for ViT
        and BERT (Appendix C). Odd numbers are halved downwards (25 gives 12).

        >>> NestingDims.halving(768, smallest=12)
        NestingDims([12, 24, 48, 96, 192, 384, 768])
        """
        width, smallest = _width_and_smallest(width, smallest)
        dims = [width]
        while dims[-1] // 2 >= smallest:
            dims.append(dims[-1] // 2)
        return cls(reversed(dims))

    @classmethod
    def uniform(cls, width: int, smallest: int = 8, count: int = 11) -> NestingDims:
        """`count` evenly spaced dims from `smallest` to `width`, both included.

        The defaults give the paper's uniform ablation at width 2048 (Table 29). Where
        the spacing is not a whole number, dims are rounded to the nearest int.

        >>> NestingDims.uniform(2048)[:3]
        (8, 212, 416)
        """
        width, smallest = _width_and_smallest(width, smallest)
        count = whole_number(count, "`count`")
        room = width - smallest + 1
        if count > room or (count == 1 and smallest != width):
            raise ValueError(
                f"`count` must lie between {min(2, room)} and {room} for dims from {smallest} "
                f"to {width}. Received {count}."
            )
        step = (width - smallest) / max(count - 1, 1)
        return cls([*(smallest + math.floor(i * step + 0.5) for i in range(count - 1)), width])

    def __setattr__(self, name, value):
        raise AttributeError(f"NestingDims is immutable; cannot set {name!r}. Make a new one.")

    def __getitem__(self, item):
        return self._dims[item]

    def __len__(self):
        return len(self._dims)

    def __eq__(self, other):
        if isinstance(other, NestingDims):
            return self._dims == other._dims
        if isinstance(other, (list, tuple)):
            return self._dims == tuple(other)
        return NotImplemented

    def __hash__(self):
        return hash(self._dims)

    def __repr__(self):
        return f"NestingDims({list(self._dims)})"

    def __reduce__(self):
        return NestingDims, (list(self._dims),)

    @property
    def width(self) -> int:
        """The embedding width d, which is the last trained prefix."""
        return self._dims[-1]

    @property
    def block_edges(self) -> tuple[int, ...]:
        """0 and the dims: block j holds the dims from `block_edges[j]` to `block_edges[j + 1]`."""
        return (0, *self._dims)

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of every block; the first j blocks together are prefix j."""
        return tuple(zip(self.block_edges, self._dims, strict=False))

    def index(self, dim, *args) -> int:
        """The position of a trained prefix on the prefix axis.

        Raises:
            ValueError: `dim` is not a trained prefix.
        """
        number = as_int(dim, "`dim`")
        if number not in self._dims:
            raise ValueError(
                f"`dim` must be one of the trained prefixes {list(self._dims)}. Received {number}."
            )
        return self._dims.index(number, *args)

    def interpolated(self, per_gap: int = 1) -> tuple[int, ...]:
        """Untrained dims between the trained ones, evenly spaced in each gap.

        Args:
            per_gap: how many dims to place between two trained neighbours; a gap with
                less room gets as many as fit. The default gives the middles: 12, 24,
                ..., 1536 between 8, 16, ..., 2048 (Section 4.1, Figure 5).
        """
        per_gap = whole_number(per_gap, "`per_gap`")
        found = []
        for low, high in zip(self._dims, self._dims[1:], strict=False):
            inside = {low + (high - low) * i // (per_gap + 1) for i in range(1, per_gap + 1)}
            found.extend(sorted(inside - {low, high}))
        return tuple(found)

    def with_interpolated(self, per_gap: int = 1) -> NestingDims:
        """Trained and interpolated dims together, ascending, for evaluation."""
        return NestingDims(sorted({*self._dims, *self.interpolated(per_gap)}))

    def relative_importance(
        self, weights: Sequence[float] | Mapping[int, float] | None = None
    ) -> tuple[float, ...]:
        """The weights c_m of Eq. 1, one float for each trained prefix.

        Args:
            weights: `None` for ones; a sequence with one number for each prefix; or a
                mapping from trained prefixes to numbers, where the others get 1. The
                paper's ablations are `{8: 2.0}` (8boost) and `{8: 2.0, 16: 1.5}`
                (8+16boost, Table 27).

        Raises:
            ValueError: wrong number of weights, an unknown prefix, a negative or
                non-finite weight, or no weight above zero.
        """
        if weights is None:
            return (1.0,) * len(self)
        if isinstance(weights, Mapping):
            by_position = {self.index(dim): weight for dim, weight in weights.items()}
            weights = [by_position.get(i, 1.0) for i in range(len(self))]
        return checked_relative_importance(weights, len(self))


def checked_relative_importance(weights, count: int) -> tuple[float, ...]:
    """`weights` as a tuple of `count` finite floats, none negative, at least one above zero."""
    try:
        numbers = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError):
        raise ValueError(
            f"`relative_importance` must be a sequence of {count} numbers, one for each prefix. "
            f"Received {weights!r}."
        ) from None
    if len(numbers) != count:
        raise ValueError(
            f"`relative_importance` must hold one number for each of the {count} prefixes. "
            f"Received {len(numbers)}: {list(numbers)}."
        )
    if any(not math.isfinite(number) or number < 0 for number in numbers) or not any(numbers):
        raise ValueError(
            "`relative_importance` must hold finite numbers, none negative, and at least one "
            f"above zero. Received {list(numbers)}."
        )
    return numbers


def _width_and_smallest(width, smallest):
    width = whole_number(width, "The embedding width `width`")
    smallest = whole_number(smallest, "`smallest`")
    if smallest > width:
        raise ValueError(
            f"`smallest` must not exceed the embedding width {width}. Received {smallest}."
        )
    return width, smallest


def _checked_dims(dims) -> tuple[int, ...]:
    if isinstance(dims, (str, bytes)) or not isinstance(dims, Iterable):
        raise ValueError(
            "`nesting_dims` must be an iterable of ints such as [8, 16, 32]. "
            f"Received {dims!r} of type {type(dims).__name__}."
        )
    given = list(dims)
    if not given:
        raise ValueError(
            "`nesting_dims` must hold at least one dim, the embedding width. Received an empty "
            "list."
        )
    numbers = [as_int(dim, "Each of `nesting_dims`") for dim in given]
    for low, high in zip(numbers, numbers[1:], strict=False):
        if numbers.count(high) > 1:
            raise ValueError(
                f"`nesting_dims` must not repeat a dim. Received {high} more than once "
                f"in {numbers}."
            )
        if high < low:
            raise ValueError(
                f"`nesting_dims` must ascend. Received {high} after {low} in {numbers}; "
                f"did you mean {sorted(numbers)}?"
            )
    if min(numbers) < 1:
        raise ValueError(
            f"Each of `nesting_dims` must be at least 1. Received {min(numbers)} in {numbers}."
        )
    return tuple(numbers)


def _check_width(dims, width):
    if dims[-1] > width:
        raise ValueError(
            f"`nesting_dims` must not exceed the embedding width {width}. "
            f"Received {dims[-1]} in {list(dims)}."
        )
    if dims[-1] != width:
        raise ValueError(
            f"`nesting_dims` must end at the embedding width {width}, which is itself a trained "
            f"prefix. Received {list(dims)}; did you mean {[*dims, width]}?"
        )
