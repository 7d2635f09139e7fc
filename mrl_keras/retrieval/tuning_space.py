"""The plans among which a tuning chooses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mrl_keras.checks import whole_number
from mrl_keras.retrieval.plan import SearchPlan


@dataclass(frozen=True)
class TuningSpace:
    """The plans that `tune` tries.

    Args:
        shortlist_dims: the prefixes D_s to try; `None` takes the ScaNN shortlist's prefix where
            the index has one, else every nesting dim but the last.
        shortlists: ints, shortlist lengths; those above the rows are cut to them. The
            defaults are 25, 50, 100, 200, 400 and 800.
        rerank_dims: the prefixes D_r to try; `None` takes every nesting dim above D_s.
        funnels: bool, whether funnels are tried beside single reranks: through every nesting dim
            from D_s to D_r, and the paper's form, four dims after D_s and then D_r. Their sizes
            halve and the last is k. Defaults to `True`.
        single_stage: bool, whether exact search with one prefix is tried too, where shortlists
            are exact. Defaults to `True`.
        leaf_shares: floats in (0, 1], shares of the ScaNN tree's leaves to open, for shortlists
            that ScaNN finds. The defaults are 1, 2, 5, 10 and 20 %.

    >>> TuningSpace(shortlists=(50, 100), funnels=False).rerank_dims is None
    True
    """

    shortlist_dims: Sequence[int] | None = None
    shortlists: Sequence[int] = (25, 50, 100, 200, 400, 800)
    rerank_dims: Sequence[int] | None = None
    funnels: bool = True
    single_stage: bool = True
    leaf_shares: Sequence[float] = (0.01, 0.02, 0.05, 0.1, 0.2)

    def plans(self, index, k: int) -> Iterator[SearchPlan]:
        """Every plan for an index, each once.

        Args:
            index: `NestedIndex`.
            k: int, the plans' k.

        Raises:
            ValueError: dims that are no nesting dims, lengths below 1, or shares out of range.
        """
        seen = set()
        if self.single_stage and index.shortlist is None:
            yield from (SearchPlan((dim,), k=k) for dim in index.nesting_dims[:-1])
        for d_s in self._shortlist_dims(index):
            leaves = self._leaves(index, d_s)
            for dims, size, opened in itertools.product(
                self._dims_from(index, d_s), self._sizes(len(index), k), leaves
            ):
                plan = SearchPlan.funnel(dims, size, k, opened)
                if plan not in seen:
                    seen.add(plan)
                    yield plan

    def _shortlist_dims(self, index):
        if self.shortlist_dims is not None:
            return [index.nesting_dims[index.nesting_dims.index(d)] for d in self.shortlist_dims]
        if index.shortlist is not None:
            return [index.shortlist.dim]
        return list(index.nesting_dims[:-1])

    def _leaves(self, index, d_s):
        if index.shortlist is None or index.shortlist.dim != d_s:
            return [None]
        total = index.shortlist.parameters.num_leaves
        if any(not 0 < share <= 1 for share in self.leaf_shares):
            raise ValueError(
                f"`leaf_shares` must lie above 0 and at most 1. Received {list(self.leaf_shares)}."
            )
        return sorted({max(1, round(share * total)) for share in self.leaf_shares})

    def _sizes(self, n_rows, k):
        sizes = [whole_number(size, "Each of `shortlists`") for size in self.shortlists]
        return sorted({max(k, min(size, n_rows)) for size in sizes})

    def _dims_from(self, index, d_s):
        above = [dim for dim in index.nesting_dims if dim > d_s]
        wanted = above if self.rerank_dims is None else self.rerank_dims
        for d_r in wanted:
            index.nesting_dims.index(d_r)
            if d_r <= d_s:
                continue
            yield (d_s, d_r)
            between = [dim for dim in above if dim < d_r]
            if self.funnels and between:
                yield (d_s, *between, d_r)
                yield (d_s, *between[:4], d_r)
