import keras
import numpy as np
import pytest

from mrl_keras import KeptSimilarities, MatryoshkaLoss
from mrl_keras.losses.kept_similarities import similarity_divergence
from tests.support.contracts import (
    JIT_COMPILE,
    Offset,
    as_numpy,
    check_config_round_trip,
    check_every_argument_is_given,
)

RNG = np.random.default_rng(0)


def cosines(count, dim):
    rows = RNG.standard_normal((count, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows @ rows.T).astype("float32")


def oracle(kept, seen, temperature):
    """Row by row, over the other rows only."""
    found = []
    for row in range(len(kept)):
        others = np.arange(len(kept)) != row
        p, q = (np.exp(side[row, others].astype("float64") / temperature) for side in (kept, seen))
        p, q = p / p.sum(), q / q.sum()
        found.append(np.sum(p * np.log(p / q)))
    return np.array(found)


def test_contract():
    """Not `run_loss_contract`, which shuffles rows away from their columns."""
    arguments = {"temperature": 0.3, "reduction": "sum", "name": "other", "dtype": "float64"}
    check_every_argument_is_given(KeptSimilarities, arguments)
    loss = check_config_round_trip(KeptSimilarities, arguments)
    kept, seen = cosines(6, 4), cosines(6, 3)
    value = loss(kept, seen)
    if keras.backend.backend() != "jax":  # which has no float64 unless told so
        assert keras.backend.standardize_dtype(value.dtype) == "float64"
    expected = oracle(kept, seen, 0.3)
    np.testing.assert_allclose(as_numpy(value), expected.sum(), rtol=1e-5)
    for jit_compile in JIT_COMPILE:
        model = keras.Sequential([keras.Input((6,)), Offset()])
        model.compile("sgd", loss=KeptSimilarities(0.3), jit_compile=jit_compile)
        history = model.fit(seen, kept, batch_size=6, shuffle=False, verbose=0).history
        np.testing.assert_allclose(history["loss"][0], expected.mean(), rtol=2e-5)
        assert np.abs(as_numpy(model.layers[-1].offset)).max() > 0, "no gradient came through"


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_values_agree_with_an_oracle(temperature):
    kept, seen = cosines(7, 5), cosines(7, 3)
    found = as_numpy(similarity_divergence(kept, seen, temperature))
    np.testing.assert_allclose(found, oracle(kept, seen, temperature), rtol=1e-4, atol=1e-6)
    nested = np.stack([seen, kept], axis=1)  # (rows, prefixes, rows)
    loss = MatryoshkaLoss(KeptSimilarities(temperature), [2.0, 1.0], reduction=None)
    np.testing.assert_allclose(as_numpy(loss(kept, nested)), 2 * found, rtol=1e-4, atol=1e-6)


def test_a_row_does_not_see_itself_and_order_at_one_level_is_enough():
    kept, seen = cosines(5, 4), cosines(5, 4)
    other = seen.copy()
    np.fill_diagonal(other, -3.0)
    np.testing.assert_allclose(
        as_numpy(similarity_divergence(kept, seen)), as_numpy(similarity_divergence(kept, other))
    )
    # A constant added to a row's similarities changes nothing.
    assert np.abs(as_numpy(similarity_divergence(kept, kept - 0.5))).max() < 1e-5


def test_what_is_kept_has_no_gradient():
    """Both arguments come from one weight; only the second one's part may train it."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("one backend's tape is enough")
    import tensorflow as tf

    kept, seen = tf.Variable(cosines(5, 4)), tf.Variable(cosines(5, 3))
    with tf.GradientTape() as tape:
        value = KeptSimilarities()(kept, seen)
    of_kept, of_seen = tape.gradient(value, [kept, seen])
    assert of_kept is None or not np.any(of_kept)
    p, q = (
        np.exp((side - 1e9 * np.eye(5)) / 0.05) for side in (kept.numpy().astype("float64"), seen)
    )
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(of_seen, (q - p) / 0.05 / 5, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("jit_compile", JIT_COMPILE)
def test_half_precision_is_widened(jit_compile):
    kept, seen = cosines(6, 4), keras.ops.cast(cosines(6, 3), "bfloat16")
    loss = KeptSimilarities(dtype="bfloat16")
    found = as_numpy(keras.ops.cast(loss(kept, seen), "float32"))
    assert np.isfinite(found)
    assert found > 0


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), True, "0.1"])
def test_bad_temperatures(temperature):
    with pytest.raises(ValueError, match="`temperature` must be a finite number above 0. Received"):
        KeptSimilarities(temperature)


@pytest.mark.parametrize(
    ("one", "other"), [((3, 4), (3, 4)), ((3, 3), (4, 4)), ((3,), (3,)), ((3, 3), (3, 2))]
)
def test_bad_shapes(one, other):
    with pytest.raises(ValueError, match=r"rows of a batch with each other.*Received y_true \("):
        similarity_divergence(np.ones(one, "float32"), np.ones(other, "float32"))


def test_no_rows_cost_nothing():
    nothing = np.zeros((0, 0), "float32")
    assert float(KeptSimilarities()(nothing, nothing)) == 0.0
