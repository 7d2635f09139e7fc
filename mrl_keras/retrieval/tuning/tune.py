"""Tuning: the cheapest plan that keeps the quality of full width, on held-out queries."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from tqdm.auto import tqdm

from mrl_keras.retrieval.arrays import check_queries, order_rows, select_rows
from mrl_keras.retrieval.cost import mflops_per_query
from mrl_keras.retrieval.exact.search import DEFAULT_MEMORY_BUDGET, search_finite
from mrl_keras.retrieval.plan import SearchPlan
from mrl_keras.retrieval.tuning.plot import plot_tuning
from mrl_keras.retrieval.tuning.points import TuningPoint, pareto_front
from mrl_keras.retrieval.tuning.relevance import RankingMetric, Relevance
from mrl_keras.retrieval.tuning.space import TuningSpace

_TIMED_QUERIES = 256


@dataclass(frozen=True)
class TuningOptions:
    """What `tune` measures, how much a plan may lose, and which plans it tries.

    Args:
        metric: "mAP@k" or "recall@k"; its k is the plans' k. Defaults to "mAP@10".
        tolerance: float, how far the metric may fall below full width. Defaults to 0.001, a
            tenth of a point.
        confidence: float in [0.5, 1), of the one-sided interval that the loss must stay within;
            0.5 takes the measured mean as it is. Defaults to 0.95.
        space: `TuningSpace`, the plans to try. Defaults to `TuningSpace()`.
        cost: "mflops" picks the fewest MFLOPs by the paper's count, and measures the time of
            the Pareto front; "seconds" measures the time of every plan within the tolerance and
            picks the fastest; "bytes" picks the smallest of several indexes, and of its plans the
            one with the fewest MFLOPs. Defaults to "mflops".

    Raises:
        ValueError: an unknown metric or cost, a negative tolerance, or a confidence out of range.

    >>> TuningOptions(tolerance=0.01).metric
    'mAP@10'
    """

    metric: str = "mAP@10"
    tolerance: float = 0.001
    confidence: float = 0.95
    space: TuningSpace = field(default_factory=TuningSpace)
    cost: str = "mflops"

    def __post_init__(self):
        RankingMetric(self.metric)
        if not self.tolerance >= 0:
            raise ValueError(f"`tolerance` must not be negative. Received {self.tolerance!r}.")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(
                f"`confidence` must be at least 0.5 and below 1. Received {self.confidence!r}."
            )
        if self.cost not in ("mflops", "seconds", "bytes"):
            raise ValueError(
                f'`cost` must be "mflops", "seconds" or "bytes". Received {self.cost!r}.'
            )


@dataclass(frozen=True)
class TuningResult:
    """What `tune` found.

    Attributes:
        metric: str, such as "mAP@10".
        tolerance: float, how far below full width a plan may be.
        confidence: float, how sure that had to be.
        full_width: `TuningPoint` of exact search with all dims of the first index.
        points: tuple of all points, full width among them, by rising MFLOPs.
        chosen: the `TuningPoint` picked: the cheapest within the tolerance.
    """

    metric: str
    tolerance: float
    confidence: float
    full_width: TuningPoint
    points: tuple[TuningPoint, ...]
    chosen: TuningPoint

    @property
    def best(self) -> SearchPlan:
        """The plan picked, as searches and exports take it."""
        return self.chosen.plan

    @property
    def front(self) -> tuple[TuningPoint, ...]:
        """The Pareto front over (MFLOPs, metric), as `pareto_front` gives it."""
        return pareto_front(self.points)

    def plot(self, path=None):
        """The metric against MFLOPs and against measured time, as the paper's Figure 8.

        Args:
            path: optional file name; the ending gives the format. Written atomically.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: matplotlib is missing.
        """
        return plot_tuning(self, path)


def tune(
    index,
    queries: np.ndarray,
    relevant: Sequence[Sequence] | None = None,
    labels: tuple[Sequence, Sequence] | None = None,
    options: TuningOptions | None = None,
    progress: bool = False,
) -> TuningResult:
    """Finds the cheapest plan that stays within a tolerance of exact full-width search.

    Every plan of the space is scored on the queries, which must be held out from those that the
    plan will be judged by. Among hundreds of plans some look good by luck, so the loss must stay
    within the tolerance at the upper end of its confidence interval, taken from each query's own
    difference to full width; more queries make that interval narrower and the plan cheaper.

    All exact shortlists come from one pass over the database, and each shortlist's rows are
    scored once at every prefix, so hundreds of plans cost little more than the longest shortlist
    of each D_s.

    Several indexes of the same rows are tuned together, so that partitions (D_c, D_s, leaves), sign
    bits and storages are chosen too: `index.with_shortlist(options)` makes candidates without a
    copy of the rows. Quality is compared to full width of the first one, and
    `indexes[result.chosen.index]` is the index picked.

    Args:
        index: `NestedIndex`, or a list of them with the same ids.
        queries: (queries, width) held-out embeddings.
        relevant: ids of the rows relevant to each query, one sequence for each; -1 or "" names
            none.
        labels: the pair (labels of the queries, labels of the rows): rows of the query's label
            are relevant. Give `relevant` or `labels`, not both. With neither, recall is
            measured against the neighbours that exact full-width search finds.
        options: `TuningOptions`: the metric, the tolerance, the plans to try and their cost;
            `None` takes its defaults.
        progress: bool, whether to show a progress bar. Defaults to `False`.

    Returns:
        A `TuningResult`; `result.best` is a `SearchPlan`.

    Raises:
        ValueError: no queries, both or neither of `relevant` and `labels` where one is needed,
            labels or ids that do not fit, k above the number of rows, dims that are not
            nesting dims, or indexes of other rows.

    Example:

    >>> from mrl_keras.retrieval import NestedIndex
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 5, 600)
    >>> rows = rng.standard_normal((5, 16))[labels] + 0.3 * rng.standard_normal((600, 16))
    >>> index = NestedIndex.build(rows[:500], [2, 4, 8, 16])
    >>> result = tune(index, rows[500:], labels=(labels[500:], labels[:500]))
    >>> result.chosen.mflops < result.full_width.mflops / 2
    True

    Source: arXiv 2205.13147, Section 4.3.1 leaves the choice of D_s, D_r and k open; Figure 8.
    """
    options = options or TuningOptions()
    indexes = _checked_indexes(index)
    k = RankingMetric(options.metric).k
    plans = [list(options.space.plans(one, k)) for one in indexes]
    for one, own in zip(indexes[1:], plans[1:], strict=True):
        if options.space.single_stage and one.shortlist is None:
            own.append(SearchPlan((one.width,), k=k))
    points = _measure(indexes, queries, plans, relevant, labels, options.metric, progress)
    points, chosen = _choose(indexes, queries, points, options)
    by_flops = tuple(sorted(points, key=lambda point: point.mflops))
    return TuningResult(
        options.metric, options.tolerance, options.confidence, points[0], by_flops, chosen
    )


def _checked_indexes(index):
    indexes = list(index) if isinstance(index, (list, tuple)) else [index]
    if not indexes:
        raise ValueError("`index` must be a NestedIndex or a list of them. Received an empty list.")
    for place, one in enumerate(indexes):
        if one.width != indexes[0].width or not np.array_equal(one.ids, indexes[0].ids):
            raise ValueError(
                "Indexes that are tuned together must have the same rows: equal ids and widths. "
                f"Received {one} at place {place} beside {indexes[0]}."
            )
    return indexes


def measure_plans(
    index,
    queries: np.ndarray,
    plans: Sequence[SearchPlan],
    relevant: Sequence[Sequence] | None = None,
    labels: tuple[Sequence, Sequence] | None = None,
    metric: str = "mAP@10",
    progress: bool = False,
) -> list[TuningPoint]:
    """The quality of full width and of some plans, not timed: what a tuned plan is judged by.

    Args:
        index, queries, relevant, labels, progress: as for `tune`.
        plans: `SearchPlan`s whose k is the metric's.
        metric: "mAP@k" or "recall@k". Defaults to "mAP@10".

    Returns:
        `TuningPoint`s of exact full-width search and of each of `plans`.

    Raises:
        ValueError: as for `tune`; a plan of another k.

    >>> from mrl_keras.retrieval import NestedIndex
    >>> index = NestedIndex.build(np.eye(4), [2, 4])
    >>> plans, labels = [SearchPlan((2,), k=1)], (np.arange(4), np.arange(4))
    >>> points = measure_plans(index, np.eye(4), plans, labels=labels, metric="mAP@1")
    >>> [point.value for point in points]
    [1.0, 0.5]
    """
    plans, k = list(plans), RankingMetric(metric).k
    if any(plan.k != k for plan in plans):
        raise ValueError(
            f"`plans` must give the k={k} rows that {metric} judges. Received "
            f"{next(plan for plan in plans if plan.k != k)}."
        )
    return _measure([index], queries, [plans], relevant, labels, metric, progress)


def _measure(indexes, queries, plans, relevant, labels, metric, progress):
    """Points of full width of the first index, and of the plans of each index in order."""
    first = indexes[0]
    queries, metric = check_queries(queries, first.width), RankingMetric(metric)
    if not len(queries):
        raise ValueError("`queries` must hold at least one query. Received none.")
    if metric.k > len(first):
        raise ValueError(
            f"`metric` must have a k of at most {len(first)}, the rows. Received {metric.name!r}."
        )
    found, relevance = [], None
    total = sum(map(len, plans))
    with tqdm(total=total, desc="Tuning", disable=not progress, unit_scale=True) as bar:
        for place, (index, own) in enumerate(zip(indexes, plans, strict=True)):
            shortlists = _Shortlists(index, queries, own, metric.k)
            if relevance is None:
                full_width = shortlists.full_width()
                relevance = _relevance(first, queries, relevant, labels, metric, full_width)
                if not relevance.wanted.any():
                    raise ValueError(
                        "At least one query must have a relevant row. Received `relevant` or "
                        "`labels` that no row of the index has; labels of both must be of one kind."
                    )
                values = metric.values(relevance.at(full_width), relevance.wanted)
            scorer = _Scorer(index, place, shortlists, relevance, metric, values)
            if place == 0:
                found.append(scorer.full_width_point())
            points = {}
            for point in scorer.points(own):
                points[point.plan] = point
                bar.update()
            found += [points[plan] for plan in own]
    return found


class _Shortlists:
    """The longest shortlist of each D_s (and number of leaves) that the plans need."""

    def __init__(self, index, queries, plans, k):
        self._index, self.queries, self._k = index, queries, k
        self._longest = max((plan.shortlist_size for plan in plans), default=k)
        self._exact = None
        if any(self.leaves_of(plan) is None for plan in plans):
            _, self._exact = search_finite(
                queries, index.blocks, max(self._longest, k), index.metric == "cosine",
                DEFAULT_MEMORY_BUDGET, inverse_norms=index.inverse_norms,
            )  # fmt: skip

    def full_width(self):
        """int64 row numbers (queries, k) of exact search with all dims."""
        if self._exact is not None:
            return self._exact[-1][:, : self._k]
        return self._index.search_exactly(self.queries, self._index.width, self._k)[1]

    def leaves_of(self, plan):
        """The leaves that a plan opens, `None` where its shortlist is exact."""
        shortlist = self._index.shortlist
        if shortlist is None or shortlist.dim != plan.shortlist_dim or not plan.rerank_dims:
            return None
        return plan.leaves or shortlist.parameters.leaves_to_search

    def needs_size(self, dim):
        """Whether each length needs a search of its own, because ScaNN reorders its shortlist."""
        shortlist = self._index.shortlist
        reorders = getattr(getattr(shortlist, "parameters", None), "reorder_dim", None)
        return reorders is not None and shortlist.dim == dim

    def find(self, dim, leaves, size):
        """int64 row numbers (queries, `size`, or the longest where that is `None`)."""
        if leaves is not None:
            size = size or self._longest
            return self._index.find_shortlist(self.queries, dim, size, leaves)
        return self._exact[self._index.nesting_dims.index(dim)][:, : self._longest]


def _relevance(index, queries, relevant, labels, metric, full_width):
    if relevant is not None and labels is not None:
        raise ValueError("Give `relevant` or `labels`, not both.")
    if labels is not None:
        if not isinstance(labels, (tuple, list)) or len(labels) != 2:
            raise ValueError(
                "`labels` must be the pair (labels of the queries, labels of the rows). "
                f"Received {type(labels).__name__}."
            )
        return Relevance.by_labels(*labels, len(queries), len(index))
    if relevant is not None:
        if len(relevant) != len(queries):
            raise ValueError(
                f"`relevant` must hold one sequence of ids for each of the {len(queries)} "
                f"queries. Received {len(relevant)}."
            )
        return Relevance.by_ids(relevant, index)
    if not metric.is_recall:
        raise ValueError(
            f"{metric.name} needs `relevant` or `labels`. Received neither; recall@k can be "
            "measured against exact search without them."
        )
    return Relevance.by_indices(full_width, len(index))


class _Scorer:
    """Scores an index's plans by each query's metric, beside the first index's full width."""

    def __init__(self, index, place, shortlists, relevance, metric, full_width):
        self._index, self._place, self._shortlists = index, place, shortlists
        self._relevance, self._metric, self._full_width = relevance, metric, full_width
        self._bytes = index.memory_bytes()

    def full_width_point(self):
        """The `TuningPoint` of exact search with all dims, not timed."""
        return self._point(SearchPlan((self._index.width,), k=self._metric.k), self._full_width)

    def points(self, plans):
        """A `TuningPoint` of every plan, not timed."""
        for (dim, leaves, size), group in itertools.groupby(
            sorted(plans, key=self._stage), key=self._stage
        ):
            candidates = self._shortlists.find(dim, leaves or None, size or None)
            scores = self._index.prefix_scores(self._shortlists.queries, candidates)
            relevant = self._relevance.at(candidates)
            for plan in group:
                kept = _funnel_places(self._index, scores, plan)
                yield self._point(plan, self._values(np.take_along_axis(relevant, kept, 1)))

    def _stage(self, plan):
        size = plan.shortlist_size if self._shortlists.needs_size(plan.shortlist_dim) else 0
        return plan.shortlist_dim, self._shortlists.leaves_of(plan) or 0, size

    def _values(self, relevant):
        return self._metric.values(relevant, self._relevance.wanted)

    def _point(self, plan, values):
        exact = self._shortlists.leaves_of(plan) is None
        error = float(np.std(values - self._full_width) / np.sqrt(len(values)))
        shortlist = None if exact else self._index.shortlist
        mflops = mflops_per_query(len(self._index), plan, shortlist=shortlist)
        value = float(np.mean(values))
        return TuningPoint(plan, value, mflops, error=error, index=self._place, bytes=self._bytes)


def _funnel_places(index, scores, plan):
    """Places in the shortlist, int (queries, k), of the rows that a plan's reranks return."""
    left = np.broadcast_to(np.arange(plan.shortlist_size), (scores.shape[1], plan.shortlist_size))
    if not plan.rerank_dims:
        return left
    for dim, keep in zip(plan.rerank_dims, (*plan.rerank_sizes, plan.k), strict=True):
        ranked = np.take_along_axis(scores[index.nesting_dims.index(dim)], left, 1)
        ranked, left = select_rows(ranked, left, keep)
    return order_rows(ranked, left)[1]


def _choose(indexes, queries, points, options):
    """(points, with the time of those that need one; the point picked). The first is full width."""
    errors = statistics.NormalDist().inv_cdf(options.confidence)
    least = points[0].value - options.tolerance
    key = _KEYS[options.cost]

    def within(points):
        return [point for point in points if point.value - errors * point.error >= least]

    timed = [points[0], *pareto_front(points)]
    timed += within(points) if options.cost == "seconds" else [min(within(points), key=key)]
    timed = {(point.index, point.plan) for point in timed}
    seconds = {pair: _seconds(indexes[pair[0]], queries, pair[1]) for pair in timed}
    points = [replace(one, seconds=seconds.get((one.index, one.plan))) for one in points]
    return points, min(within(points), key=key)


_KEYS = {
    "mflops": lambda point: (point.mflops, -point.value),
    "seconds": lambda point: (point.seconds, -point.value),
    "bytes": lambda point: (point.bytes, point.mflops, -point.value),
}


def _seconds(index, queries, plan):
    """Seconds for each query of a batch: the fastest of three searches."""
    queries, spent = queries[:_TIMED_QUERIES], []
    for _ in range(3):
        start = time.perf_counter()
        index.search(queries, plan)
        spent.append(time.perf_counter() - start)
    return min(spent) / len(queries)
