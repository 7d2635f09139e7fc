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
        shortlist_dims: the prefixes D_s to try; `None` takes the prefix of the index's own
            shortlist where it has one, else every nesting dim but the last.
        shortlists: ints, shortlist lengths; those above the rows are cut to them. The
            defaults are 25, 50, 100, 200, 400 and 800.
        rerank_dims: the prefixes D_r to try; `None` takes every nesting dim above D_s.
        funnels: bool, whether funnels are tried beside single reranks: through every nesting dim
            from D_s to D_r, and the paper's form, four dims after D_s and then D_r. Their sizes
            halve and the last is k. And funnels of two reranks that skip dims, see `kept`.
            Defaults to `True`.
        single_stage: bool, whether exact search with one prefix is tried too, where shortlists
            are exact. Defaults to `True`.
        leaf_shares: floats in (0, 1], shares of the leaves to open, for shortlists that ScaNN or a
            partition finds. The defaults are 0.25, 1, 2, 5, 10 and 20 %.
        kept: ints above k, for funnels of two reranks: a dim between D_s and D_r, at most a
            third of D_r, keeps so many rows of the shortlist for D_r. `()` tries none. The
            defaults are 20 and 40: at 300,000 x 2048 such plans were the fastest that lost less
            than a tenth of a point of mAP@10.

    >>> TuningSpace(shortlists=(50, 100), funnels=False).rerank_dims is None
    True
    """

    shortlist_dims: Sequence[int] | None = None
    shortlists: Sequence[int] = (25, 50, 100, 200, 400, 800)
    rerank_dims: Sequence[int] | None = None
    funnels: bool = True
    single_stage: bool = True
    leaf_shares: Sequence[float] = (0.0025, 0.01, 0.02, 0.05, 0.1, 0.2)
    kept: Sequence[int] = (20, 40)

    def plans(self, index, k: int) -> Iterator[SearchPlan]:
        """Every plan for an index, each once.

        Args:
            index: `NestedIndex`.
            k: int, the plans' k.

        Raises:
            ValueError: dims that are not nesting dims, lengths below 1, or shares out of range.
        """
        seen = set()
        if self.single_stage and index.shortlist is None:
            yield from (SearchPlan((dim,), k=k) for dim in index.nesting_dims[:-1])
        for d_s in self._shortlist_dims(index):
            leaves, sizes = self._leaves(index, d_s), self._sizes(len(index), k)
            for stages, opened in itertools.product(self._stages(index, d_s, sizes, k), leaves):
                plan = SearchPlan(*stages, k, opened)
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

    def _stages(self, index, d_s, sizes, k):
        """(dims, sizes) of every plan that starts at one D_s."""
        above = [dim for dim in index.nesting_dims if dim > d_s]
        kept = [whole_number(rows, "Each of `kept`") for rows in self.kept]
        for d_r in above if self.rerank_dims is None else self.rerank_dims:
            index.nesting_dims.index(d_r)
            between = [dim for dim in above if dim < d_r]
            if d_r <= d_s:
                continue
            forms = [(d_s, d_r)]
            if self.funnels and between:
                forms += [(d_s, *between, d_r), (d_s, *between[:4], d_r)]
            for dims, size in itertools.product(forms, sizes):
                yield dims, SearchPlan.funnel(dims, size, k).sizes
            middle = [dim for dim in between if self.funnels and 3 * dim <= d_r]
            for dim, size, rows in itertools.product(middle, sizes, kept):
                if k < rows < size:
                    yield (d_s, dim, d_r), (size, rows)
