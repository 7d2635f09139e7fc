"""Weights that adapt: values against NumPy, what leaves them as they are, and files."""

import keras
import numpy as np
import pytest

from mrl_keras import (
    FAMO,
    AdaLoss,
    MatryoshkaDense,
    MatryoshkaLoss,
    SoftOptimalUncertainty,
    per_prefix,
)
from mrl_keras.losses import PrefixWeighting
from mrl_keras.losses.prefix_weighting import batch_means
from mrl_keras.masks import set_keras_mask
from tests.support.contracts import (
    JIT_COMPILE,
    as_numpy,
    check_config_round_trip,
    check_every_argument_is_given,
    save_and_load,
)

DIMS = [2, 4, 8]
RNG = np.random.default_rng(0)
LOSSES = np.exp(RNG.standard_normal((6, 3))).astype("float32")
CLASSES = {"adaloss": AdaLoss, "uw_so": SoftOptimalUncertainty, "famo": FAMO}
SHARED = {"nesting_dims": DIMS, "uniform": 0.2, "floor": 1e-3, "name": "own", "dtype": "float16"}
OWN = {
    "adaloss": {"decay": 0.5},
    "uw_so": {"temperature": 2.0},
    "famo": {"learning_rate": 0.1, "weight_decay": 0.05},
}
X, LABELS = RNG.standard_normal((24, 8)).astype("float32"), RNG.integers(0, 5, 24)


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def adaloss(losses, decay):
    """Each batch's weights, from the weighted mean of all batches so far."""
    for t in range(1, len(losses) + 1):
        ages = decay ** np.arange(t)[::-1]
        yield 1.0 / ((ages @ losses[:t]) / ages.sum())


def uw_so(losses, temperature):
    for one in losses:
        yield softmax(1.0 / one / temperature)


def famo(losses, learning_rate, weight_decay):
    """The authors' loop, with Adam written out and the losses of the next batch."""
    x = m = v = np.zeros(losses.shape[1])
    for t, one in enumerate(losses):
        if t:
            z = softmax(x)
            jacobian = np.diag(z) - np.outer(z, z)
            g = jacobian.T @ (np.log(losses[t - 1]) - np.log(one)) + weight_decay * x
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            x = x - learning_rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        yield softmax(x) / one


ORACLES = {"adaloss": adaloss, "uw_so": uw_so, "famo": famo}


def weighed(weighting, losses):
    """The weights of some batches, one after another."""
    with pytest.MonkeyPatch.context() as patch:  # on JAX, as if in a step that keeps the variables
        patch.setattr("mrl_keras.losses.prefix_weighting.check_kept", lambda *_: None)
        return np.stack([as_numpy(weighting.weigh(one, True)) for one in losses])


def model(weighting, jit_compile=False, optimizer="sgd", **options):
    keras.utils.set_random_seed(0)
    made = keras.Sequential([keras.Input((8,)), MatryoshkaDense(5, DIMS)])
    loss = MatryoshkaLoss(
        keras.losses.SparseCategoricalCrossentropy(from_logits=True), weighting, **options
    )
    metrics = [*per_prefix(loss, DIMS), weighting]
    made.compile(optimizer, loss, metrics=metrics, jit_compile=jit_compile)
    return made


def variables(weighting):
    return {one.name: as_numpy(one) for one in weighting.variables}


@pytest.mark.parametrize("name", CLASSES)
def test_contract(name):
    arguments = {**SHARED, **OWN[name]}
    check_every_argument_is_given(CLASSES[name], arguments)
    check_config_round_trip(CLASSES[name], arguments)


@pytest.mark.parametrize("name", CLASSES)
def test_weights_are_the_method_s(name):
    weighting = CLASSES[name](DIMS, uniform=0.1, **OWN[name])
    found = weighed(weighting, LOSSES)
    raw = np.stack(list(ORACLES[name](LOSSES.astype("float64"), **OWN[name])))
    wanted = 0.1 + 0.9 * 3 * raw / raw.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=2e-4)
    np.testing.assert_allclose(found.sum(axis=1), 3.0, rtol=1e-5)
    logged = {key: float(value) for key, value in weighting.result().items()}
    assert list(logged) == ["c_d2", "c_d4", "c_d8"]
    np.testing.assert_allclose(list(logged.values()), wanted[-1], rtol=2e-4)
    weighting.reset_state()
    np.testing.assert_array_equal(variables(weighting)["weights"], found[-1])


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_leaves_everything_as_it_is(name, bad):
    weighting = CLASSES[name](DIMS)
    kept = weighed(weighting, LOSSES)[-1]
    before = variables(weighting)
    found = weighed(weighting, [np.array([1.0, bad, 1.0], "float32")])
    np.testing.assert_array_equal(found[0], kept)
    for key, value in variables(weighting).items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("small", [0.0, 1e-30, -1.0])
def test_a_loss_that_vanishes_has_bounded_weights(name, small):
    weighting = CLASSES[name](DIMS)
    found = weighed(weighting, [np.array([1.0, small, 2.0], "float32")] * 50)
    assert np.isfinite(found).all()
    assert found.min() >= 0.1 - 1e-6
    assert found.max() <= 0.1 + 0.9 * 3 + 1e-5
    again = weighed(weighting, LOSSES[:1])
    assert np.isfinite(again).all()


def test_the_means_are_weighted_and_masked():
    first, second = RNG.random((4, 3)).astype("float32"), RNG.random((4, 3)).astype("float32")
    first[0, 0] = np.nan  # does not count
    weight = np.array([[0, 1, 2], [1, 1, 0], [3, 0, 1], [1, 1, 1]], "float32")
    mask = RNG.random((4, 3)) < 0.7
    mask[3] = True
    losses = [keras.ops.convert_to_tensor(one) for one in (first, second)]
    set_keras_mask(losses[1], keras.ops.convert_to_tensor(mask))
    found = as_numpy(batch_means(losses, None, weight))
    own = [weight, weight * mask]
    wanted = [np.nansum(w * x) / w.sum() for w, x in zip(own, (first, second), strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    per_row = as_numpy(batch_means([losses[1]], None, np.array([0, 0, 0, 1.0])))
    np.testing.assert_allclose(per_row, second[3].mean(), rtol=1e-5)
    assert np.isnan(as_numpy(batch_means(losses, None, np.zeros(4)))).all()


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", JIT_COMPILE)
def test_fit_adapts_and_evaluate_does_not(jit_compile):
    weighting = FAMO(DIMS)
    made = model(weighting, jit_compile, optimizer="adam")
    history = made.fit(
        X, LABELS, batch_size=8, epochs=2, validation_data=(X, LABELS), verbose=0
    ).history
    after = variables(weighting)
    assert after["steps"] == 6  # batches of training alone
    logged = [history[f"c_d{dim}"][-1] for dim in DIMS]
    np.testing.assert_allclose(logged, after["weights"], rtol=1e-6)
    assert np.ptp(after["weights"]) > 1e-3
    found = made.evaluate(X, LABELS, verbose=0, return_dict=True)
    for key, value in variables(weighting).items():
        np.testing.assert_array_equal(value, after[key])
    total = sum(c * found[f"loss_d{dim}"] for c, dim in zip(after["weights"], DIMS, strict=True))
    np.testing.assert_allclose(found["loss"], total, rtol=1e-4)


@pytest.mark.slow
def test_a_saved_model_goes_on_with_one_weighting():
    weighting = FAMO(DIMS)
    made = model(weighting)
    made.fit(X, LABELS, batch_size=8, verbose=0)
    revived = save_and_load(made)
    again = revived.loss.relative_importance
    for key, value in variables(again).items():
        np.testing.assert_array_equal(value, variables(weighting)[key])
    one, other = (of.fit(X, LABELS, batch_size=24, verbose=0).history for of in (made, revived))
    for key in one:
        np.testing.assert_allclose(other[key], one[key], rtol=1e-5)
    assert np.any(variables(again)["weights"] != 1.0)


def test_the_weights_scale_the_gradients_and_get_none():
    weighting = SoftOptimalUncertainty(DIMS, temperature=0.5, uniform=0.0)
    made = model(weighting, prefix_reduction="mean")
    plain = model(AdaLoss(DIMS), prefix_reduction="mean")
    losses = [plain.evaluate(X, LABELS, verbose=0, return_dict=True)[f"loss_d{d}"] for d in DIMS]
    weights = 3 * softmax(2.0 / np.array(losses))
    before = [as_numpy(kernel) for kernel in made.layers[-1].kernels]
    made.fit(X, LABELS, batch_size=24, verbose=0)
    steps = [as_numpy(k) - b for k, b in zip(made.layers[-1].kernels, before, strict=True)]
    keras.utils.set_random_seed(0)
    reference = keras.Sequential([keras.Input((8,)), MatryoshkaDense(5, DIMS)])
    inner = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    reference.compile("sgd", MatryoshkaLoss(inner, list(weights), prefix_reduction="mean"))
    reference.fit(X, LABELS, batch_size=24, verbose=0)
    for step, kernel, old in zip(steps, reference.layers[-1].kernels, before, strict=True):
        np.testing.assert_allclose(step, as_numpy(kernel) - old, rtol=1e-3, atol=1e-7)


def test_mixed_precision_and_gradient_accumulation():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        weighting = AdaLoss(DIMS)
        made = model(weighting, optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
        made.fit(X, LABELS, batch_size=8, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert variables(weighting)["steps"] == 3
    assert np.isfinite(variables(weighting)["weights"]).all()
    assert all(one.dtype == "float32" for one in weighting.variables)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX alone forgets variables")
def test_jax_says_what_it_would_forget():
    made = keras.Sequential([keras.Input((8,)), MatryoshkaDense(5, DIMS)])
    inner = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile("sgd", MatryoshkaLoss(inner, AdaLoss(DIMS)))
    with pytest.raises(ValueError, match=r"'adaloss' must be among the state.* in `metrics` too"):
        made.fit(X, LABELS, verbose=0)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute")
@pytest.mark.slow
def test_two_replicas_weigh_as_one(tmp_path):
    from tests.support.replica_runs import run_replicas

    for name, (one, two) in run_replicas("adaptive_replicas", tmp_path / "runs.npz").items():
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (AdaLoss, {"decay": 1.0}, r"`decay` must be a finite number, at least 0 and at most 1\."),
        (AdaLoss, {"uniform": 1.5}, r"`uniform` must be .* at most 1\. Received 1\.5"),
        (AdaLoss, {"floor": 0.0}, r"`floor` must be a finite number, above 0\. Received 0\.0"),
        (SoftOptimalUncertainty, {"temperature": 0}, r"`temperature` must be .* above 0"),
        (FAMO, {"learning_rate": "fast"}, r"`learning_rate` must be .*Received 'fast'"),
        (FAMO, {"weight_decay": -1.0}, r"`weight_decay` must be .* at least 0\. Received -1\.0"),
        (FAMO, {"nesting_dims": [4, 2]}, r"`nesting_dims` must ascend"),
    ],
)
def test_errors(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**{"nesting_dims": DIMS, **arguments})


def test_other_prefixes_than_the_output_has():
    loss = MatryoshkaLoss("mse", AdaLoss([2, 4]))
    with pytest.raises(ValueError, match=r"has 2 weights, but .* has 3 prefixes"):
        loss(np.zeros((4, 5)), np.zeros((4, 3, 5), "float32"))


def test_the_base_class_has_no_method():
    with pytest.raises(NotImplementedError):
        weighed(PrefixWeighting(DIMS), LOSSES[:1])
