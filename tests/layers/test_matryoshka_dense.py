import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaDense, MatryoshkaLoss, NestingDims
from mrl_keras.layers import matryoshka_dense as module
from tests.support import contracts, oracles
from tests.support.backend import gradients, numerical_gradient
from tests.support.contracts import as_numpy, save_and_load

DIMS = [2, 3, 6]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 6)).astype("float32")


def layer_and_weights(efficient, use_bias=True, **kwargs):
    layer = MatryoshkaDense(
        5, DIMS, efficient=efficient, use_bias=use_bias, bias_initializer="random_normal", **kwargs
    )
    layer.build((None, 6))
    biases = [as_numpy(bias) for bias in layer.biases] if use_bias else None
    return layer, [as_numpy(kernel) for kernel in layer.kernels], biases


@pytest.mark.slow
@pytest.mark.parametrize("efficient", [False, True])
def test_contract(efficient):
    arguments = {
        "units": 5,
        "nesting_dims": DIMS,
        "efficient": True,
        "use_bias": False,
        "activation": "tanh",
        "kernel_initializer": keras.initializers.RandomNormal(stddev=0.3, seed=1),
        "bias_initializer": keras.initializers.Constant(0.1),
        "kernel_regularizer": keras.regularizers.L2(0.01),
        "bias_regularizer": keras.regularizers.L1(0.02),
        "activity_regularizer": keras.regularizers.L2(0.03),
        "kernel_constraint": keras.constraints.MaxNorm(2.0),
        "bias_constraint": keras.constraints.NonNeg(),
        "name": "head",
    }
    contracts.run_layer_contract(MatryoshkaDense, arguments, X)
    other = {**arguments, "use_bias": True, "efficient": efficient}
    contracts.check_shapes_agree(contracts.check_config_round_trip(MatryoshkaDense, other), X)
    contracts.check_fit_and_reload(MatryoshkaDense, other, X, contracts.JIT_COMPILE[-1])


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("efficient", [False, True])
@pytest.mark.parametrize("leading", [(4,), (2, 3), (2, 1, 3)])
def test_values_match_the_paper(efficient, use_bias, leading):
    layer, kernels, biases = layer_and_weights(efficient, use_bias)
    x = RNG.standard_normal((*leading, 6)).astype("float32")
    expected = oracles.nested_logits(x.astype("float64"), kernels, biases, DIMS, efficient)
    assert expected.shape == (*leading, 3, 5)
    np.testing.assert_allclose(as_numpy(layer(x)), expected, atol=1e-5)


@pytest.mark.parametrize("efficient", [False, True])
def test_gradients_match_finite_differences(efficient):
    layer, kernels, biases = layer_and_weights(efficient)
    upstream = RNG.standard_normal((4, 3, 5))

    def oracle(x, *weights):
        count = len(kernels)
        logits = oracles.nested_logits(x, weights[:count], weights[count:], DIMS, efficient)
        return (upstream * logits).sum()

    arrays = [X, *kernels, *biases]

    def value(x, *weights):
        count, dims = len(kernels), NestingDims(DIMS)
        if efficient:
            logits = module.efficient_prefix_logits(x, weights[0], weights[1], dims)
        else:
            logits = module.separate_prefix_logits(x, weights[:count], weights[count:], dims)
        stacked = keras.ops.stack(logits, axis=-2)
        return keras.ops.sum(stacked * keras.ops.convert_to_tensor(upstream.astype("float32")))

    _, found = gradients(value, *arrays)
    for which, gradient in enumerate(found):
        expected = numerical_gradient(oracle, arrays, which)
        np.testing.assert_allclose(gradient, expected, atol=2e-5)


def test_weights_have_the_shapes_of_algorithm_2():
    mrl, _, _ = layer_and_weights(False)
    assert [tuple(weight.shape) for weight in mrl.kernels] == [(2, 5), (3, 5), (6, 5)]
    assert [tuple(weight.shape) for weight in mrl.biases] == [(5,)] * 3
    assert mrl.count_params() == (2 + 3 + 6) * 5 + 3 * 5
    efficient, _, _ = layer_and_weights(True)
    assert efficient.count_params() == 6 * 5 + 5


def test_separate_kernels_are_drawn_independently():
    _, kernels, _ = layer_and_weights(False)
    assert not np.allclose(kernels[0].ravel()[:6], kernels[1].ravel()[:6])


@pytest.mark.parametrize("efficient", [False, True])
def test_a_prefix_depends_on_its_own_dims_only(efficient):
    layer, _, _ = layer_and_weights(efficient)
    changed = X.copy()
    changed[:, 3:] = 100.0
    before, after = as_numpy(layer(X)), as_numpy(layer(changed))
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert np.abs(before[:, 2] - after[:, 2]).max() > 1.0


@pytest.mark.parametrize("efficient", [False, True])
def test_prefix_logits_equal_the_nested_output(efficient):
    layer, _, _ = layer_and_weights(efficient)
    nested = as_numpy(layer(X))
    for i, dim in enumerate(DIMS):
        np.testing.assert_allclose(as_numpy(layer.prefix_logits(X, dim)), nested[:, i], atol=1e-6)
        truncated = as_numpy(layer.prefix_logits(X[:, :dim], dim))
        np.testing.assert_allclose(truncated, nested[:, i], atol=1e-6)


def test_interpolated_prefix_logits_of_the_shared_classifier():
    layer, kernels, biases = layer_and_weights(True)
    expected = X[:, :5] @ kernels[0][:5] + biases[0]
    np.testing.assert_allclose(as_numpy(layer.prefix_logits(X, 5)), expected, atol=1e-6)


@pytest.mark.parametrize("use_bias", [False, True])
def test_blocks_add_up_to_the_prefixes(use_bias):
    layer, (kernel,), biases = layer_and_weights(efficient=True, use_bias=use_bias)
    bias = biases[0] if use_bias else 0.0
    np.testing.assert_allclose(
        as_numpy(layer.block_logits(X[:, :2], 0, 2)), X[:, :2] @ kernel[:2] + bias, rtol=1e-5
    )
    np.testing.assert_allclose(
        as_numpy(layer.block_logits(X[:, 2:5], 2, 5)), X[:, 2:5] @ kernel[2:5], rtol=1e-5
    )
    added = sum(as_numpy(layer.block_logits(X[:, a:b], a, b)) for a, b in [(0, 3), (3, 4), (4, 6)])
    np.testing.assert_allclose(added, as_numpy(layer.prefix_logits(X, 6)), rtol=1e-4, atol=1e-5)


def test_block_logits_errors():
    layer, _, _ = layer_and_weights(efficient=True)
    for start, stop, width in [(2, 2, 2), (3, 2, 1), (4, 7, 3), (0, 3, 2)]:
        message = rf"between 0 and 6.*from {start} to {stop} and shape \(4, {width}\)"
        with pytest.raises(ValueError, match=message):
            layer.block_logits(X[:, :width], start, stop)
    with pytest.raises(ValueError, match="`start` must be at least 0"):
        layer.block_logits(X, -1, 5)
    separate, _, _ = layer_and_weights(efficient=False)
    with pytest.raises(ValueError, match="efficient=False and built=True"):
        separate.block_logits(X, 0, 6)
    with pytest.raises(ValueError, match="efficient=True and built=False"):
        MatryoshkaDense(5, DIMS, efficient=True).block_logits(X, 0, 6)


def test_masks_pass_through():
    layer = MatryoshkaDense(2, [2, 4])
    inputs = keras.Input((3,), dtype="int32")
    embedded = keras.layers.Embedding(5, 4, mask_zero=True)(inputs)
    model = keras.Model(inputs, layer(embedded))
    assert layer.supports_masking
    model.compile(
        "sgd", loss=MatryoshkaLoss("mean_squared_error", prefix_reduction="mean"), jit_compile=False
    )
    tokens = np.array([[1, 2, 0], [3, 0, 0]])
    targets = np.zeros((2, 3, 2), "float32")
    losses = as_numpy(keras.ops.mean(keras.ops.square(model(tokens)), axis=(-2, -1)))
    expected = losses[tokens > 0].mean()
    found = model.evaluate(tokens, targets, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0, "nesting_dims": DIMS}, r"`units` must be at least 1\. Received 0"),
        ({"units": 2.5, "nesting_dims": DIMS}, r"`units` must be an int\. Received 2\.5"),
        ({"units": True, "nesting_dims": DIMS}, r"`units` must be an int\. Received the boolean"),
        ({"units": 3, "nesting_dims": [4, 2]}, r"must ascend\. Received 2 after 4"),
    ],
)
def test_constructor_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        MatryoshkaDense(**arguments)


def test_width_error_names_both_sides():
    with pytest.raises(ValueError, match=r"needs inputs \(batch, \.\.\., 6\).*\(4, 8\)"):
        MatryoshkaDense(3, DIMS)(np.zeros((4, 8), "float32"))


def test_prefix_logits_errors():
    layer, _, _ = layer_and_weights(False)
    with pytest.raises(ValueError, match=r"one of the trained prefixes \[2, 3, 6\]\. Received 5"):
        layer.prefix_logits(X, 5)
    with pytest.raises(ValueError, match=r"at least `dim` = 6 components .*\(4, 3\)"):
        layer.prefix_logits(X[:, :3], 6)
    with pytest.raises(ValueError, match="Call or build the layer"):
        MatryoshkaDense(3, DIMS).prefix_logits(X, 2)
    efficient, _, _ = layer_and_weights(True)
    with pytest.raises(ValueError, match=r"an int from 1 to 6\. Received 7"):
        efficient.prefix_logits(X, 7)
    with pytest.raises(ValueError, match="`dim` must be at least 1"):
        efficient.prefix_logits(X, 0)


@pytest.mark.parametrize("efficient", [False, True])
@pytest.mark.parametrize("way", ["call", "prefix_logits"])
def test_a_model_cut_before_training_follows_the_head(efficient, way):
    inputs = keras.Input((6,))
    embedding = keras.layers.Dense(8)(inputs)
    head = MatryoshkaDense(3, [2, 4, 8], efficient=efficient)
    model = keras.Model(inputs, head(embedding))
    one = head(embedding, dim=4) if way == "call" else head.prefix_logits(embedding, 4)
    cut = keras.Model(inputs, one)
    assert cut.output_shape == (None, 3)
    assert len(cut.weights) == len(model.weights)
    head.set_weights([weight + 1.0 for weight in head.get_weights()])
    x = np.random.default_rng(0).standard_normal((5, 6)).astype("float32")
    wanted = as_numpy(model(x))[:, 1]
    np.testing.assert_allclose(as_numpy(cut(x)), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(as_numpy(save_and_load(cut)(x)), wanted, rtol=1e-5, atol=1e-6)


def test_one_prefix_of_a_call_has_the_activation_and_takes_truncated_inputs():
    head = MatryoshkaDense(3, [2, 4], efficient=True, activation="softmax", dtype="mixed_bfloat16")
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    nested = as_numpy(head(x))
    for position, dim in enumerate((2, 4)):
        one = head(x[:, :dim], dim=dim)
        assert keras.backend.standardize_dtype(one.dtype) == "bfloat16"
        np.testing.assert_allclose(as_numpy(one), nested[:, position], rtol=2e-2, atol=1e-2)
    assert head(x, dim=3).shape[1:] == (3,)
    with pytest.raises(ValueError, match=r"int from 1 to 4\. Received 5"):
        head(x, dim=5)
    symbolic = keras.Input((4,))
    with pytest.raises(ValueError, match=r"at least `dim` = 4 .*\(None, 3\)"):
        head(keras.Input((3,)), dim=4)
    with pytest.raises(ValueError, match=r"as constants.*`layer\(x, dim=2\)`"):
        head.prefix_logits(symbolic, 2)
    with pytest.raises(ValueError, match=r"`block_logits` of a symbolic tensor"):
        head.block_logits(symbolic, 0, 4)
