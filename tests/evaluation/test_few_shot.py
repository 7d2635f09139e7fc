import numpy as np
import pytest
from sklearn.preprocessing import normalize

from mrl_keras.evaluation import ShotDraws, cosine_spans, few_shot_accuracy

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(5), 12)
CENTRES = RNG.standard_normal((5, 8))
TRAIN = CENTRES[LABELS] + RNG.standard_normal((60, 8))
TEST = CENTRES[LABELS] + RNG.standard_normal((60, 8))


def test_all_shots_agree_with_an_oracle():
    found = few_shot_accuracy(
        TRAIN, LABELS, TEST, LABELS, [2, 8], shots=12, draws=ShotDraws(repeats=3)
    )
    for dim in (2, 8):
        rows, asked = normalize(TRAIN[:, :dim]), normalize(TEST[:, :dim])
        means = normalize(np.stack([rows[c == LABELS].mean(axis=0) for c in range(5)]))
        right = [max(range(5), key=lambda c, x=x: x @ means[c]) for x in asked]
        assert found[dim].mean == pytest.approx(np.mean(right == LABELS))
        assert found[dim].half_width == pytest.approx(0.0, abs=1e-12)


def test_intervals_and_ways():
    data = TRAIN, LABELS, TEST, LABELS, [8]
    one, many = (few_shot_accuracy(*data, n, ShotDraws(repeats=40))[8] for n in (1, 8))
    pairs = few_shot_accuracy(*data, 1, ShotDraws(ways=2, repeats=40))[8]
    assert one.mean < min(many.mean, pairs.mean)
    assert 0.0 < many.half_width < one.half_width < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shots": 13}, "needs `shots`=13 train examples. Class 0 has 12"),
        ({"labels": LABELS + 1}, "Class 5 has 0"),
        ({"draws": ShotDraws(ways=6)}, "must not exceed the 5 classes. Received 6"),
        ({"embeddings": TEST[:0], "labels": LABELS[:0]}, r"Received shape \(0, 8\)"),
        ({"embeddings": np.where(TEST[3, 1] == TEST, np.nan, TEST)}, "NaN or inf in row 3"),
        ({"dims": [9]}, "d at least 9"),
    ],
)
def test_errors(change, message):
    arguments = {
        "train_embeddings": TRAIN,
        "train_labels": LABELS,
        "embeddings": TEST,
        "labels": LABELS,
        "dims": [8],
        "shots": 2,
    }
    with pytest.raises(ValueError, match=message):
        few_shot_accuracy(**{**arguments, **change})


def test_cosine_spans():
    found = cosine_spans(TRAIN, TEST, [3, 8])
    for dim in (3, 8):
        cosines = normalize(TRAIN[:, :dim]) @ normalize(TEST[:, :dim]).T
        other = cosines[~np.eye(60, dtype=bool)]
        assert found[dim].positive == pytest.approx(np.trace(cosines) / 60)
        assert found[dim].random == pytest.approx(other.mean())
        assert found[dim].span == pytest.approx(np.trace(cosines) / 60 - other.mean())
    with pytest.raises(ValueError, match="at least two pairs"):
        cosine_spans(TRAIN[:1], TEST[:1], [8])
