import json
import os

import numpy as np
import pytest

from mrl_keras import NestingDims
from mrl_keras.cascade import CascadePolicy
from tests.cascade import oracle

DIMS = [2, 4, 8, 16]
LOGITS, LABELS = oracle.nested_problem()
POLICY = CascadePolicy(DIMS, [0.6, 0.8, 0.7], temperatures=[1.5, 1.0, 0.5, 2.0])


def test_agrees_with_one_example_at_a_time():
    answer = POLICY.decide(LOGITS)
    expected = oracle.decide(LOGITS, POLICY.thresholds, POLICY.temperatures)
    np.testing.assert_array_equal(answer.classes, [row[0] for row in expected])
    np.testing.assert_allclose(answer.probabilities, [row[1] for row in expected], rtol=1e-6)
    np.testing.assert_array_equal(answer.dims, [DIMS[row[2]] for row in expected])
    assert len(set(answer.dims)) == 4


@pytest.mark.parametrize(("threshold", "dim"), [(0.0, 2), (1.0, 16)])
def test_thresholds_0_and_1_give_the_smallest_and_the_largest_dim(threshold, dim):
    sure = np.where(np.eye(5)[LABELS][:, None] > 0, 1e6, -1e6) * np.ones((1, 4, 1))
    for logits in (LOGITS, sure, np.zeros_like(LOGITS)):
        answer = CascadePolicy(DIMS, [threshold] * 3).decide(logits)
        np.testing.assert_array_equal(answer.dims, dim)


def test_a_confidence_equal_to_the_threshold_goes_on():
    logits = np.zeros((1, 2, 2))  # probability 0.5, exactly
    assert CascadePolicy([1, 2], [0.5]).decide(logits).dims == [2]
    assert CascadePolicy([1, 2], [np.nextafter(0.5, 0)]).decide(logits).dims == [1]


def test_rows_do_not_see_each_other():
    order = np.random.default_rng(1).permutation(len(LOGITS))
    whole, shuffled = POLICY.decide(LOGITS), POLICY.decide(LOGITS[order])
    for a, b in zip(whole, shuffled, strict=True):
        np.testing.assert_array_equal(a[order], b)
    for a, b in zip(whole, POLICY.decide(LOGITS[:1]), strict=True):
        np.testing.assert_array_equal(a[:1], b)


def test_views_are_averaged_as_probabilities():
    logits = np.log([[[[0.9, 0.1], [0.6, 0.4]]], [[[0.4, 0.6], [0.1, 0.9]]]])
    answer = CascadePolicy([1, 2], [0.6]).decide(logits)
    assert answer.dims == [1]
    np.testing.assert_allclose(answer.probabilities, [0.65])
    answer = CascadePolicy([1, 2], [0.66]).decide(logits)
    assert (answer.classes, answer.dims) == ([1], [2])
    np.testing.assert_allclose(answer.probabilities, [0.65])
    one, two = POLICY.decide(LOGITS), POLICY.decide(np.stack([LOGITS, LOGITS]))
    np.testing.assert_array_equal(one.dims, two.dims)


def test_no_example_gets_no_answer():
    assert [len(part) for part in POLICY.decide(LOGITS[:0])] == [0, 0, 0]


def test_early_stopping_keeps_what_comes_before():
    short = POLICY.up_to(8)
    assert short == CascadePolicy([2, 4, 8], [0.6, 0.8], [1.5, 1.0, 0.5])
    whole, stopped = POLICY.decide(LOGITS), short.decide(LOGITS[:, :3])
    np.testing.assert_array_equal(stopped.dims, np.minimum(whole.dims, 8))
    early = whole.dims < 8
    np.testing.assert_array_equal(stopped.classes[early], whole.classes[early])
    assert POLICY.up_to(2).thresholds == ()
    assert POLICY.up_to(16) == POLICY
    with pytest.raises(ValueError, match=r"trained prefixes \[2, 4, 8, 16\]. Received 5"):
        POLICY.up_to(5)


def test_is_a_value():
    assert isinstance(POLICY.dims, NestingDims)
    assert len({POLICY, CascadePolicy(tuple(DIMS), [0.6, 0.8, 0.7], (1.5, 1, 0.5, 2))}) == 1
    assert CascadePolicy([3], []).temperatures == (1.0,)


def test_saves_and_loads(tmp_path):
    path = tmp_path / "new" / "policy.json"
    POLICY.save(path)
    assert CascadePolicy.load(path) == POLICY
    assert json.loads(path.read_text())["thresholds"] == [0.6, 0.8, 0.7]
    assert os.listdir(path.parent) == ["policy.json"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "policy.json"
    POLICY.save(path)

    def fail(*paths):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        CascadePolicy([1], []).save(path)
    assert CascadePolicy.load(path) == POLICY
    assert os.listdir(tmp_path) == ["policy.json"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"thresholds": [0.5, 0.5]}, "must hold 3 numbers, one for each prefix but the last"),
        ({"thresholds": [0.5, 0.5, 1.01]}, "`thresholds` must lie from 0 to 1"),
        ({"thresholds": [0.5, 0.5, np.nan]}, "`thresholds` must lie from 0 to 1"),
        ({"thresholds": ["high"] * 3}, "`thresholds` must be a sequence of numbers"),
        ({"thresholds": None}, "`thresholds` must be a sequence of numbers"),
        ({"temperatures": [1.0] * 3}, "`temperatures` must hold 4 numbers, one for each prefix"),
        ({"temperatures": [1, 1, 1, 0]}, "`temperatures` must be finite and above 0"),
        ({"temperatures": [1, 1, 1, np.inf]}, "`temperatures` must be finite and above 0"),
        ({"dims": [4, 2]}, "must ascend"),
    ],
)
def test_refused_arguments(values, message):
    with pytest.raises(ValueError, match=message):
        CascadePolicy(**{"dims": DIMS, "thresholds": [0.5] * 3, **values})


@pytest.mark.parametrize("values", [[], {"dims": [2]}, {**POLICY.to_dict(), "more": 1}])
def test_a_file_of_something_else_is_refused(values):
    with pytest.raises(ValueError, match="A policy needs the keys"):
        CascadePolicy.from_dict(values)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.zeros((3, 5)), r"\(examples, 4 prefixes, classes\).*Received shape \(3, 5\)"),
        (np.zeros((3, 3, 5)), r"Received shape \(3, 3, 5\)"),
        (np.zeros((3, 4, 0)), r"Received shape \(3, 4, 0\)"),
        (np.zeros((0, 3, 4, 5)), r"Received shape \(0, 3, 4, 5\)"),
        (np.full((3, 4, 5), np.nan), "Those of 3 examples hold NaN or infinity, the first in row"),
        (np.full((3, 4, 5), -np.inf), "must be finite"),
    ],
)
def test_refused_logits(logits, message):
    with pytest.raises(ValueError, match=message):
        POLICY.decide(logits)
