"""Averages over random held-out splits, at every early stop."""

import csv
import os

import numpy as np
import pytest

from mrl_keras.cascade import (
    CurveOptions,
    calibrate_temperatures,
    cascade_curve,
    flipped_views,
    learn_thresholds,
    optimize_thresholds,
)
from mrl_keras.files import write_csv
from tests.cascade import oracle

DIMS = [2, 4, 8, 16]
LOGITS, LABELS = oracle.nested_problem(examples=90)


def curve(*policies, **options):
    options = {"policies": policies or ("greedy", "joint"), **options}
    return cascade_curve(LOGITS, LABELS, DIMS, CurveOptions(**options))


def expected_rows(learn, splits, seed, held_out):
    """Measures (dims, splits, 4) by learning from scratch on every split, at every early stop."""
    rng = np.random.default_rng(seed)
    found = np.empty((len(DIMS), splits, 4))
    for split in range(splits):
        order = rng.permutation(len(LABELS))
        first, rest = order[:held_out], order[held_out:]
        for j in range(len(DIMS)):
            policy = learn(LOGITS[first], LABELS[first], j)
            places = len(policy.dims)
            answers = oracle.decide(LOGITS[rest, :places], policy.thresholds, policy.temperatures)
            place = np.array([answer[2] for answer in answers])
            found[j, split] = (
                np.mean([answer[0] for answer in answers] == LABELS[rest]),
                np.take(DIMS, place).mean(),
                np.take(np.cumsum(DIMS), place).mean(),
                np.mean(LOGITS[rest, j].argmax(axis=-1) == LABELS[rest]),
            )
    return found


def greedy(logits, labels, j):
    return learn_thresholds(logits, labels, DIMS).up_to(DIMS[j])


def calibrated(logits, labels, j):
    temperatures = calibrate_temperatures(logits, labels, DIMS)
    return learn_thresholds(logits, labels, DIMS, temperatures=temperatures).up_to(DIMS[j])


def joint(logits, labels, j):
    policy = greedy(logits, labels, j)
    budget = policy.decide(logits[:, : j + 1]).dims.mean()
    return optimize_thresholds(logits, labels, DIMS, expected_dim=budget)


@pytest.mark.parametrize(
    ("name", "learn", "calibrate"),
    [("greedy", greedy, False), ("greedy", calibrated, True), ("joint", joint, False)],
)
def test_is_learning_and_measuring_on_every_split(name, learn, calibrate):
    rows = curve(name, splits=3, held_out=0.4, seed=7, calibrate=calibrate)
    expected = expected_rows(learn, splits=3, seed=7, held_out=36)
    assert [(row.policy, row.dim) for row in rows] == [(name, dim) for dim in DIMS]
    for row, values in zip(rows, expected, strict=True):
        measures = (row.accuracy, row.expected_dim, row.cumulative_dim, row.prefix_accuracy)
        np.testing.assert_allclose(np.stack(measures, axis=1), values)


def test_both_policies_see_the_same_splits():
    both = curve(splits=5)
    for name in ("greedy", "joint"):
        alone = curve(name, splits=5)
        same = [row for row in both if row.policy == name]
        assert [row.summary() for row in alone] == [row.summary() for row in same]
    first = [row for row in both if row.dim == 2]
    for row in first:  # stopped at the smallest dim, every cascade is that prefix alone
        np.testing.assert_array_equal(row.accuracy, row.prefix_accuracy)
        np.testing.assert_array_equal(row.expected_dim, 2.0)


def test_the_seed_gives_the_splits():
    one, again, other = (
        [row.summary() for row in curve(splits=4, seed=seed)] for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other


def test_mean_and_standard_deviation_by_hand():
    # Three of four examples are right at dim 1: on the 3 of the test part, 2 or 3 are.
    logits = np.log([[[0.9, 0.1]]] * 3 + [[[0.1, 0.9]]])
    options = CurveOptions(["greedy"], splits=6, held_out=0.25)
    (row,) = cascade_curve(logits, [0] * 4, [1], options)
    summary = row.summary()
    assert set(np.round(row.accuracy * 3)) == {2, 3}
    assert summary["accuracy"] == pytest.approx(sum(row.accuracy) / 6)
    spread = sum((value - summary["accuracy"]) ** 2 for value in row.accuracy) / 5
    assert summary["accuracy_std"] == pytest.approx(spread**0.5)
    assert (summary["expected_dim"], summary["expected_dim_std"]) == (1.0, 0.0)
    assert (summary["policy"], summary["dim"], summary["splits"]) == ("greedy", 1, 6)


def test_cumulative_cost_is_what_the_joint_policy_keeps_within():
    rows = curve(splits=3, cost="cumulative")
    assert [row.policy for row in rows] == ["greedy"] * 4 + ["joint"] * 4


def test_writes_a_table(tmp_path):
    rows = curve(splits=3)
    write_csv(tmp_path / "curve.csv", [row.summary() for row in rows])
    with open(tmp_path / "curve.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == 8
    for row, line in zip(rows, read, strict=True):
        assert float(line["accuracy_std"]) == row.summary()["accuracy_std"]
    assert os.listdir(tmp_path) == ["curve.csv"]


def test_flipped_views_are_mirrored_from_left_to_right():
    images = np.random.default_rng(0).standard_normal((5, 3, 4, 2))
    calls = []

    def predict(batch):
        calls.append(batch)
        return batch.reshape(5, 4, 6)

    views = flipped_views(predict, images)
    assert views.shape == (2, 5, 4, 6)
    np.testing.assert_array_equal(calls[0], images)
    for column in range(4):
        np.testing.assert_array_equal(calls[1][:, :, column], images[:, :, 3 - column])
    with pytest.raises(ValueError, match=r"\(batch, height, width, channels\).*\(5, 3, 4\)"):
        flipped_views(predict, images[..., 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policies": ["best"]}, r"some of \['greedy', 'joint'\]. Received \['best'\]"),
        ({"policies": "greedy"}, "must be a sequence"),
        ({"policies": []}, "must be a sequence"),
        ({"splits": 1}, "`splits` must be at least 2. Received 1"),
        ({"held_out": 0.0}, "`held_out` must lie between 0 and 1. Received 0.0"),
        ({"held_out": "half"}, "`held_out` must lie between 0 and 1. Received 'half'"),
        ({"held_out": 0.001}, "90 examples with `held_out` 0.001 leaves one part empty"),
        ({"held_out": 0.999}, "leaves one part empty"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"cost": "time"}, '"last" or "cumulative"'),
        ({"grid": [2.0]}, "`grid` must hold floats"),
    ],
)
def test_refused_options(change, message):
    with pytest.raises(ValueError, match=message):
        curve(**change)


def test_refused_labels():
    with pytest.raises(ValueError, match="`labels` must lie from 0 to 4"):
        cascade_curve(LOGITS, LABELS + 5, DIMS)
