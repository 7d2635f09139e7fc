"""Int8 and LoRA of `MatryoshkaDense`, beside what `keras.layers.Dense` gives."""

import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaDense, MatryoshkaLoss, NestingDims
from tests.support.contracts import as_numpy, save_and_load

# Keras's `Model.quantize` says this of every model.
pytestmark = pytest.mark.filterwarnings("ignore:Layer InputLayer does not have:UserWarning")

DIMS = NestingDims([4, 8, 16])
RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 16)).astype("float32")
LABELS = np.argmax(X @ RNG.standard_normal((16, 5)), axis=1)
INNER = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def head_model(efficient=False, dtype="float32", **options):
    keras.utils.set_random_seed(0)
    head = MatryoshkaDense(
        5, DIMS, efficient, bias_initializer="random_normal", dtype=dtype, name="head", **options
    )
    inputs = keras.Input((16,))
    return keras.Model(inputs, head(inputs)), head


def dense_of(head, place):
    """Keras's own layer with one kernel of the head."""
    rows = head.kernels[place].shape[0]
    dense = keras.layers.Dense(5)
    dense.build((None, rows))
    dense.set_weights([as_numpy(head.kernels[place]), as_numpy(head.biases[place])])
    return dense


def all_prefixes(head):
    return np.stack([as_numpy(head.prefix_logits(X[:, :dim], dim)) for dim in DIMS], axis=1)


def assert_loads_alike(model):
    revived = save_and_load(model)
    np.testing.assert_array_equal(as_numpy(revived(X)), as_numpy(model(X)))
    return revived.get_layer("head")


def test_int8_equals_dense_layers_of_keras():
    model, head = head_model()
    denses = [dense_of(head, place) for place in range(3)]
    model.quantize("int8")
    for place, (dim, dense) in enumerate(zip(DIMS, denses, strict=True)):
        dense.quantize("int8")
        np.testing.assert_allclose(
            as_numpy(model(X))[:, place], as_numpy(dense(X[:, :dim])), atol=1e-6
        )


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("efficient", [False, True])
def test_int8_is_close_and_saved(efficient, dtype):
    model, head = head_model(efficient, dtype)
    before, kernels = as_numpy(model(X)), [as_numpy(kernel) for kernel in head.kernels]
    model.quantize("int8")
    assert [w.dtype for w in head.weights].count("int8") == len(head.kernels)
    assert head.dtype_policy.name == f"int8_from_{dtype}"
    for kernel, old in zip(head.kernels, kernels, strict=True):
        steps = np.abs(old).max(axis=0) / 127
        assert (np.abs(as_numpy(kernel) - old) <= 0.51 * steps).all()
    after = as_numpy(model(X))
    assert 0 < np.abs(after - before).max() < 0.04 * np.abs(before).max()
    np.testing.assert_allclose(all_prefixes(head), after, atol=1e-5)
    assert_loads_alike(model)


def test_int8_blocks_add_up_for_a_cascade():
    model, head = head_model(efficient=True)
    model.quantize("int8")
    total = head.prefix_logits(X, 4) + head.block_logits(X[:, 4:8], 4, 8)
    np.testing.assert_allclose(as_numpy(total), as_numpy(model(X))[:, 1], atol=1e-6)
    between, exact = as_numpy(head.prefix_logits(X, 6)), X[:, :6] @ as_numpy(head.kernels[0])[:6]
    np.testing.assert_allclose(between, exact + as_numpy(head.biases[0]), atol=0.05)


def test_an_int8_policy_takes_the_weights_of_a_quantised_head():
    trained, head = head_model()
    trained.quantize("int8")
    made, own = head_model(dtype="int8_from_float32")
    made.set_weights([as_numpy(w) for w in trained.weights])
    np.testing.assert_array_equal(as_numpy(made(X)), as_numpy(trained(X)))
    assert [w.dtype for w in own.weights] == [w.dtype for w in head.weights]


def test_weights_alone_are_quantised_on_request():
    model, head = head_model()
    config = keras.quantizers.Int8QuantizationConfig(
        weight_quantizer=keras.quantizers.AbsMaxQuantizer(axis=0), activation_quantizer=None
    )
    model.quantize(config=config)
    kernels, biases = [[as_numpy(w) for w in found] for found in (head.kernels, head.biases)]
    for place, dim in enumerate(DIMS):
        expected = X[:, :dim] @ kernels[place] + biases[place]
        np.testing.assert_allclose(as_numpy(model(X))[:, place], expected, atol=1e-5)
    assert assert_loads_alike(model).quantization_config.activation_quantizer is None


def test_int8_hands_the_gradient_to_the_embedding():
    model, head = head_model(efficient=True)
    model.quantize("int8")
    inputs = keras.Input((16,))
    stack = keras.Model(inputs, head(keras.layers.Dense(16)(inputs)))
    stack.compile(keras.optimizers.Adam(0.01), MatryoshkaLoss(INNER))
    losses = stack.fit(X, LABELS, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("mode", ["int4", "float8"])
def test_other_modes_are_left_to_other_layers(mode):
    model, head = head_model()
    before = as_numpy(model(X))
    with pytest.warns(UserWarning, match="int8 only.*quantise the other layers"):
        model.quantize(mode)
    np.testing.assert_array_equal(as_numpy(model(X)), before)
    with pytest.raises(ValueError, match="int8 only"):
        head_model(dtype=f"{mode}_from_float32")


@pytest.mark.slow
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("efficient", [False, True])
def test_lora_trains_beside_frozen_kernels(efficient, int8):
    model, head = head_model(efficient)
    if int8:
        model.quantize("int8")
    before, frozen = as_numpy(model(X)), [as_numpy(kernel) for kernel in head._kernels]
    head.enable_lora(2, lora_alpha=4)
    np.testing.assert_allclose(as_numpy(model(X)), before, atol=1e-6)
    head.trainable = False
    head.trainable = True  # as `train_only` sets it
    count = len(head._kernels)
    assert len(head.trainable_weights) == 3 * count
    model.compile(keras.optimizers.Adam(0.02), MatryoshkaLoss(INNER))
    losses = model.fit(X, LABELS, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    for kernel, old in zip(head._kernels, frozen, strict=True):
        np.testing.assert_array_equal(as_numpy(kernel), old)
    np.testing.assert_allclose(all_prefixes(head), as_numpy(model(X)), atol=1e-5)
    revived = save_and_load(model)  # LoRA is in its kernels, int8 kernels are rounded again
    atol = 0.03 * np.abs(as_numpy(model(X))).max() if int8 else 1e-5
    np.testing.assert_allclose(as_numpy(revived(X)), as_numpy(model(X)), atol=atol)
    own = revived.get_layer("head")
    assert (own.lora_rank, own.lora_alpha, own.lora_enabled) == (2, 4, True)
    revived.compile(keras.optimizers.Adam(0.02), MatryoshkaLoss(INNER))
    on = revived.fit(X, LABELS, epochs=8, verbose=0).history["loss"]
    assert on[-1] < 0.98 * on[0]


def test_lora_in_half_precision_and_by_the_constructor():
    model, head = head_model(dtype="mixed_bfloat16", lora_rank=3)
    assert (head.lora_enabled, head.lora_alpha) == (True, 3)
    assert keras.backend.standardize_dtype(model(X).dtype) == "bfloat16"
    assert {w.dtype for w in head.weights} == {"float32"}


def test_refusals_of_lora():
    with pytest.raises(ValueError, match="needs a built layer"):
        MatryoshkaDense(5, DIMS).enable_lora(2)
    _, head = head_model(lora_rank=2)
    with pytest.raises(ValueError, match="without LoRA"):
        head.enable_lora(2)
    with pytest.raises(ValueError, match="kernel_constraint"):
        head_model(kernel_constraint="non_neg", lora_rank=2)
    with pytest.raises(ValueError, match="`lora_rank`"):
        MatryoshkaDense(5, DIMS, lora_rank=0)


def test_weights_of_another_policy_are_refused():
    model, head = head_model()
    stored = {}
    head.save_own_variables(stored)
    model.quantize("int8")
    with pytest.raises(ValueError, match="another dtype policy"):
        head.load_own_variables(stored)
