import keras
import numpy as np
import pytest

from mrl_keras.layers.prefix_normalization import PrefixNormalization, normalize_prefix
from tests.support import contracts
from tests.support.backend import gradients, numerical_gradient
from tests.support.contracts import as_numpy, save_and_load

DIMS = [2, 3, 6]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 6)).astype("float32")


def oracle(x, dims=DIMS):
    """(..., prefixes, d): each prefix divided by its own norm, zeros where that is zero."""
    output = np.zeros((*x.shape[:-1], len(dims), x.shape[-1]))
    for i, m in enumerate(dims):
        norm = np.linalg.norm(x[..., :m].astype("float64"), axis=-1, keepdims=True)
        output[..., i, :m] = np.divide(
            x[..., :m], norm, where=norm > 0, out=np.zeros_like(x)[..., :m]
        )
    return output


def test_contract():
    arguments = {"nesting_dims": DIMS, "name": "normalized"}
    contracts.run_layer_contract(PrefixNormalization, arguments, X)


@pytest.mark.parametrize("leading", [(4,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("dims", [DIMS, [6]])
def test_values(leading, dims):
    x = RNG.standard_normal((*leading, 6)).astype("float32")
    expected = oracle(x, dims)
    np.testing.assert_allclose(as_numpy(PrefixNormalization(dims)(x)), expected, atol=1e-6)
    for i, m in enumerate(dims):
        found = as_numpy(normalize_prefix(x, m))
        np.testing.assert_allclose(found, expected[..., i, :m], atol=1e-6)


def test_gradient_matches_finite_differences():
    upstream = RNG.standard_normal((4, 3, 6))
    layer, weights = PrefixNormalization(DIMS), keras.ops.convert_to_tensor(upstream.astype("f"))
    _, (found,) = gradients(lambda x: keras.ops.sum(layer(x) * weights), X)
    expected = numerical_gradient(lambda x: (upstream * oracle(x)).sum(), [X], 0)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_zero_prefixes_give_zeros_and_zero_gradients():
    x = X.copy()
    x[0] = 0.0
    x[1, :3] = 0.0  # the smaller two prefixes only
    x[2] *= 1e-14  # so small that the gradient would overflow
    layer = PrefixNormalization(DIMS)
    expected = oracle(x)
    expected[2] = 0.0
    np.testing.assert_allclose(as_numpy(layer(x)), expected, atol=1e-6)
    _, (gradient,) = gradients(lambda x: keras.ops.sum(layer(x)), x)
    assert np.isfinite(gradient).all()
    assert (gradient[[0, 2]] == 0).all()
    assert np.abs(gradient[1, 3:]).min() > 0
    _, (gradient,) = gradients(lambda x: keras.ops.sum(normalize_prefix(x, 3)), x)
    np.testing.assert_array_equal(gradient[:3], 0.0)


def test_small_norms_are_exact_down_to_the_threshold():
    tiny = X * 1e-10
    np.testing.assert_allclose(as_numpy(PrefixNormalization(DIMS)(tiny)), oracle(X), atol=1e-6)


def test_what_is_not_a_number_is_not_hidden():
    x = X.copy()
    x[0, 4] = np.nan
    found = as_numpy(PrefixNormalization(DIMS)(x))
    assert np.isnan(found[0, 2]).any()
    np.testing.assert_allclose(found[0, :2], oracle(X)[0, :2], atol=1e-6)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_norms_are_float32_under_mixed_precision(dtype):
    # The squares of these overflow float16, and bfloat16 sums lose the small components.
    x = 300.0 * np.ones((1, 1024), "float32")
    found = PrefixNormalization([512, 1024], dtype=dtype)(x)
    assert keras.backend.standardize_dtype(found.dtype) == dtype.removeprefix("mixed_")
    expected = oracle(x, [512, 1024])
    np.testing.assert_allclose(as_numpy(found), expected, rtol=4e-3)
    half = keras.ops.cast(x, dtype.removeprefix("mixed_"))
    alone = normalize_prefix(half, 512)
    assert alone.dtype == half.dtype
    np.testing.assert_allclose(as_numpy(alone), expected[:, 0, :512], rtol=4e-3)


def test_masks_pass_through():
    tokens = np.array([[1, 2, 0], [3, 0, 0]])
    embedded = keras.layers.Embedding(5, 6, mask_zero=True)(tokens)
    output = PrefixNormalization(DIMS)(embedded)
    mask = keras.ops.convert_to_numpy(output._keras_mask)
    np.testing.assert_array_equal(mask, tokens > 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PrefixNormalization([4, 2]), r"must ascend\. Received 2 after 4"),
        (
            lambda: PrefixNormalization(DIMS)(X[:, :5]),
            r"needs inputs \(batch, \.\.\., 6\).*\[2, 3, 6\] end\. Received shape \(4, 5\)",
        ),
        (lambda: PrefixNormalization(DIMS)(X[0]), r"Received shape \(6,\)"),
        (lambda: PrefixNormalization(DIMS).compute_output_shape((None, 7)), r"shape \(None, 7\)"),
        (lambda: normalize_prefix(X, 7), r"at least `dim` = 7 components.*\(4, 6\)"),
        (lambda: normalize_prefix(X, 0), r"`dim` must be at least 1\. Received 0"),
        (lambda: normalize_prefix(X, 2.0), r"`dim` must be an int\. Received 2\.0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_prefix_of_a_symbolic_tensor_is_saved_with_its_model():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, normalize_prefix(inputs, 2))
    x = np.array([[3.0, 4.0, 12.0], [0.0, 0.0, 1.0]], "float32")
    for one in (model, save_and_load(model)):
        np.testing.assert_allclose(as_numpy(one(x)), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
