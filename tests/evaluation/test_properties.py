"""What holds for any data: order of examples, names of classes, the oracle, thresholds."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mrl_keras.cascade import CascadePolicy
from mrl_keras.evaluation import (
    ShotDraws,
    class_accuracy,
    class_trends,
    cosine_spans,
    exact_retrieval_table,
    few_shot_accuracy,
    first_correct_dim,
    head_accuracy,
    knn_accuracy,
    oracle_accuracy,
    robustness_accuracy,
    superclass_accuracy,
)

DIMS = [1, 2, 4]
WIDER = [2, 4]  # at 1 dim all cosines are 1 or -1, and the order of rows decides
seeds = st.integers(0, 10_000)


def problem(seed):
    """(train, train labels, test, labels, logits) of three classes, each of them in both parts."""
    rng = np.random.default_rng(seed)
    train_labels, labels = np.arange(18) % 3, np.arange(15) % 3
    logits = rng.standard_normal((15, 3, 3)) + np.eye(3)[labels][:, None]
    return rng.standard_normal((18, 4)), train_labels, rng.standard_normal((15, 4)), labels, logits


def nearest_tie(queries, rows, dim):
    """The smallest difference between two cosines of one query."""
    units = [
        x[:, :dim] / np.linalg.norm(x[:, :dim], axis=1, keepdims=True) for x in (queries, rows)
    ]
    return np.diff(np.sort(units[0] @ units[1].T, axis=1), axis=1).min()


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_the_order_of_examples_does_not_matter(seed):
    train, train_labels, test, labels, logits = problem(seed)
    # Rows that float32 does not tell apart come in the order of the database.
    assume(all(nearest_tie(test, train, dim) > 1e-6 for dim in WIDER))
    rng = np.random.default_rng(seed + 1)
    a, b = rng.permutation(18), rng.permutation(15)
    data, moved = (
        (train, train_labels, test, labels),
        (train[a], train_labels[a], test[b], labels[b]),
    )
    for measure in (
        lambda x, xl, y, yl: knn_accuracy(x, xl, y, yl, WIDER, k=3, top=2),
        lambda x, xl, y, yl: {d: v["mAP@5"] for d, v in table(y, yl, x, xl).items()},
        lambda x, xl, y, yl: {
            d: v.mean
            for d, v in few_shot_accuracy(x, xl, y, yl, WIDER, 6, ShotDraws(repeats=1)).items()
        },
    ):
        assert measure(*moved) == pytest.approx(measure(*data))
    paired = rng.permutation(15)
    spans = cosine_spans(train[:15], test, DIMS)
    again = cosine_spans(train[:15][paired], test[paired], DIMS)
    assert [s.span for s in again.values()] == pytest.approx([s.span for s in spans.values()])
    assert head_accuracy(logits[b], labels[b], DIMS) == head_accuracy(logits, labels, DIMS)


def table(queries, labels, rows, row_labels):
    return exact_retrieval_table(queries, labels, rows, row_labels, WIDER, ks=[5])


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_the_oracle_never_falls_and_bounds_every_prefix(seed):
    *_, labels, logits = problem(seed)
    guesses = logits.argmax(axis=-1)
    oracle = oracle_accuracy(guesses, labels)
    shares = first_correct_dim(guesses, labels, DIMS)
    assert (np.diff(oracle) >= 0).all()
    assert (oracle >= list(head_accuracy(logits, labels, DIMS).values())).all()
    np.testing.assert_allclose(np.cumsum([shares[dim] for dim in DIMS]), oracle)
    assert 100 * sum(shares.values()) == pytest.approx(100.0)
    trends = class_trends(class_accuracy(guesses, labels, 3))
    assert sorted(np.concatenate(list(trends.values()))) == [0, 1, 2]


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_superclasses_are_at_least_as_often_right(seed):
    *_, labels, logits = problem(seed)
    guesses = logits.argmax(axis=-1)
    plain = superclass_accuracy(guesses, labels, [None] * 3)["all"]
    assert (superclass_accuracy(guesses, labels, ["a", "a", None])["all"] >= plain).all()


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_fewer_classes_are_no_harder(seed):
    *_, labels, logits = problem(seed)
    kept = labels < 2
    sets = [("two", logits[kept], labels[kept], None)]
    found = robustness_accuracy(np.asarray, (logits, labels), sets, DIMS)["two"]
    for dim, value in head_accuracy(logits[kept], labels[kept], DIMS).items():
        assert found[dim].shifted >= value
        assert found[dim].clean == found[dim].shifted


@settings(max_examples=25, deadline=None)
@given(seeds, st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_thresholds_0_and_1_and_between(seed, thresholds):
    *_, logits = problem(seed)
    least, most = (CascadePolicy(DIMS, [edge] * 2).decide(logits).dims for edge in (0.0, 1.0))
    assert (least == 1).all()
    assert (most == 4).all()
    between = CascadePolicy(DIMS, thresholds).decide(logits).dims
    higher = CascadePolicy(DIMS, [min(1.0, t + 0.1) for t in thresholds]).decide(logits).dims
    assert (higher >= between).all()
