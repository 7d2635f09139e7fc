import numpy as np
import pytest

from mrl_keras import MaskedLMAccuracy, per_prefix
from tests.support import contracts

RNG = np.random.default_rng(0)
SCORES = np.stack([RNG.random((4, 5)), RNG.integers(0, 2, (4, 5))], axis=-1).astype("float32")
LABELS = np.zeros((4, 5), "int32")


def test_contract():
    arguments = {"name": "right", "dtype": "float64"}
    contracts.run_metric_contract(MaskedLMAccuracy, arguments, LABELS, SCORES)


def test_each_prefix_without_the_padded_positions():
    nested = np.stack([SCORES, 1.0 - SCORES], axis=2)
    weights = RNG.integers(0, 2, (4, 5))
    weights[0, 0] = 1
    for metric, part in zip(per_prefix(MaskedLMAccuracy(), [2, 4]), (0, 1), strict=True):
        metric.update_state(LABELS, nested, sample_weight=weights)
        expected = (nested[:, :, part, 1] * weights).sum() / weights.sum()
        np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-6)


def test_logits_are_refused():
    with pytest.raises(ValueError, match=r"'masked_lm_accuracy'.*\(4, 5, 9\)"):
        MaskedLMAccuracy().update_state(LABELS, np.zeros((4, 5, 9)))
