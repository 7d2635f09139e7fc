import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaLoss
from mrl_keras.layers.matryoshka_similarity import (
    ClipByValue,
    MatryoshkaSimilarity,
    outer_scaled,
)
from mrl_keras.losses.symmetric_contrastive import SymmetricContrastive
from tests.support import contracts
from tests.support.backend import gradients, numerical_gradient
from tests.support.contracts import as_numpy

DIMS = [2, 3, 6]
RNG = np.random.default_rng(0)
QUERY = RNG.standard_normal((4, 6)).astype("float32")
DOCUMENT = RNG.standard_normal((5, 6)).astype("float32")
PAIR = [QUERY[:4], DOCUMENT[:4]]


def oracle(query, document, temperatures=(1.0, 1.0, 1.0), normalize=True, dims=DIMS):
    """(n, prefixes, m): every prefix normalised and multiplied from scratch, in float64."""
    output = []
    for m, temperature in zip(dims, temperatures, strict=True):
        q, k = (np.array(x[:, :m], "float64") for x in (query, document))
        if normalize:
            q, k = (
                x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-100) for x in (q, k)
            )
        output.append(q @ k.T / temperature)
    return np.stack(output, axis=1)


ARGUMENTS = {
    "nesting_dims": DIMS,
    "normalize": False,
    "temperature": [0.5, 1.0, 2.0],
    "learnable_temperature": True,
    "per_prefix_temperature": True,
    "name": "similarity",
}


def test_contract():
    contracts.check_every_argument_is_given(MatryoshkaSimilarity, ARGUMENTS)
    contracts.check_config_round_trip(MatryoshkaSimilarity, ARGUMENTS)
    jit_compile = keras.backend.backend() != "torch"  # whose compiler takes half a minute
    contracts.check_fit_and_reload(MatryoshkaSimilarity, ARGUMENTS, PAIR, jit_compile)
    for dtype in ("mixed_bfloat16", "mixed_float16"):
        contracts.check_mixed_precision(MatryoshkaSimilarity, ARGUMENTS, PAIR, dtype)


def test_contract_with_one_learnable_temperature():
    arguments = {
        **ARGUMENTS,
        "normalize": True,
        "temperature": 0.5,
        "per_prefix_temperature": False,
    }
    contracts.check_config_round_trip(MatryoshkaSimilarity, arguments)
    contracts.check_fit_and_reload(MatryoshkaSimilarity, arguments, PAIR, jit_compile=False)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("learnable", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.05, 0.01, (0.1, 0.02, 3.0)])
def test_values(normalize, learnable, temperature):
    several = isinstance(temperature, tuple)
    layer = MatryoshkaSimilarity(DIMS, normalize, temperature, learnable, several)
    temperatures = temperature if several else (temperature,) * 3
    expected = oracle(QUERY, DOCUMENT, temperatures, normalize)
    found = as_numpy(layer([QUERY, DOCUMENT]))
    np.testing.assert_allclose(found, expected, atol=2e-6 / min(temperatures))
    assert len(layer.weights) == learnable


def test_one_temperature_for_each_prefix_from_one_number():
    layer = MatryoshkaSimilarity(DIMS, temperature=0.5, per_prefix_temperature=True)
    assert layer.temperature == (0.5, 0.5, 0.5)


def test_a_single_prefix_and_a_large_one():
    x, y = (RNG.standard_normal((3, 700)).astype("float32") for _ in "xy")
    for dims in ([700], [1, 699, 700]):
        expected = oracle(x, y, (1.0,) * len(dims), dims=dims)
        found = as_numpy(MatryoshkaSimilarity(dims)([x, y]))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_shapes():
    layer = MatryoshkaSimilarity(DIMS)
    symbolic = layer([keras.Input((6,)), keras.Input((6,))])
    assert symbolic.shape == (None, 3, None)
    fixed = layer([keras.Input((6,), batch_size=4), keras.Input((6,), batch_size=5)])
    assert fixed.shape == (4, 3, 5)
    assert tuple(layer([QUERY, DOCUMENT]).shape) == (4, 3, 5)
    assert layer.compute_output_shape([(None, 6), (7, 6)]) == (None, 3, 7)
    half = MatryoshkaSimilarity(DIMS, dtype="mixed_bfloat16")
    assert half([keras.Input((6,)), keras.Input((6,))]).dtype == "bfloat16"


@pytest.mark.parametrize("normalize", [True, False])
def test_gradients_match_finite_differences(normalize):
    upstream = RNG.standard_normal((4, 3, 5))
    weights = keras.ops.convert_to_tensor(upstream.astype("float32"))
    temperatures = (0.5, 0.25, 2.0)
    layer = MatryoshkaSimilarity(DIMS, normalize, temperatures, per_prefix_temperature=True)

    def value(query, document):
        return keras.ops.sum(layer([query, document]) * weights)

    def expected_value(query, document):
        return (upstream * oracle(query, document, temperatures, normalize)).sum()

    _, found = gradients(value, QUERY, DOCUMENT)
    for which in (0, 1):
        expected = numerical_gradient(expected_value, [QUERY, DOCUMENT], which)
        np.testing.assert_allclose(found[which], expected, atol=2e-4)


def test_gradient_of_the_scales():
    arrays = [RNG.standard_normal(shape).astype("float32") for shape in ((3, 4), (3, 1), (1, 4))]
    upstream = RNG.standard_normal((3, 4))
    weights = keras.ops.convert_to_tensor(upstream.astype("float32"))
    _, found = gradients(lambda *args: keras.ops.sum(outer_scaled(*args) * weights), *arrays)
    for which in range(3):
        expected = numerical_gradient(lambda x, r, c: (upstream * x * r * c).sum(), arrays, which)
        np.testing.assert_allclose(found[which], expected, atol=1e-4)


@pytest.mark.parametrize("per_prefix", [True, False])
def test_a_learnable_temperature_is_trained(per_prefix):
    start = (0.5, 0.2, 0.1) if per_prefix else 0.5
    layer = MatryoshkaSimilarity(DIMS, True, start, True, per_prefix, dtype="float32")
    given = [keras.Input((6,)), keras.Input((6,))]
    model = keras.Model(given, layer(given))
    rate = 0.1
    loss = MatryoshkaLoss(SymmetricContrastive())
    model.compile(keras.optimizers.SGD(rate), loss=loss, jit_compile=False)
    before = as_numpy(layer.log_inverse_temperature)
    model.fit(PAIR, np.arange(4), batch_size=4, verbose=0)

    def expected_loss(log_inverse):
        logits = oracle(*PAIR, np.broadcast_to(np.exp(-log_inverse), 3))
        sums = [np.log(np.exp(logits).sum(axis)) for axis in (2, 0)]
        positive = np.einsum("ipi->ip", logits)
        return ((sums[0] + sums[1].T) / 2 - positive).sum(axis=1).mean()

    moved = (before - as_numpy(layer.log_inverse_temperature)) / rate
    expected = numerical_gradient(expected_loss, [before], 0)
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_a_learnable_temperature_stays_between_its_limits():
    layer = MatryoshkaSimilarity(DIMS, temperature=0.01, learnable_temperature=True)
    given = [keras.Input((6,)), keras.Input((6,))]
    model = keras.Model(given, layer(given))
    model.compile(keras.optimizers.SGD(100.0), loss=lambda _, logits: -keras.ops.mean(logits))
    pair = [QUERY, QUERY]  # the diagonal pulls the temperature down without end
    for sign in (1.0, -1.0):
        model.fit([QUERY, sign * QUERY], np.zeros(4), batch_size=4, epochs=2, verbose=0)
        inverse = float(np.exp(as_numpy(layer.log_inverse_temperature)))
        np.testing.assert_allclose(inverse, 100.0**sign, rtol=1e-5)
        assert np.isfinite(as_numpy(layer(pair))).all()
    assert ClipByValue(**layer.log_inverse_temperature.constraint.get_config()).max_value > 4.6


def test_zero_vectors_and_duplicates():
    query, document = QUERY.copy(), DOCUMENT.copy()
    query[0] = 0.0
    query[1, :3] = 0.0
    document[2] = 0.0
    document[3] = document[4]
    layer = MatryoshkaSimilarity(DIMS, temperature=0.01)
    found = as_numpy(layer([query, document]))
    np.testing.assert_allclose(found, oracle(query, document, (0.01,) * 3), atol=2e-4)
    assert (found[0] == 0).all()
    assert (found[1, :2] == 0).all()
    assert np.abs(found[1, 2]).max() > 1
    np.testing.assert_array_equal(found[..., 3], found[..., 4])
    _, (dq, dk) = gradients(lambda *pair: keras.ops.sum(layer(list(pair))), query, document)
    assert np.isfinite(dq).all()
    assert np.isfinite(dk).all()
    assert (dq[0] == 0).all()
    assert (dk[2] == 0).all()
    assert np.abs(dq[1, 3:]).min() > 0


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_products_are_float32_under_mixed_precision(dtype):
    # The inner products overflow float16; bfloat16 sums would be off by more than rounding.
    x, y = (300.0 * (1 + RNG.random((3, 512))).astype("float32") for _ in "xy")
    found = MatryoshkaSimilarity([256, 512], dtype=dtype, temperature=0.1)([x, y])
    assert keras.backend.standardize_dtype(found.dtype) == dtype.removeprefix("mixed_")
    expected = oracle(x, y, (0.1, 0.1), dims=[256, 512])
    np.testing.assert_allclose(as_numpy(found), expected, rtol=4e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"temperature": 0.0}, r"finite number above 0.*Received 0\.0"),
        ({"temperature": float("nan")}, r"finite number above 0.*Received nan"),
        ({"temperature": float("inf")}, r"finite number above 0.*Received inf"),
        ({"temperature": True}, r"finite number above 0.*Received True"),
        ({"temperature": "cold"}, r"finite number above 0.*Received 'cold'"),
        ({"temperature": [0.1, 0.2, 0.3]}, r"with `per_prefix_temperature=True` a sequence"),
        (
            {"temperature": [0.1, 0.2], "per_prefix_temperature": True},
            r"one number for each of the 3 prefixes\. Received 2: \[0\.1, 0\.2\]",
        ),
        (
            {"temperature": [0.1, -0.2, 1.0], "per_prefix_temperature": True},
            r"finite number above 0.*Received -0\.2",
        ),
        (
            {"temperature": 0.001, "learnable_temperature": True},
            r"must start between 0\.01 and 100\.0\. Received 0\.001",
        ),
        ({"nesting_dims": [4, 2]}, r"must ascend\. Received 2 after 4"),
    ],
)
def test_errors_of_the_constructor(call, message):
    with pytest.raises(ValueError, match=message):
        MatryoshkaSimilarity(**{"nesting_dims": DIMS, **call})


@pytest.mark.parametrize(
    ("inputs", "shapes"),
    [
        ([QUERY, DOCUMENT[:, :5]], r"\(4, 6\).*\(5, 5\)"),
        ([QUERY[None], DOCUMENT], r"\(1, 4, 6\)"),
        (QUERY, r"\(4, 6\)"),
        ([QUERY, DOCUMENT, DOCUMENT], r"\(5, 6\).*\(5, 6\)"),
    ],
)
def test_errors_of_the_call(inputs, shapes):
    with pytest.raises(ValueError, match=rf"needs a list \[query, document\].*{shapes}"):
        MatryoshkaSimilarity(DIMS)(inputs)


def test_symbolic_tensors_are_refused_outside_of_the_call():
    layer = MatryoshkaSimilarity([2, 4], learnable_temperature=True)
    with pytest.raises(ValueError, match=r"as a constant.*`layer\(\[query, document\]\)`"):
        layer.prefix_similarities(keras.Input((4,)), keras.Input((4,)))
