import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mrl_keras.evaluation import head_accuracy, linear_probe_accuracy


def clusters(examples, width=6, classes=3, seed=1):
    rng = np.random.default_rng(seed)
    centres = 3.0 * np.random.default_rng(7).standard_normal((classes, width))
    labels = rng.integers(0, classes, examples)
    return centres[labels] + rng.standard_normal((examples, width)), labels


def test_head_accuracy_counts_each_prefix():
    logits = np.zeros((4, 2, 3))
    logits[:, 0, 1] = 1.0
    logits[np.arange(4), 1, [0, 1, 2, 0]] = 1.0
    assert head_accuracy(logits, [0, 1, 2, 1], [2, 4]) == {2: 0.5, 4: 0.75}


def test_top_of_the_logits_against_an_oracle():
    rng = np.random.default_rng(3)
    logits = rng.integers(0, 4, (40, 2, 6)).astype("float32")  # with ties
    labels = rng.integers(0, 6, 40)
    for top in (1, 2, 5, 6):
        order = np.argsort(-logits, axis=-1, kind="stable")[..., :top]
        expected = (order == labels[:, None, None]).any(axis=-1).mean(axis=0)
        found = head_accuracy(logits, labels, [2, 4], top=top)
        np.testing.assert_allclose(list(found.values()), expected)
    assert head_accuracy([[[3.0, 2.0, 1.0]]], [1], [2], top=2) == {2: 1.0}


def test_order_of_examples_and_classes_does_not_matter():
    rng = np.random.default_rng(4)
    logits, labels = rng.standard_normal((30, 2, 5)), rng.integers(0, 5, 30)
    rows, classes = rng.permutation(30), rng.permutation(5)
    moved = logits[rows][:, :, classes], np.argsort(classes)[labels[rows]]
    for top in (1, 3):
        plain = head_accuracy(logits, labels, [2, 4], top=top)
        assert head_accuracy(*moved, [2, 4], top=top) == pytest.approx(plain)


@pytest.mark.parametrize("classes", [2, 4])
def test_top_of_the_probe(classes):
    train, train_labels = clusters(80, classes=classes)
    test, labels = clusters(60, classes=classes, seed=2)
    found = linear_probe_accuracy(train, train_labels, test, labels, [2, 6], top=2)
    scaler = StandardScaler().fit(train)
    for dim, accuracy in found.items():
        peer = LogisticRegression(max_iter=1000).fit(scaler.transform(train)[:, :dim], train_labels)
        order = np.argsort(-peer.predict_proba(scaler.transform(test)[:, :dim]), axis=1)[:, :2]
        expected = (order == labels[:, None]).any(axis=1).mean()
        assert abs(accuracy - expected) <= 1 / 60
    assert found[6] == 1.0 or classes > 2


def test_probe_equals_one_fresh_logistic_regression_for_each_prefix():
    train, train_labels = clusters(150)
    test, labels = clusters(300, seed=2)
    found = linear_probe_accuracy(train, train_labels, test, labels, [1, 2, 5])
    scaler = StandardScaler().fit(train)
    for dim, accuracy in found.items():
        peer = LogisticRegression(max_iter=1000).fit(scaler.transform(train)[:, :dim], train_labels)
        assert abs(accuracy - peer.score(scaler.transform(test)[:, :dim], labels)) < 0.01


def test_probe_finds_classes_and_ignores_the_dims_beyond_the_prefix():
    train, train_labels = clusters(200)
    test, labels = clusters(100, seed=2)
    found = linear_probe_accuracy(train, train_labels, test, labels, [1, 3, 6])
    assert list(found) == [1, 3, 6]
    assert found[6] > 0.95 > found[1]
    test[:, 3:] = 100.0
    again = linear_probe_accuracy(train, train_labels, test, labels, [1, 3])
    assert again[3] == found[3]


def test_probe_on_constant_features_predicts_the_most_frequent_class():
    found = linear_probe_accuracy(np.ones((3, 2)), [4, 4, 7], np.ones((2, 2)), [4, 7], [2])
    assert found == {2: 0.5}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: head_accuracy(np.zeros((2, 3)), [0, 1], [1, 2]), r"2 prefixes.*shape \(2, 3\)"),
        (lambda: head_accuracy(np.zeros((2, 2, 3)), [0], [1, 2]), r"`labels` must be 2 ints"),
        (lambda: head_accuracy(np.zeros((1, 1, 3)), [0.5], [1]), "of dtype float64"),
        (lambda: head_accuracy(np.zeros((1, 1, 3)), [3], [1]), "from 0 to 2. Received 3 to 3"),
        (lambda: head_accuracy(np.full((1, 1, 3), np.nan), [0], [1]), "not NaN"),
        (lambda: head_accuracy(np.zeros((0, 1, 3)), np.zeros(0, int), [1]), "not no example"),
        (lambda: head_accuracy(np.zeros((1, 1, 3)), [0], [1], 4), "must not exceed the 3 classes"),
        (
            lambda: linear_probe_accuracy(np.eye(3), [0, 1, 2], np.eye(4), [0, 1, 2, 3], [1]),
            r"one width d, .* Received shapes \(3, 3\) and \(4, 4\)",
        ),
        (
            lambda: linear_probe_accuracy(np.eye(3), [0, 1, 2], np.zeros((0, 3)), [], [1]),
            "`labels` must be 0 ints|an example held out",
        ),
        (
            lambda: linear_probe_accuracy(np.eye(2), [0, 1], np.eye(2), [0, 9], [1]),
            r"1 classes of `labels` have no train example, the first of them \[9\]",
        ),
        (
            lambda: linear_probe_accuracy(np.eye(3), [0, 1, 2], np.eye(3), [0, 1, 2], [4]),
            r"must not exceed the embedding width 3\. Received \[4\]",
        ),
        (
            lambda: linear_probe_accuracy(np.eye(2), [0, 1], np.eye(2), [0, 1], [2], 0.0),
            "`inverse_regularization` must be above zero",
        ),
        (
            lambda: linear_probe_accuracy(np.eye(2), [1, 1], np.eye(2), [0, 1], [2]),
            "at least two classes. Received one",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
