import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_keras.evaluation import long_tail_accuracy, long_tailed_rows
from mrl_keras.evaluation.classification import long_tail

RNG = np.random.default_rng(0)
KNOWN_LABELS = np.repeat([3, 5], 4)
LABELS = RNG.permutation(np.repeat([3, 5, 7, 9], [12, 3, 9, 2]))
CENTRES = RNG.standard_normal((10, 6))
KNOWN = CENTRES[KNOWN_LABELS] + RNG.standard_normal((8, 6))
STREAM = CENTRES[LABELS] + RNG.standard_normal((26, 6))


def oracle(stream, labels, dim, known, known_labels, head_above):
    """Example by example, with lists of all that was seen."""
    seen = {}
    for row, label in zip(known, known_labels, strict=True):
        seen.setdefault(label, []).append(row[:dim] / np.linalg.norm(row[:dim]))
    right = []
    for row, label in zip(stream, labels, strict=True):
        row = row[:dim] / np.linalg.norm(row[:dim])
        means = {c: np.mean(rows, axis=0) for c, rows in sorted(seen.items())}
        best = max(means, key=lambda c, m=means, x=row: x @ m[c] / np.linalg.norm(m[c]))
        right.append(best == label)
        seen.setdefault(label, []).append(row)
    groups = {}
    for hit, label in zip(right, labels, strict=True):
        place = "head" if list(labels).count(label) > head_above else "tail"
        kind = "pretrain" if label in known_labels else "novel"
        groups.setdefault(f"{kind}_{place}", []).append(hit)
    classes = [[h for h, y in zip(right, labels, strict=True) if y == c] for c in set(labels)]
    return {
        **{name: np.mean(hits) for name, hits in groups.items()},
        "mean_per_class": np.mean([np.mean(hits) for hits in classes]),
        "overall": np.mean(right),
    }


@pytest.mark.parametrize("block", [1, 4, 256])
def test_agrees_with_an_oracle(monkeypatch, block):
    monkeypatch.setattr(long_tail, "_BLOCK", block)
    found = long_tail_accuracy(STREAM, LABELS, [2, 4, 6], KNOWN, KNOWN_LABELS, head_above=5)
    assert list(found) == [2, 4, 6]
    for dim, accuracy in found.items():
        expected = oracle(STREAM, LABELS, dim, KNOWN, KNOWN_LABELS, 5)
        assert dataclasses.asdict(accuracy) == pytest.approx(expected)


def test_by_hand():
    # Class 8 is novel: its first example is wrong, its second right; the third goes to class 1.
    stream = [[0.0, 1.0], [0.1, 1.0], [1.0, 0.1], [1.0, 0.0]]
    found = long_tail_accuracy(stream, [8, 8, 8, 1], [2], [[5.0, 0.0]], [1], head_above=2)[2]
    assert found.novel_head == pytest.approx(1 / 3)
    assert found.pretrain_tail == 1.0
    assert found.overall == 0.5
    assert found.mean_per_class == pytest.approx(2 / 3)
    assert np.isnan([found.pretrain_head, found.novel_tail]).all()


def test_unseen_classes_are_no_answers():
    # All that is seen points away; the class to come has no mean yet, and must not win.
    found = long_tail_accuracy([[1.0, 0.0]], [0], [2], [[-1.0, 0.0]], [4])[2]
    assert found.overall == 0.0


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 25))
def test_answers_do_not_depend_on_what_follows(count):
    def hits(labels, stream):
        sums, seen = np.zeros((4, 6)), np.array([True, True, False, False])
        np.add.at(sums, np.searchsorted([3, 5, 7, 9], KNOWN_LABELS), KNOWN)
        return long_tail._stream(stream, np.searchsorted([3, 5, 7, 9], labels), sums, seen)

    whole, part = hits(LABELS, STREAM), hits(LABELS[:count], STREAM[:count])
    np.testing.assert_array_equal(whole[:count], part)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": STREAM[:0], "labels": LABELS[:0]}, r"`embeddings` must be .*\(0, 6\)"),
        ({"pretrain_embeddings": KNOWN[:0], "pretrain_labels": []}, "`pretrain_embeddings` must"),
        ({"embeddings": STREAM * np.nan}, "NaN or inf in row 0"),
        ({"labels": LABELS[1:]}, "`labels` must be 26 ints"),
        ({"dims": [7]}, "d at least 7"),
        ({"head_above": 0}, "`head_above` must be at least 1"),
    ],
)
def test_errors(change, message):
    arguments = {
        "embeddings": STREAM,
        "labels": LABELS,
        "dims": [6],
        "pretrain_embeddings": KNOWN,
        "pretrain_labels": KNOWN_LABELS,
    }
    with pytest.raises(ValueError, match=message):
        long_tail_accuracy(**{**arguments, **change})


def test_a_stream_has_many_of_some_classes_and_few_of_others():
    labels = np.repeat([2, 5, 9], 40)
    rows = long_tailed_rows(labels, most=30, least=3)
    assert len(set(rows)) == len(rows)
    counts = [int((labels[rows] == label).sum()) for label in (2, 5, 9)]
    assert counts == [30, 9, 3]  # the second is round(30 / sqrt(10))
    np.testing.assert_array_equal(rows, long_tailed_rows(labels, most=30, least=3, seed=0))
    assert (rows != long_tailed_rows(labels, most=30, least=3, seed=1)).any()
    with pytest.raises(ValueError, match="`least` must not exceed `most`=2. Received 3"):
        long_tailed_rows(labels, most=2, least=3)
