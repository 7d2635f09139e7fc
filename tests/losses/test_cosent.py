import keras
import numpy as np
import pytest

from mrl_keras import CoSENT, MatryoshkaLoss
from mrl_keras.losses.cosent import cosent
from tests.support.contracts import (
    JIT_COMPILE,
    check_config_round_trip,
    check_every_argument_is_given,
)

RNG = np.random.default_rng(0)
SCORES = np.array([3.0, 1.0, 3.0, 0.0, 2.0], "float32")
COSINES = RNG.uniform(-1, 1, (5, 1)).astype("float32")


def oracle(scores, cosines, temperature):
    lines = []
    for y, s in zip(scores, cosines, strict=True):
        lower = cosines[scores < y]
        lines.append(np.log1p(np.exp((lower - s) / temperature).sum()))
    return np.array(lines)


def test_contract():
    """Not `run_loss_contract`: a common offset of all similarities has no gradient, rightly."""
    arguments = {"temperature": 0.3, "reduction": "sum", "name": "other", "dtype": "float64"}
    check_every_argument_is_given(CoSENT, arguments)
    loss = check_config_round_trip(CoSENT, arguments)
    value = loss(SCORES, COSINES)
    if keras.backend.backend() != "jax":  # which has no float64 unless told so
        assert keras.backend.standardize_dtype(value.dtype) == "float64"
    np.testing.assert_allclose(value, oracle(SCORES, COSINES[:, 0], 0.3).sum(), rtol=1e-5)
    for jit_compile in JIT_COMPILE:
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        model.set_weights([np.ones((1, 1))])
        model.compile("sgd", loss=CoSENT(0.3), jit_compile=jit_compile)
        history = model.fit(COSINES, SCORES, batch_size=5, verbose=0).history
        expected = oracle(SCORES, COSINES[:, 0], 0.3).mean()
        np.testing.assert_allclose(history["loss"][0], expected, rtol=2e-5)
        assert model.get_weights()[0][0, 0] != 1.0, "no gradient came through"


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_values_agree_with_an_oracle(temperature):
    found = np.asarray(cosent(SCORES[:, None], COSINES, temperature))
    expected = oracle(SCORES.astype("float64"), COSINES[:, 0].astype("float64"), temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    nested = np.stack([COSINES, -COSINES], axis=1)
    loss = MatryoshkaLoss(CoSENT(temperature), [1.0, 2.0], reduction=None)
    other = oracle(SCORES.astype("float64"), -COSINES[:, 0].astype("float64"), temperature)
    found = np.asarray(loss(SCORES, nested))
    np.testing.assert_allclose(found, expected + 2.0 * other, rtol=1e-5)


def test_the_right_order_costs_nothing_and_equal_scores_are_not_compared():
    ordered = np.argsort(np.argsort(SCORES, kind="stable")).astype("float32")[:, None]
    assert np.asarray(cosent(SCORES, ordered, 0.01)).max() < 1e-6
    assert np.asarray(cosent(np.ones(5), COSINES)).max() == 0.0


def test_the_scale_of_the_scores_does_not_matter():
    one, other = (cosent(values, COSINES) for values in (SCORES, np.exp(SCORES)))
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_errors():
    for temperature in (0.0, -1.0, float("nan"), float("inf"), "hot", True):
        with pytest.raises(ValueError, match="`temperature` must be a finite number above 0"):
            CoSENT(temperature)
    with pytest.raises(ValueError, match=r"Received y_true \(5,\) and y_pred \(5, 2\)"):
        CoSENT()(SCORES, keras.ops.zeros((5, 2)))
