import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from mrl_keras import NestingDims
from mrl_keras.evaluation import knn_accuracy
from mrl_keras.evaluation.classification.neighbours import among_votes, majority_vote

RNG = np.random.default_rng(0)
TRAIN = RNG.standard_normal((120, 8)).astype("float32")
TRAIN_LABELS = (TRAIN[:, 0] > 0).astype(int) + 2 * (TRAIN[:, 5] > 0)
QUERIES = RNG.standard_normal((50, 8)).astype("float32")
LABELS = (QUERIES[:, 0] > 0).astype(int) + 2 * (QUERIES[:, 5] > 0)
DIMS = NestingDims([2, 4, 8]).with_interpolated()


@pytest.mark.parametrize("k", [1, 3])
def test_agrees_with_scikit_learn_at_every_prefix(k):
    found = knn_accuracy(TRAIN, TRAIN_LABELS, QUERIES, LABELS, DIMS, k=k)
    assert list(found) == [2, 3, 4, 6, 8]
    for dim in DIMS:
        peer = KNeighborsClassifier(k).fit(normalize(TRAIN[:, :dim]), TRAIN_LABELS)
        neighbours = peer.kneighbors(normalize(QUERIES[:, :dim]), return_distance=False)
        votes = [np.bincount(row, minlength=4) for row in TRAIN_LABELS[neighbours]]
        clear = np.array([np.sort(vote)[-1] > np.sort(vote)[-2] for vote in votes])
        expected = np.array([vote.argmax() for vote in votes])
        mine = np.round(found[dim] * len(LABELS))
        low = (expected == LABELS)[clear].sum()
        assert low <= mine <= low + (~clear).sum()
        assert k > 1 or clear.all()


def test_votes_and_ties():
    votes = majority_vote([[3, 1, 1], [2, 5, 7], [4, 4, 9], [1, 2, 2]])
    np.testing.assert_array_equal(votes, [1, 2, 4, 2])
    np.testing.assert_array_equal(majority_vote([[1, 2, 2, 1]]), [1])


def test_top_of_the_votes_by_hand():
    neighbours = [[3, 1, 1, 2], [2, 5, 7, 7], [4, 4, 9, 1]]
    # Votes rank 1, 3, 2 in the first row; 7, 2, 5 in the second; 4, 9, 1 in the third.
    for labels, ranks in (([1, 7, 4], (1, 1, 1)), ([3, 2, 9], (2, 2, 2)), ([2, 5, 8], (3, 3, 9))):
        for top in (1, 2, 3):
            found = among_votes(neighbours, labels, top)
            np.testing.assert_array_equal(found, np.array(ranks) <= top)


@pytest.mark.parametrize(("k", "top"), [(5, 5), (7, 2)])
def test_top_agrees_with_an_oracle(k, top):
    found = knn_accuracy(TRAIN, TRAIN_LABELS, QUERIES, LABELS, [8], k=k, top=top)
    order = np.argsort(-normalize(QUERIES) @ normalize(TRAIN).T, axis=1)[:, :k]
    right = 0
    for row, label in zip(TRAIN_LABELS[order].tolist(), LABELS, strict=True):
        ranked = sorted(set(row), key=lambda c, row=row: (-row.count(c), row.index(c)))
        right += label in ranked[:top]
    assert found[8] == pytest.approx(right / len(LABELS))


def test_order_of_queries_and_of_classes_does_not_matter():
    order, names = RNG.permutation(50), np.array([7, 3, 11, 0])
    plain = knn_accuracy(TRAIN, TRAIN_LABELS, QUERIES, LABELS, DIMS, k=3)
    renamed = (TRAIN, names[TRAIN_LABELS], QUERIES[order], names[LABELS[order]])
    assert knn_accuracy(*renamed, DIMS, k=3) == pytest.approx(plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 121}, "must not exceed the 120 train examples. Received 121"),
        ({"k": 3, "top": 4}, "`top` must not exceed the k=3 neighbours. Received 4"),
        ({"labels": LABELS + 1}, r"1 classes of `labels` have no train example, .* \[4\]"),
        ({"embeddings": QUERIES[:0], "labels": LABELS[:0]}, "at least one query"),
        ({"k": 0}, "`k` must be at least 1"),
        ({"labels": LABELS[:-1]}, r"`labels` must be 50 ints, .* Received shape \(49,\)"),
        ({"train_labels": TRAIN_LABELS * 0.5}, "`train_labels` must be 120 ints.*dtype float64"),
    ],
)
def test_errors(change, message):
    arguments = {
        "train_embeddings": TRAIN,
        "train_labels": TRAIN_LABELS,
        "embeddings": QUERIES,
        "labels": LABELS,
        "dims": DIMS,
    }
    with pytest.raises(ValueError, match=message):
        knn_accuracy(**{**arguments, **change})


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_queries_that_are_no_numbers_are_refused(value):
    queries = QUERIES.copy()
    queries[7, 1] = value
    with pytest.raises(ValueError, match="must be finite.* in 1 rows, such as row 7"):
        knn_accuracy(TRAIN, TRAIN_LABELS, queries, LABELS, DIMS)
