import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest

from mrl_keras.retrieval import (
    IndexOptions,
    NestedIndex,
    PartitionParameters,
    ScannParameters,
    SearchPlan,
    TuningOptions,
    TuningPoint,
    TuningSpace,
    labels_at,
    mean_average_precision,
    measure_plans,
    mflops_per_query,
    pareto_front,
    recall_at_k,
    tune,
)
from tests.retrieval.oracle import clustered

DIMS = [4, 8, 16, 32]
SMALL = TuningSpace(shortlists=(20, 60))
OPTIONS = TuningOptions(tolerance=0.01, space=SMALL)
Z95 = 1.6448536269514722  # the normal distribution's 95 % point


@pytest.fixture(scope="module")
def data():
    return clustered(1200, 32, 60, classes=12)


@pytest.fixture(scope="module")
def index(data):
    return NestedIndex.build(data[0], DIMS, ids=[f"row {i}" for i in range(1200)])


def scann_index(rows):
    return NestedIndex.build(
        rows, DIMS, options=IndexOptions(shortlist_dim=8, scann=ScannParameters(20, 4))
    )


@pytest.fixture(scope="module")
def tuned(data, index):
    _, queries, row_labels, query_labels = data
    return tune(index, queries, labels=(query_labels, row_labels), options=OPTIONS)


def average_precision(index, data, plan):
    _, queries, row_labels, query_labels = data
    neighbours = labels_at(index.search(queries, plan).indices, row_labels)
    return mean_average_precision(neighbours == query_labels[:, None], plan.k)


def test_every_point_is_what_a_search_gives(data, index, tuned):
    assert len(tuned.points) == 1 + len(list(SMALL.plans(index, 10)))
    for point in tuned.points:
        assert point.value == pytest.approx(average_precision(index, data, point.plan), abs=1e-9)
        assert point.mflops == mflops_per_query(1200, point.plan)


def test_the_choice_is_the_cheapest_within_the_tolerance(tuned):
    assert tuned.full_width.plan == SearchPlan((32,))
    least = tuned.full_width.value - 0.01
    enough = [p for p in tuned.points if p.value - Z95 * p.error >= least]
    assert tuned.chosen.mflops == min(point.mflops for point in enough)
    assert tuned.chosen in enough
    assert tuned.best == tuned.chosen.plan
    assert tuned.chosen.mflops < tuned.full_width.mflops


def test_front_and_choice_are_timed(tuned):
    assert all(point.seconds > 0 for point in (*tuned.front, tuned.full_width, tuned.chosen))
    values = [point.value for point in tuned.front]
    assert values == sorted(set(values))
    for point in tuned.points:
        assert any(f.mflops <= point.mflops and f.value >= point.value for f in tuned.front)


def test_errors_are_those_of_paired_differences(data, index, tuned):
    _, queries, row_labels, query_labels = data
    wide = _average_precisions(index, data, tuned.full_width.plan)
    for point in tuned.points[::7]:
        difference = _average_precisions(index, data, point.plan) - wide
        expected = difference.std() / np.sqrt(len(queries))
        assert point.error == pytest.approx(expected, abs=1e-9)
    assert tuned.full_width.error == 0


def test_a_plan_that_is_good_by_luck_is_not_chosen(data, index):
    _, queries, row_labels, query_labels = data
    labels = (query_labels, row_labels)
    by_mean = tune(index, queries, labels=labels, options=replace(OPTIONS, confidence=0.5))
    surely = tune(index, queries, labels=labels, options=replace(OPTIONS, confidence=0.999))
    enough = [p for p in by_mean.points if p.value >= by_mean.full_width.value - 0.01]
    assert by_mean.chosen.mflops == min(point.mflops for point in enough)
    assert surely.chosen.value - 3 * surely.chosen.error >= surely.full_width.value - 0.01
    assert surely.chosen.mflops > by_mean.chosen.mflops


def _average_precisions(index, data, plan):
    _, queries, row_labels, query_labels = data
    neighbours = labels_at(index.search(queries, plan).indices, row_labels)
    hits = neighbours == query_labels[:, None]
    ranks = np.arange(1, plan.k + 1)
    return np.array([sum(row[:r].mean() for r in ranks if row[r - 1]) / plan.k for row in hits])


def test_by_measured_time(data, index):
    _, queries, row_labels, query_labels = data
    result = tune(
        index,
        queries,
        labels=(query_labels, row_labels),
        options=replace(OPTIONS, cost="seconds"),
    )
    least = result.full_width.value - 0.01
    enough = [p for p in result.points if p.value - Z95 * p.error >= least]
    assert all(point.seconds is not None for point in enough)
    assert result.chosen.seconds == min(point.seconds for point in enough)


def test_zero_tolerance_keeps_full_width_quality(data, index):
    _, queries, row_labels, query_labels = data
    result = tune(
        index, queries, labels=(query_labels, row_labels), options=replace(OPTIONS, tolerance=0.0)
    )
    assert result.chosen.value >= result.full_width.value


def test_recall_against_exact_neighbours(data, index):
    queries = data[1]
    result = tune(index, queries, options=TuningOptions("recall@5", space=SMALL))
    assert result.full_width.value == 1.0
    exact = index.search(queries, SearchPlan((32,), k=5)).ids
    for point in result.points[::5]:
        found = index.search(queries, point.plan).ids
        assert point.value == pytest.approx(recall_at_k(found, exact), abs=1e-9)


@pytest.mark.parametrize("metric", ["mAP@10", "recall@10"])
def test_given_relevant_ids(data, index, metric):
    queries = data[1]
    wanted = [[f"row {(7 * i) % 1200}", f"row {i}", ""][: i % 4] for i in range(len(queries))]
    result = tune(index, queries, relevant=wanted, options=TuningOptions(metric, space=SMALL))
    found = index.search(queries, SearchPlan((32,))).ids
    hits = np.array(
        [
            [name in ids and name != "" for name in row]
            for row, ids in zip(found, wanted, strict=True)
        ]
    )
    counts = np.array([len(set(ids) - {""}) for ids in wanted])
    if metric == "mAP@10":
        expected = mean_average_precision(hits, 10)
    else:
        expected = np.mean(hits.sum(axis=1)[counts > 0] / counts[counts > 0])
    assert result.full_width.value == pytest.approx(expected, abs=1e-9)


def test_scann_leaves_are_tuned_on_the_shortlists_prefix(data):
    rows, queries, row_labels, query_labels = data
    index = scann_index(rows)
    space = TuningSpace(shortlists=(60,), leaf_shares=(0.05, 0.5), rerank_dims=[32])
    result = tune(
        index, queries, labels=(query_labels, row_labels), options=TuningOptions(space=space)
    )
    plans = {point.plan for point in result.points} - {result.full_width.plan}
    assert {plan.shortlist_dim for plan in plans} == {8}
    assert {plan.leaves for plan in plans} == {1, 10}
    for point in result.points:
        if point.plan in plans:
            assert point.mflops == mflops_per_query(1200, point.plan, num_leaves=20)
            value = average_precision(index, data, point.plan)
            assert point.value == pytest.approx(value, abs=0.01)
    few, many = (
        max(point.value for point in result.points if point.plan.leaves == leaves)
        for leaves in (1, 10)
    )
    assert few <= many


def test_plans_of_the_space(index):
    plans = list(TuningSpace(shortlist_dims=[4], shortlists=(50,)).plans(index, 10))
    assert len(plans) == len(set(plans))
    assert [plan.dims for plan in plans] == [
        (4,), (8,), (16,),
        (4, 8), (4, 16), (4, 8, 16), (4, 32), (4, 8, 16, 32), (4, 8, 32), (4, 8, 32),
    ]  # fmt: skip
    assert [plan.sizes for plan in plans[-2:]] == [(50, 20), (50, 40)]
    only = TuningSpace([4], (50,), [16], funnels=False, single_stage=False)
    assert list(only.plans(index, 10)) == [SearchPlan((4, 16), (50,))]


def test_the_middle_of_a_funnel_is_at_most_a_third_of_its_last_dim():
    rows = np.random.default_rng(0).standard_normal((60, 24))
    index = NestedIndex.build(rows, (4, 8, 16, 24))
    space = TuningSpace([4], (50,), [16, 24], kept=(20,), single_stage=False)
    skipping = [plan.dims for plan in space.plans(index, 10) if plan.sizes == (50, 20)]
    assert skipping == [(4, 8, 24)]


def test_shortlists_are_cut_to_the_rows_and_never_below_k(index):
    space = TuningSpace([4], (5, 10**6), [32], funnels=False, single_stage=False)
    assert [plan.sizes for plan in space.plans(index, 10)] == [(10,), (1200,)]


def test_pareto_front_by_either_cost():
    plan = SearchPlan((8,))
    points = [
        TuningPoint(plan, value, mflops, seconds)
        for value, mflops, seconds in ((0.5, 1, 9), (0.4, 2, 1), (0.7, 3, None), (0.7, 4, 5))
    ]
    assert pareto_front(points) == (points[0], points[2])
    assert pareto_front(points, "seconds") == (points[1], points[3])


def test_non_finite_queries_find_nothing(data, index):
    _, queries, row_labels, query_labels = data
    broken = queries.copy()
    broken[::2] = np.nan
    result = tune(
        index, broken, labels=(query_labels, row_labels), options=TuningOptions(space=SMALL)
    )
    alone = tune(
        index,
        queries[1::2],
        labels=(query_labels[1::2], row_labels),
        options=TuningOptions(space=SMALL),
    )
    assert result.full_width.value == pytest.approx(alone.full_width.value / 2)


def test_plot_shows_both_costs_and_reads_without_colour(tuned, tmp_path):
    pytest.importorskip("matplotlib")
    figure = tuned.plot(tmp_path / "tuning.png")
    assert (tmp_path / "tuning.png").stat().st_size > 10_000
    by_flops, by_time = figure.axes
    assert "MFLOPs" in by_flops.get_xlabel()
    assert "seconds" in by_time.get_xlabel()
    markers = [
        line.get_marker() for line in by_flops.lines if str(line.get_label()).startswith("D_s")
    ]
    assert len(set(markers)) == len(markers) == 4
    assert by_flops.get_ylabel() == "mAP@10 (%)"
    drawn = sum(
        len(line.get_xdata()) for line in by_flops.lines if str(line.get_label()).startswith("D_s")
    )
    assert drawn == len(tuned.points)


def test_plot_without_matplotlib_says_what_to_install(tuned, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "mrl_keras\[plots\]"'):
        tuned.plot()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"queries": np.ones((0, 32))}, "at least one query. Received none"),
        ({"queries": np.ones((3, 8))}, "`queries` must be 32 wide"),
        ({"labels": None}, "mAP@10 needs `relevant` or `labels`. Received neither"),
        ({"relevant": [[]] * 3}, "Give `relevant` or `labels`, not both"),
        ({"labels": None, "relevant": [["row 1"]]}, "for each of the 3 queries. Received 1"),
        ({"labels": None, "relevant": [["row 1"], ["no"], []]}, r"in the index. Received \['no'\]"),
        ({"labels": None, "relevant": [[1], [2], [3]]}, "of the index's kind, <U8. Received int64"),
        ({"labels": np.zeros(3)}, "`labels` must be the pair"),
        ({"labels": ([0] * 2, [0] * 1200)}, r"labels of the 3 queries .* shapes \(2,\)"),
        ({"metric": "nDCG@10"}, '`metric` must be "mAP@k" or "recall@k". Received \'nDCG@10\''),
        ({"metric": "mAP@0"}, "`metric` must be"),
        ({"metric": "mAP@2000"}, "a k of at most 1200, the rows"),
        ({"tolerance": -0.1}, "`tolerance` must not be negative. Received -0.1"),
        ({"tolerance": np.nan}, "`tolerance` must not be negative"),
        ({"confidence": 1.0}, "`confidence` must be at least 0.5 and below 1. Received 1.0"),
        ({"cost": "money"}, "`cost` must be .* Received 'money'"),
        ({"space": TuningSpace(shortlist_dims=[5])}, "one of the trained prefixes"),
        ({"space": TuningSpace(rerank_dims=[5])}, "one of the trained prefixes"),
        ({"space": TuningSpace(shortlists=(0,))}, "`shortlists` must be at least 1"),
    ],
)
def test_bad_input(index, arguments, text):
    good = {"queries": np.ones((3, 32)), "labels": ([0] * 3, [0] * 1200)}
    given = {
        name: arguments[name] for name in arguments if name in ("queries", "relevant", "labels")
    }
    options = {name: value for name, value in arguments.items() if name not in given}
    with pytest.raises(ValueError, match=text):
        tune(index, **{**good, **given}, options=TuningOptions(**options))


def test_bad_leaf_shares(data):
    index = scann_index(data[0])
    with pytest.raises(ValueError, match=r"`leaf_shares` must lie above 0 .* Received \[0\]"):
        list(TuningSpace(leaf_shares=(0,)).plans(index, 10))


def partitions(index):
    """Candidates of every pair (D_c, D_s), with and without second leaves."""
    for d_c, d_s, spill in itertools.product((4, 16), (8,), (None, 1.0)):
        partition = PartitionParameters(d_c, 20, 2, spill)
        yield index.with_shortlist(IndexOptions(shortlist_dim=d_s, partition=partition))


def test_partitions_bits_and_exact_shortlists_are_tuned_together(data, index):
    rows, queries, row_labels, query_labels = data
    bits = index.with_shortlist(IndexOptions(shortlist_dim=16, signs=True))
    indexes = [index, bits, *partitions(index)]
    space = TuningSpace(shortlists=(60,), leaf_shares=(0.05, 0.5), rerank_dims=[32], funnels=False)
    options = TuningOptions(space=space, tolerance=0.01)
    result = tune(indexes, queries, labels=(query_labels, row_labels), options=options)
    assert {point.index for point in result.points} == set(range(6))
    for point in result.points:
        one = indexes[point.index]
        assert point.bytes == one.memory_bytes()
        shortlist = None if point.plan.leaves is None else one.shortlist
        if shortlist is bits.shortlist:
            assert point.mflops == (1200 * 1 + 60 * 32) / 1e6  # a word of 64 bits each
        elif shortlist is not None:
            opened = shortlist.leaves.expected_rows(point.plan.leaves)
            first = 20 * shortlist.parameters.dim + 8 * opened
            assert point.mflops == pytest.approx((first + 60 * 32) / 1e6)
        value = average_precision(one, data, point.plan)
        assert point.value == pytest.approx(value, abs=1e-6)
    fewest = min(
        (p for p in result.points if p.value - 1.6449 * p.error >= result.full_width.value - 0.01),
        key=lambda p: p.mflops,
    )
    assert result.chosen.plan == fewest.plan
    assert result.chosen.index == fewest.index


def test_the_smallest_storage_within_the_tolerance_is_chosen(data, index):
    rows, queries, row_labels, query_labels = data

    def stored_as(storage, rows=rows):
        return NestedIndex.build(rows, DIMS, index.ids, IndexOptions(storage=storage))

    stored = [stored_as("bfloat16"), stored_as("int8")]
    options = TuningOptions(cost="bytes", space=TuningSpace(shortlists=(60,), funnels=False))
    labels = (query_labels, row_labels)
    loose = replace(options, tolerance=0.05)
    result = tune([index, *stored], queries, labels=labels, options=loose)
    assert result.chosen.index == 2
    assert result.chosen.bytes < stored[0].memory_bytes() < index.memory_bytes()
    assert any(p.index == 2 and p.plan.dims == (32,) for p in result.points)
    # The smallest index is not within the tolerance.
    result = tune([index, stored_as("int8", -rows)], queries, labels=labels, options=options)
    assert result.chosen.index == 0


def test_a_plan_without_leaves_opens_the_shortlists_own(data):
    rows, queries, row_labels, query_labels = data
    index = scann_index(rows)
    plan = SearchPlan((8, 32), (60,))
    point = measure_plans(index, queries, [plan], labels=(query_labels, row_labels))[1]
    assert point.value == pytest.approx(average_precision(index, data, plan), abs=0.01)
    assert point.mflops == mflops_per_query(1200, replace(plan, leaves=4), num_leaves=20)


def test_indexes_of_other_rows_are_refused(data, index):
    rows, queries, *_ = data
    with pytest.raises(ValueError, match="must have the same rows.* at place 1"):
        tune([index, NestedIndex.build(rows[:50], DIMS)], queries)
    with pytest.raises(ValueError, match="Received an empty list"):
        tune([], queries)


@pytest.mark.parametrize("metric", ["mAP@10", "recall@10"])
def test_queries_without_a_relevant_row_judge_no_plan(data, index, metric):
    _, queries, row_labels, query_labels = data
    other_kind, unknown = query_labels.astype(str), query_labels + 1000
    for labels in ((other_kind, row_labels), (unknown, row_labels)):
        with pytest.raises(ValueError, match="At least one query must have a relevant row"):
            tune(index, queries, labels=labels, options=TuningOptions(metric))
    with pytest.raises(ValueError, match="At least one query must have a relevant row"):
        tune(index, queries, relevant=[[]] * len(queries), options=TuningOptions(metric))


def test_plans_are_measured_at_the_metrics_k(data, index):
    _, queries, row_labels, query_labels = data
    with pytest.raises(ValueError, match=r"`plans` must give the k=10 rows .* k=40"):
        measure_plans(index, queries, [SearchPlan((8,), k=40)], labels=(query_labels, row_labels))
