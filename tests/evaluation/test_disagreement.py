import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl_keras.evaluation import (
    class_accuracy,
    class_trends,
    first_correct_dim,
    oracle_accuracy,
    relative_class_accuracy,
)


def oracle(predictions, labels):
    """Example by example."""
    first, best = [], []
    for row, label in zip(predictions, labels, strict=True):
        hits = [i for i, value in enumerate(row) if value == label]
        first.append(hits[0] if hits else None)
        best.append([any(value == label for value in row[: m + 1]) for m in range(len(row))])
    return first, np.mean(best, axis=0)


random_cases = st.integers(0, 10_000).map(
    lambda seed: (
        np.random.default_rng(seed).integers(0, 3, (12, 4)),
        np.random.default_rng(seed + 1).integers(0, 3, 12),
    )
)


@given(random_cases)
def test_first_right_and_oracle_by_hand(case):
    predictions, labels = case
    first, best = oracle(predictions, labels)
    found = first_correct_dim(predictions, labels, [1, 2, 4, 8])
    for place, dim in enumerate([1, 2, 4, 8]):
        assert found[dim] == pytest.approx(first.count(place) / 12)
    assert found[None] == pytest.approx(first.count(None) / 12)
    assert sum(found.values()) == pytest.approx(1.0)
    accuracy = oracle_accuracy(predictions, labels)
    np.testing.assert_allclose(accuracy, best)
    assert accuracy[-1] == pytest.approx(1.0 - found[None])
    assert (np.diff(accuracy) >= 0).all()
    assert (accuracy >= (predictions == labels[:, None]).mean(axis=0)).all()


@given(random_cases, st.integers(0, 1000))
def test_the_order_of_examples_does_not_matter(case, seed):
    predictions, labels = case
    order = np.random.default_rng(seed).permutation(len(labels))
    again = first_correct_dim(predictions[order], labels[order], [1, 2, 4, 8])
    assert again == pytest.approx(first_correct_dim(predictions, labels, [1, 2, 4, 8]))


def test_the_papers_oracle():
    """81.54 of 100 examples are right somewhere, 18.46 nowhere."""
    labels = np.zeros(10_000, int)
    predictions = np.ones((10_000, 2), int)
    predictions[:8154, 1] = 0
    assert 100 * oracle_accuracy(predictions, labels)[-1] == pytest.approx(100 - 18.46)
    assert 100 * first_correct_dim(predictions, labels, [8, 16])[None] == pytest.approx(18.46)


def test_class_accuracy_by_hand():
    predictions = [[0, 0, 1], [0, 1, 0], [1, 1, 1], [0, 2, 2]]
    found = class_accuracy(predictions, [0, 0, 1, 2], classes=3)
    assert found.tolist() == [[1.0, 0.5, 0.5], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
    assert relative_class_accuracy(found)[0].tolist() == [0.5, 0.0, 0.0]


def test_trends_by_hand():
    accuracy = [[0.1, 0.2, 0.2], [0.5, 0.3, 0.6], [0.4, 0.4, 0.2], [0.7, 0.7, 0.7], [0.1, 0.3, 0.2]]
    found = class_trends(accuracy)
    assert {name: classes.tolist() for name, classes in found.items()} == {
        "improving": [0], "dipping": [1, 4], "declining": [2], "constant": [3],
    }  # fmt: skip
    assert class_trends(accuracy, tolerance=0.15)["improving"].tolist() == [4]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: class_accuracy([[0]], [3], 3), "`labels` must lie from 0 to 2. Received 3 to 3"),
        (lambda: class_accuracy([[0]], [0], 2), "1 of 2 classes have no example, .* class 1"),
        (lambda: oracle_accuracy(np.zeros((0, 2), int), []), "at least one example"),
        (lambda: oracle_accuracy([[0.0]], [0]), "`predictions` must be ints. Received float64"),
        (lambda: first_correct_dim([[0, 1]], [0], [8]), "must have 1 prefixes, .* Received 2"),
        (lambda: class_trends([[0.5]]), "at least two prefixes"),
        (lambda: class_trends([[0.5, 0.4]], -1), "`tolerance` must not be negative"),
        (lambda: relative_class_accuracy([[np.nan]]), "values from 0 to 1"),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ValueError, match=text):
        call()
