"""The plan of one search: the prefix that finds the shortlist, and those that rerank it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mrl_keras.checks import whole_number
from mrl_keras.nesting import NestingDims


@dataclass(frozen=True)
class SearchPlan:
    """The dims and sizes of one nested search: shortlist with D_s dims, then rerank or funnel.

    `dims[0]` (D_s) finds the `sizes[0]` nearest rows. Each later dim reranks what is left:
    `dims[i]` orders the `sizes[i - 1]` survivors and keeps `sizes[i]`; the last dim (D_r) orders
    the last survivors, of which `k` are returned.

    | plan | means |
    |---|---|
    | `SearchPlan((2048,))` | single-stage: exact search with 2048 dims |
    | `SearchPlan((16, 2048), (200,))` | adaptive retrieval: D_s = 16, 200 rows, D_r = 2048 |
    | `SearchPlan((16, 32, 64, 128, 256, 2048), (200, 100, 50, 25, 10))` | the paper's funnel |

    Args:
        dims: ints, strictly ascending prefix sizes.
        sizes: ints, one fewer than `dims`, never growing, the last at least `k`. Defaults to
            `()`, which belongs to a single dim.
        k: int, how many rows are returned for each query. Defaults to 10.
        leaves: optional int, how many leaves of a tree or partition the shortlist opens; `None`
            takes the number that the shortlist was built for. It has a meaning only where a
            shortlist is followed by a rerank, since a plan of one dim is always exact.
        certified: bool, whether `NestedIndex.search` and exported models say for each query if its
            answer is proven to be full width's; see `CertifiedResult`. Needs two dims, of which
            the second is the index's width. Defaults to `False`.

    Raises:
        ValueError: dims that do not ascend, a wrong number of sizes, sizes that grow, a
            shortlist below `k`, `k` or `leaves` below 1, `leaves` for a single dim, or
            `certified` for other than two dims.

    Example:

    >>> plan = SearchPlan.adaptive(shortlist_dim=16, shortlist=200, rerank_dim=2048)
    >>> plan.shortlist_dim, plan.shortlist_size, plan.rerank_dims, plan.rerank_sizes
    (16, 200, (2048,), ())

    Source: arXiv 2205.13147, Section 4.3.1 and Appendix F (Tables 11 to 14).
    """

    dims: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    k: int = 10
    leaves: int | None = None
    certified: bool = field(default=False, repr=False)

    def __post_init__(self):
        dims = tuple(NestingDims(self.dims))
        k = whole_number(self.k, "`k`")
        if isinstance(self.sizes, (str, bytes)) or not hasattr(self.sizes, "__iter__"):
            raise ValueError(f"`sizes` must be a sequence of ints. Received {self.sizes!r}.")
        sizes = tuple(whole_number(size, "Each of `sizes`") for size in self.sizes)
        _check_sizes(dims, sizes, k)
        leaves = self.leaves
        if leaves is not None:
            leaves = whole_number(leaves, "`leaves`")
            if len(dims) == 1:
                raise ValueError(
                    f"`leaves` belongs to a shortlist, and a plan of the single dim {dims[0]} is "
                    f"exact. Received leaves={leaves}; leave it out, or add a rerank dim."
                )
        if self.certified and len(dims) != 2:
            raise ValueError(
                "A certified plan has two dims, the shortlist's and the index's width. "
                f"Received {list(dims)}."
            )
        for name, value in (("dims", dims), ("sizes", sizes), ("k", k), ("leaves", leaves)):
            object.__setattr__(self, name, value)

    @classmethod
    def adaptive(
        cls,
        shortlist_dim: int,
        shortlist: int,
        rerank_dim: int,
        k: int = 10,
        leaves: int | None = None,
    ) -> SearchPlan:
        """Adaptive retrieval: `shortlist` rows found with D_s dims, ordered with D_r dims.

        Args:
            shortlist_dim: int, D_s.
            shortlist: int, the rows found, at least `k`.
            rerank_dim: int above D_s, D_r.
            k, leaves: as for the class.

        >>> SearchPlan.adaptive(shortlist_dim=16, shortlist=200, rerank_dim=2048)
        SearchPlan(dims=(16, 2048), sizes=(200,), k=10, leaves=None)
        """
        return cls((shortlist_dim, rerank_dim), (shortlist,), k, leaves)

    @classmethod
    def funnel(
        cls, dims: Sequence[int], shortlist: int = 200, k: int = 10, leaves: int | None = None
    ) -> SearchPlan:
        """A funnel that halves the shortlist at each rerank and hands `k` rows to the last dim.

        With two dims this is adaptive retrieval, since its only size is the shortlist's.

        >>> SearchPlan.funnel((16, 32, 64, 128, 256, 2048)).sizes
        (200, 100, 50, 25, 10)
        """
        dims = tuple(NestingDims(dims))
        k, shortlist = whole_number(k, "`k`"), whole_number(shortlist, "`shortlist`")
        sizes = [max(shortlist >> stage, min(k, shortlist)) for stage in range(len(dims) - 1)]
        if len(sizes) > 1:
            sizes[-1] = min(k, shortlist)
        return cls(dims, tuple(sizes), k, leaves)

    @property
    def shortlist_dim(self) -> int:
        """D_s, the prefix that finds the shortlist."""
        return self.dims[0]

    @property
    def shortlist_size(self) -> int:
        """How many rows the first stage finds: `sizes[0]`, or `k` for a single stage."""
        return self.sizes[0] if self.sizes else self.k

    @property
    def rerank_dims(self) -> tuple[int, ...]:
        """The dims after the shortlist's, in order; the last of them is D_r."""
        return self.dims[1:]

    @property
    def rerank_sizes(self) -> tuple[int, ...]:
        """How many rows each rerank but the last keeps."""
        return self.sizes[1:]

    def check_dims(self, available: Sequence[int]) -> None:
        """Raises a ValueError for dims that are not among `available`, an index's nesting dims.

        A certified plan must end at the last of them, too.
        """
        unknown = [dim for dim in self.dims if dim not in available]
        if unknown:
            raise ValueError(
                f"The plan's dims {list(self.dims)} must be nesting dims of the index, "
                f"{list(available)}. Received {unknown} beside them."
            )
        if self.certified and self.dims[-1] != available[-1]:
            raise ValueError(
                f"A certified plan must end at the index's width, {available[-1]}. Received the "
                f"dims {list(self.dims)}."
            )


def _check_sizes(dims, sizes, k):
    if len(sizes) != len(dims) - 1:
        raise ValueError(
            f"`sizes` must hold one number fewer than `dims`: {len(dims) - 1} for the dims "
            f"{list(dims)}. Received {len(sizes)}: {list(sizes)}."
        )
    for before, after in zip(sizes, sizes[1:], strict=False):
        if after > before:
            raise ValueError(
                f"`sizes` must not grow from one stage to the next. Received {after} after "
                f"{before} in {list(sizes)}."
            )
    if sizes and sizes[-1] < k:
        raise ValueError(
            f"Each of `sizes` must be at least k={k}, since k rows are returned. Received "
            f"{list(sizes)}; raise the sizes or lower k."
        )
