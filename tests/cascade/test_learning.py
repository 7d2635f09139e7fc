"""Thresholds and temperatures learned from held-out logits."""

import itertools

import numpy as np
import pytest

from mrl_keras.cascade import (
    CascadePolicy,
    calibrate_temperatures,
    learn_thresholds,
    optimize_thresholds,
    threshold_front,
)
from mrl_keras.cascade.greedy import PAPER_GRID
from mrl_keras.cascade.joint import best_within
from tests.cascade import oracle

DIMS = [2, 4, 8, 16]
LOGITS, LABELS = oracle.nested_problem(examples=120)
COSTS = {"last": [2, 4, 8, 16], "cumulative": [2, 6, 14, 30]}


def measured(policy, logits=LOGITS, labels=LABELS, cost="last"):
    """(accuracy, expected dim), by the oracle."""
    answers = oracle.decide(logits, policy.thresholds, policy.temperatures)
    right = [answer[0] == label for answer, label in zip(answers, labels, strict=True)]
    return np.mean(right), np.mean([COSTS[cost][answer[2]] for answer in answers])


@pytest.mark.parametrize("grid", [None, [0.0, 0.3, 0.5, 0.7, 1.0]])
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_thresholds_are_the_first_best_of_the_grid(grid, seed):
    logits, labels = oracle.nested_problem(examples=60, prefixes=3, seed=seed)
    policy = learn_thresholds(logits, labels, DIMS[:3], grid)
    expected = oracle.greedy(logits, labels, PAPER_GRID if grid is None else grid)
    np.testing.assert_allclose(policy.thresholds, expected)


def test_the_authors_grid():
    assert len(PAPER_GRID) == 100
    assert (PAPER_GRID[0], PAPER_GRID[-1]) == (0.1, 1.0)


def test_a_grid_may_come_in_any_order():
    one = learn_thresholds(LOGITS, LABELS, DIMS, [0.9, 0.2, 0.5, 0.5])
    assert one == learn_thresholds(LOGITS, LABELS, DIMS, [0.2, 0.5, 0.9])


@pytest.mark.parametrize("learn", [learn_thresholds, optimize_thresholds])
def test_the_order_of_examples_changes_nothing(learn):
    order = np.random.default_rng(1).permutation(len(LABELS))
    assert learn(LOGITS, LABELS, DIMS) == learn(LOGITS[order], LABELS[order], DIMS)


@pytest.mark.parametrize("learn", [learn_thresholds, optimize_thresholds])
def test_one_prefix_needs_no_threshold(learn):
    assert learn(LOGITS[:, :1], LABELS, [2]) == CascadePolicy([2], [])


@pytest.mark.parametrize("cost", ["last", "cumulative"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_joint_thresholds_are_no_worse_than_greedy_ones(cost, seed):
    logits, labels = oracle.nested_problem(seed=seed)
    greedy = measured(learn_thresholds(logits, labels, DIMS), logits, labels, cost)
    joint = optimize_thresholds(logits, labels, DIMS, cost=cost)
    accuracy, dims = measured(joint, logits, labels, cost)
    assert accuracy >= greedy[0]
    assert dims <= greedy[1]


@pytest.mark.parametrize("cost", ["last", "cumulative"])
def test_the_front_is_measured_ascends_and_reaches_the_best_of_all_thresholds(cost):
    grid = [0.0, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
    front = threshold_front(LOGITS, LABELS, DIMS, cost, grid)
    for point in front:
        assert measured(point.policy, cost=cost) == pytest.approx(point[1:])
    accuracies, dims = zip(*[point[1:] for point in front], strict=True)
    assert list(accuracies) == sorted(set(accuracies))
    assert list(dims) == sorted(set(dims))
    every = [
        measured(CascadePolicy(DIMS, thresholds), cost=cost)
        for thresholds in itertools.product(grid, repeat=3)
    ]
    assert front[0].expected_dim == min(dim for _, dim in every)
    assert front[-1].accuracy >= max(accuracy for accuracy, _ in every)
    # Where the accuracy of one example costs a given number of dims, no thresholds do better.
    for price in (0.0, 0.005, 0.02, 0.1):
        best = max(accuracy - price * dim for accuracy, dim in every)
        assert max(point[1] - price * point[2] for point in front) >= best - 0.25 / len(LABELS)


def test_a_budget_is_kept():
    front = threshold_front(LOGITS, LABELS, DIMS)
    for budget in (2, 3.5, 7, 16, 100):
        policy = optimize_thresholds(LOGITS, LABELS, DIMS, expected_dim=budget)
        accuracy, dims = measured(policy)
        assert dims <= budget
        assert accuracy >= max(point.accuracy for point in front if point.expected_dim <= budget)
    assert best_within(front, 2).policy.thresholds == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("cost", ["last", "cumulative"])
@pytest.mark.parametrize("prefixes", [2, 3])
def test_with_up_to_two_thresholds_no_others_do_better_within_the_budget(prefixes, cost):
    logits, dims = LOGITS[:, :prefixes], DIMS[:prefixes]
    grid = [0.0, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
    every = [
        measured(CascadePolicy(dims, thresholds), logits, cost=cost)
        for thresholds in itertools.product(grid, repeat=prefixes - 1)
    ]
    for budget in sorted({dim for _, dim in every}):
        policy = optimize_thresholds(logits, LABELS, dims, budget, cost, grid)
        accuracy, dim = measured(policy, logits, cost=cost)
        assert dim <= budget
        assert accuracy >= max(right for right, spent in every if spent <= budget)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_thresholds_at_a_time_come_near_the_best_of_three(seed):
    logits, labels = oracle.nested_problem(seed=seed)
    grid = [0.0, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
    every = [
        measured(CascadePolicy(DIMS, thresholds), logits, labels)
        for thresholds in itertools.product(grid, repeat=3)
    ]
    for budget in (3, 4, 6, 8, 12):
        policy = optimize_thresholds(logits, labels, DIMS, expected_dim=budget, grid=grid)
        best = max(right for right, spent in every if spent <= budget)
        assert measured(policy, logits, labels)[0] >= best - 0.01


@pytest.mark.parametrize("budget", [1.9, np.nan, "few", -1])
def test_a_budget_below_the_smallest_dim_is_refused(budget):
    with pytest.raises(ValueError, match="`expected_dim` must be a number of at least 2"):
        optimize_thresholds(LOGITS, LABELS, DIMS, expected_dim=budget)


def test_an_unknown_cost_is_refused():
    with pytest.raises(ValueError, match='"last" or "cumulative". Received \'time\''):
        optimize_thresholds(LOGITS, LABELS, DIMS, cost="time")


def test_temperatures_minimise_the_crossentropy():
    logits = LOGITS * np.array([3.0, 1.0, 0.3, 5.0], "float32")[None, :, None]
    found = calibrate_temperatures(logits, LABELS, DIMS)

    def crossentropy(place, temperature):
        rows = zip(logits[:, place], LABELS, strict=True)
        return -np.mean([np.log(oracle.softmax(row / temperature)[label]) for row, label in rows])

    for place, temperature in enumerate(found):
        here = crossentropy(place, temperature)
        assert here < crossentropy(place, temperature * 1.02)
        assert here < crossentropy(place, temperature / 1.02)
    scaled = np.array(calibrate_temperatures(LOGITS, LABELS, DIMS)) * [3.0, 1.0, 0.3, 5.0]
    np.testing.assert_allclose(found, scaled, rtol=1e-4)


def test_temperatures_stay_in_their_range():
    always = np.where(np.eye(5)[LABELS][:, None] > 0, 9.0, 0.0) * np.ones((1, 4, 1))
    np.testing.assert_allclose(calibrate_temperatures(always, LABELS, DIMS), 0.05, rtol=1e-3)
    never = np.roll(always, 1, axis=-1)
    np.testing.assert_allclose(calibrate_temperatures(never, LABELS, DIMS), 20.0, rtol=1e-3)


def test_thresholds_are_learned_at_the_temperatures_they_are_used_with():
    temperatures = [2.0, 0.5, 1.5, 1.0]
    policy = learn_thresholds(LOGITS, LABELS, DIMS, temperatures=temperatures)
    divided = LOGITS / np.array(temperatures)[None, :, None]
    plain = learn_thresholds(divided, LABELS, DIMS)
    assert policy.thresholds == plain.thresholds
    assert policy.temperatures == tuple(temperatures)
    np.testing.assert_array_equal(policy.decide(LOGITS).dims, plain.decide(divided).dims)


@pytest.mark.parametrize(
    "function",
    [learn_thresholds, optimize_thresholds, threshold_front, calibrate_temperatures],
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": LOGITS[:0], "labels": LABELS[:0]}, "at least one example"),
        ({"logits": LOGITS[:, :3]}, r"4 prefixes.*Received shape \(120, 3, 5\)"),
        ({"logits": np.where(LOGITS > 4, np.nan, LOGITS)}, "hold NaN or infinity"),
        ({"labels": LABELS[:-1]}, r"120 ints.*Received shape \(119,\)"),
        ({"labels": LABELS * 1.0}, "dtype float64"),
        ({"labels": LABELS + 1}, "from 0 to 4, the classes.*values from 1 to 5"),
        ({"labels": LABELS - 1}, "values from -1 to 3"),
    ],
)
def test_refused_held_out_data(function, change, message):
    with pytest.raises(ValueError, match=message):
        function(**{"logits": LOGITS, "labels": LABELS, "dims": DIMS, **change})


@pytest.mark.parametrize("grid", [[], [0.5, 1.2], [-0.1], [np.nan], "fine"])
def test_refused_grids(grid):
    with pytest.raises(ValueError, match="`grid` must hold floats from 0 to 1"):
        learn_thresholds(LOGITS, LABELS, DIMS, grid)
