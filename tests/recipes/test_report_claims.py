"""Verdicts on hand-made numbers, those that fail among them."""

import math

import numpy as np
import pytest

from recipes.report.pages import cascade
from recipes.report.parts import claims
from recipes.report.parts.fit import why_below
from recipes.report.parts.measured import Difference, Measured, difference


def shares(*right, examples=100):
    """`Measured` over seeds: of `examples`, the first `right` are right."""
    return Measured.of_examples(
        {seed: np.arange(examples) < count for seed, count in enumerate(right)}
    )


def test_mean_spread_and_text_by_hand():
    measured = shares(70, 74)
    assert measured.mean == pytest.approx(0.72)
    assert measured.spread == pytest.approx(0.02 * math.sqrt(2))
    assert (measured.text(), shares(70).text()) == ("72.00 ± 2.83", "70.00")
    assert math.isnan(shares(70).spread)


def test_noise_over_seeds_and_over_examples_by_hand():
    # Per example the difference is 1 for ten of a hundred and 0 for the others, for each seed:
    # deviation 0.3, standard error 0.03. Over seeds the differences are equal.
    assert difference(shares(60, 60), shares(50, 50)) == Difference(
        pytest.approx(0.1), pytest.approx(0.06), 2
    )
    # Over seeds: 0.1 and 0.3, deviation 0.1414, standard error 0.1; above that over examples.
    assert difference(shares(60, 60), shares(50, 30)).noise == pytest.approx(0.2)
    # Shares whose examples are not known: two independent ones of 0.5.
    one, other = Measured({0: 0.5}, examples=50), Measured({0: 0.5}, examples=50)
    assert difference(one, other).noise == pytest.approx(2 * math.sqrt(2 * 0.25 / 50))
    assert difference(Measured({0: 3.0}), Measured({0: 1.0})) == Difference(2.0, 0.0, 1)


def test_only_common_seeds_are_compared():
    one, other = Measured({0: 0.9, 1: 0.5}), Measured({1: 0.4, 2: 0.1})
    assert difference(one, other).mean == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"common seed. Received the seeds \[0\] and \[1\]"):
        difference(Measured({0: 1.0}), Measured({1: 1.0}))


@pytest.mark.parametrize(
    ("ours", "holds", "text"),
    [
        ({2: shares(80), 4: shares(90)}, True, "2: +20.00"),
        ({2: shares(59), 4: shares(90)}, True, "2: -1.00 (noise 1.99)"),  # within the noise
        ({2: shares(40), 4: shares(90)}, False, "below by more than the noise at 2"),
    ],
)
def test_at_least_as_accurate(ours, holds, text):
    found = claims.at_least_as_accurate("C", ours, {2: shares(60), 4: shares(90), 8: shares(1)})
    assert (found.holds, found.claim) == (holds, "C")
    assert text in found.numbers
    assert found.verdict == ("holds" if holds else "does not hold here")


def test_mrl_against_ff_needs_ff():
    systems = {"MRL": {2: shares(80)}, "FF": {2: shares(60)}}
    assert [found.holds for found in claims.mrl_against_ff("C", systems)] == [True]
    assert claims.mrl_against_ff("C", {"MRL": {2: shares(80)}}) == []


def test_better_at_the_lowest():
    theirs = {2: shares(60), 4: shares(90)}
    assert claims.better_at_the_lowest("", {2: shares(80), 4: shares(10)}, theirs).holds
    found = claims.better_at_the_lowest("", {2: shares(60), 4: shares(99)}, theirs)
    assert not found.holds
    assert "at 2 dims 60.00 against 60.00, difference +0.00" in found.numbers
    with pytest.raises(ValueError, match="no common dim"):
        claims.better_at_the_lowest("", {2: shares(60)}, {4: shares(60)})


def test_collapse():
    ours, low, high = {2: shares(70), 4: shares(90)}, {2: shares(39)}, {2: shares(41)}
    assert claims.collapse("", ours, {"SVD": low}, chance=0.1).holds  # 29 of 60 points
    found = claims.collapse("", ours, {"SVD": low, "PCA": high}, chance=0.1)
    assert not found.holds
    assert "SVD 39.00 (keeps 48 %), PCA 41.00 (keeps 52 %)" in found.numbers
    guessing = claims.collapse("", {2: shares(10)}, {"SVD": low}, chance=0.1)
    assert not guessing.holds
    assert "only guesses" in guessing.numbers


@pytest.mark.parametrize(("between", "holds"), [(75, True), (71, True), (50, False), (99, False)])
def test_lies_between(between, holds):
    values = {2: shares(70), 3: shares(between), 4: shares(80)}
    found = claims.lies_between("", values, [2, 4])
    assert found.holds == holds
    assert ("outside by more than the noise at 3" in found.numbers) == (not holds)


def test_fraction_of_the_dims():
    full, level, low = shares(80), np.array([0.0, 0.01]), np.array([-0.2, -0.21])
    points = [(shares(60), low, 2.0, 2.0), (shares(80), level, 5.0, 9.0)]
    found = claims.fraction_of_the_dims("", points, full, width=64)
    assert found.holds
    assert "80.00 at 5.0 expected dims" in found.numbers
    assert "12.8 times fewer dims" in found.numbers
    assert not claims.fraction_of_the_dims("", points, full, width=8).holds  # 5 of 8 dims
    missed = claims.fraction_of_the_dims("", points[:1], full, width=64)
    assert not missed.holds
    assert "the best early stop is -20.50" in missed.numbers


def test_fraction_of_the_cost():
    cheap, dear = Measured({0: 0.1}), Measured({0: 0.9})
    assert claims.fraction_of_the_cost("", shares(80), shares(80), cheap).holds
    assert not claims.fraction_of_the_cost("", shares(80), shares(80), dear).holds
    found = claims.fraction_of_the_cost("", shares(60), shares(80), cheap)
    assert not found.holds
    assert "10.0 times fewer MFLOPs" in found.numbers


def test_falls_less():
    classes = {2: shares(40), 64: shares(80)}
    assert claims.falls_less("", {2: shares(90), 64: shares(95)}, classes).holds
    found = claims.falls_less("", {2: shares(20), 64: shares(95)}, classes)
    assert not found.holds
    assert "78.9 % of it is lost, against 50.0 %" in found.numbers


@pytest.mark.parametrize(
    ("fit", "text"),
    [(0.6, "fitted it less, it is not overfitted"), (0.8, "fitted as well and generalises less")],
)
def test_why_below(fit, text):
    ours, theirs, their_fit = {2: shares(40)}, {2: shares(60)}, {2: Measured({0: 0.7})}
    found = why_below(ours, theirs, {2: Measured({0: fit})}, their_fit)
    assert text in found
    assert f"2: {100 * (fit - 0.7):+.2f}" in found
    assert why_below(theirs, ours, their_fit, their_fit) == ""
    assert why_below(ours, theirs, {}, {}) == ""


def test_joint_thresholds_meet_greedy_ones_at_the_dims_that_they_spend():
    values = {
        "greedy": {"expected_dim": (2.0, 4.0, 8.0), "accuracy": (0.5, 0.7, 0.8)},
        "joint": {"expected_dim": (2.0, 3.5, 9.0), "accuracy": (0.5, 0.6, 0.9)},
    }
    curve = {
        f"cascade-{policy}/{measure}/{dim}": np.array([value])
        for policy, measures in values.items()
        for measure, found in measures.items()
        for dim, value in zip((2, 4, 8), found, strict=True)
    }
    assert cascade.greedy_at_equal_dims(curve, 4) == pytest.approx([0.65])
    assert cascade.greedy_at_equal_dims(curve, 8) == pytest.approx([0.8])
    assert cascade.joint_accuracy(curve, 8) == pytest.approx([0.9])
