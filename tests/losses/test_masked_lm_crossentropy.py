import keras
import numpy as np
import pytest

from mrl_keras import MaskedLMCrossentropy, MatryoshkaLoss
from tests.support import contracts
from tests.support.contracts import as_numpy

RNG = np.random.default_rng(0)
SCORES = RNG.random((2, 4, 3, 2)).astype("float32")  # (batch, positions, prefixes, 2)
LABELS = np.zeros((2, 4), "int32")
WEIGHTS = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]], "float32")


def test_config():
    arguments = {"reduction": "sum", "name": "m", "dtype": "float16"}
    contracts.check_every_argument_is_given(MaskedLMCrossentropy, arguments)
    contracts.check_config_round_trip(MaskedLMCrossentropy, arguments)


def test_the_mean_over_positions_that_count():
    loss = MatryoshkaLoss(
        MaskedLMCrossentropy(), [2.0, 0.0, 0.5], reduction="mean_with_sample_weight"
    )
    each = (SCORES[..., 0] * [2.0, 0.0, 0.5]).sum(axis=-1)
    expected = (each * WEIGHTS).sum() / 3
    np.testing.assert_allclose(float(loss(LABELS, SCORES, sample_weight=WEIGHTS)), expected, 1e-6)
    revived = MatryoshkaLoss.from_config(loss.get_config())
    np.testing.assert_allclose(float(revived(LABELS, SCORES, sample_weight=WEIGHTS)), expected)


def test_one_prefix():
    found = MaskedLMCrossentropy(reduction=None)(LABELS, SCORES[:, :, 1])
    np.testing.assert_array_equal(as_numpy(found), SCORES[:, :, 1, 0])


@pytest.mark.parametrize(
    ("loss", "labels", "scores"),
    [
        (MaskedLMCrossentropy(), LABELS, SCORES),
        (MatryoshkaLoss(MaskedLMCrossentropy()), LABELS, np.zeros((2, 4, 3, 9))),
        (MatryoshkaLoss(MaskedLMCrossentropy()), LABELS[:, :3], SCORES),
    ],
)
def test_shapes_that_do_not_fit(loss, labels, scores):
    text = r"one prefix's scores \(batch, positions, 2\).*Received y_pred .* and y_true \(2, \d\)"
    with pytest.raises(ValueError, match=text):
        loss(keras.ops.convert_to_tensor(labels), keras.ops.convert_to_tensor(scores))
