"""The stand-in for recall@k, against the exact one and a loop."""

import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaLoss, PrefixLosses, RecallAtK, SymmetricContrastive
from mrl_keras.losses.recall_at_k import labelled_recall, paired_recall
from tests.support.backend import gradients, numerical_gradient
from tests.support.contracts import as_numpy, run_loss_contract

RNG = np.random.default_rng(0)
ROWS, K = 9, 3
SIMILARITIES = RNG.uniform(-1, 1, (ROWS, 12)).astype("float32")
SQUARE = RNG.uniform(-1, 1, (ROWS, ROWS)).astype("float32")
COLUMNS = RNG.integers(0, 12, ROWS)
CLASSES = np.array([0, 0, 0, 0, 0, 1, 1, 2, 3])  # 4, 1 and no positives
SOFT = {"similarity_temperature": 0.3, "rank_temperature": 0.7}


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def loop(similarities, positives, candidates, soft):
    """Recall of one row: a sum over its positives, each a sum over its other candidates."""
    found = 0.0
    for p in positives:
        others = [j for j in candidates if j != p]
        above = similarities[others] - similarities[p]
        rank = 1.0 + sigmoid(above / soft["similarity_temperature"]).sum()
        found += sigmoid((K - rank) / soft["rank_temperature"])
    return min(found, K) / max(min(len(positives), K), 1)


def paired(similarities, columns=COLUMNS, soft=SOFT):
    return np.array(
        [
            loop(row, [y], range(len(row)), soft)
            for row, y in zip(similarities, columns, strict=True)
        ]
    )


def labelled(similarities, soft=SOFT):
    found = []
    for i, row in enumerate(similarities):
        others = [j for j in range(ROWS) if j != i]
        positives = [j for j in others if CLASSES[j] == CLASSES[i]]
        found.append(loop(row, positives, others, soft) if positives else 1.0)
    return np.array(found)


def test_contract():
    arguments = {
        "k": K,
        "positives": "labels",
        **SOFT,
        "reduction": "sum",
        "name": "recall",
        "dtype": "float16",
    }
    run_loss_contract(RecallAtK, arguments, COLUMNS, SIMILARITIES)


def test_values_are_the_loop_s():
    found = as_numpy(paired_recall(SIMILARITIES, COLUMNS, K, **SOFT))
    np.testing.assert_allclose(found, paired(SIMILARITIES), rtol=1e-5)
    recall, counts = labelled_recall(SQUARE, CLASSES, K, **SOFT)
    np.testing.assert_allclose(as_numpy(recall), labelled(SQUARE), rtol=1e-5)
    np.testing.assert_array_equal(as_numpy(counts), [4, 4, 4, 4, 4, 1, 1, 0, 0])


def test_small_temperatures_give_recall_itself():
    hard = {"similarity_temperature": 1e-5, "rank_temperature": 1e-3}
    # Between ranks, since at rank k itself the sigmoid is at its middle.
    found = as_numpy(paired_recall(SIMILARITIES, COLUMNS, K + 0.5, **hard))
    own = SIMILARITIES[np.arange(ROWS), COLUMNS]
    ranks = 1 + (own[:, None] < SIMILARITIES).sum(1)
    np.testing.assert_allclose(found, ranks <= K, atol=1e-4)
    assert 0 < found.mean() < 1


def test_where_the_positives_are():
    diagonal = 1.0 - as_numpy(RecallAtK(K, **SOFT, reduction=None)(None, SIMILARITIES))
    np.testing.assert_allclose(diagonal, paired(SIMILARITIES, np.arange(ROWS)), atol=1e-5)
    gathered = 1.0 - as_numpy(RecallAtK(K, "gathered", **SOFT, reduction=None)(None, SQUARE))
    np.testing.assert_allclose(gathered, paired(SQUARE, np.arange(ROWS)), atol=1e-5)


@pytest.mark.parametrize("nested", [False, True])
def test_rows_without_positives_do_not_count(nested):
    loss, outputs = RecallAtK(K, "classes", **SOFT), SQUARE
    if nested:
        loss, outputs = MatryoshkaLoss(loss), np.stack([SQUARE, SQUARE[::-1]], axis=1)
        wanted = sum(1.0 - labelled(one)[:7].mean() for one in (SQUARE, SQUARE[::-1]))
    else:
        wanted = 1.0 - labelled(SQUARE)[:7].mean()
    np.testing.assert_allclose(float(loss(CLASSES, outputs)), wanted, rtol=1e-5)


def test_labels_out_of_range_give_nan_alone():
    columns = COLUMNS.copy()
    columns[[1, 4]] = [-1, SIMILARITIES.shape[1]]
    loss = RecallAtK(2, "labels", reduction=None)
    found = as_numpy(loss(columns, SIMILARITIES))
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(found)), [1, 4])


def test_gradients_match_finite_differences():
    _, (found,) = gradients(
        lambda s: keras.ops.sum(paired_recall(s, COLUMNS, K, **SOFT)), SIMILARITIES
    )
    wanted = numerical_gradient(lambda s: paired(s).sum(), [SIMILARITIES], 0)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    _, (found,) = gradients(
        lambda s: keras.ops.sum(labelled_recall(s, CLASSES, K, **SOFT)[0]), SQUARE
    )
    wanted = numerical_gradient(lambda s: labelled(s).sum(), [SQUARE], 0)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert np.abs(wanted).max() > 0.01


def test_for_the_narrow_prefix_alone():
    nested = np.stack([SQUARE, SQUARE * 2, SQUARE * 3], axis=1)
    inner = PrefixLosses([2, 4, 8], {2: RecallAtK(K, **SOFT)}, default=SymmetricContrastive())
    found = as_numpy(MatryoshkaLoss(inner, reduction=None)(None, nested))
    wide = sum(as_numpy(SymmetricContrastive(reduction=None)(None, nested[:, i])) for i in (1, 2))
    np.testing.assert_allclose(found, 1.0 - paired(SQUARE, np.arange(ROWS)) + wide, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecallAtK(0), r"`k` must be at least 1\. Received 0"),
        (lambda: RecallAtK(1.5), r"`k` must be an int"),
        (lambda: RecallAtK(1, "rows"), r"`positives` must be one of .* Received 'rows'"),
        (lambda: RecallAtK(1, similarity_temperature=0.0), r"`similarity_temperature` must be"),
        (lambda: RecallAtK(1, rank_temperature=-1.0), r"`rank_temperature` must be .* above 0"),
        (lambda: RecallAtK(1)(None, SIMILARITIES.T), r"'diagonal' takes .* y_pred \(12, 9\)"),
        (lambda: RecallAtK(1, "classes")(CLASSES, SIMILARITIES), r"square similarities \(n, n\)"),
        (lambda: RecallAtK(1, "labels")(COLUMNS[:3], SIMILARITIES), r"and y_true \(3,\)"),
        (lambda: RecallAtK(1, "labels")(None, SIMILARITIES), r"'recall_at_k' reads labels"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
