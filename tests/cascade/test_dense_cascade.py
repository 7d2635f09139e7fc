"""The cascade that scores all prefixes and selects: the same answers, on every Keras backend."""

import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaDense
from mrl_keras.cascade import AdaptiveClassifier, CascadePolicy
from tests.support.contracts import JIT_COMPILE, save_and_load

DIMS, UNITS, ROWS = [4, 8, 16, 32], 6, 200
POLICY = CascadePolicy(DIMS, [0.6, 0.7, 0.9], temperatures=[1.5, 0.9, 0.5, 2.0])
X = np.random.default_rng(0).standard_normal((ROWS, DIMS[-1])).astype("float32")


@pytest.fixture(scope="module", params=[False, True], ids=["MRL", "MRL-E"])
def head(request):
    layer = MatryoshkaDense(UNITS, DIMS, request.param)
    layer.build((None, DIMS[-1]))
    random = np.random.default_rng(1)  # the backends' own initializers differ
    layer.set_weights([random.standard_normal(weight.shape) for weight in layer.weights])
    return layer


def numpy(found):
    return {name: keras.ops.convert_to_numpy(part) for name, part in found.items()}


def assert_decided(found, policy, logits):
    """Equal to `policy.decide`, but for confidences that float32 cannot tell from a threshold."""
    expected = policy.decide(logits)
    near = np.abs(expected.probabilities[:, None] - np.array(policy.thresholds)).min(axis=1) < 1e-5
    assert near.mean() < 0.02
    np.testing.assert_array_equal(found["class"][~near], expected.classes[~near])
    np.testing.assert_array_equal(found["dim"][~near], expected.dims[~near])
    np.testing.assert_allclose(
        found["probability"][~near], expected.probabilities[~near], rtol=1e-4
    )


def test_gives_the_answers_of_the_policy(head):
    found = numpy(AdaptiveClassifier(head, POLICY, dense=True)(X))
    assert_decided(found, POLICY, keras.ops.convert_to_numpy(head(X)))
    assert set(found["dim"]) == set(DIMS)
    usual = numpy(AdaptiveClassifier(head, POLICY)(X))
    for name in ("class", "dim"):
        np.testing.assert_array_equal(found[name], usual[name])
        assert found[name].dtype == usual[name].dtype
    np.testing.assert_allclose(found["probability"], usual["probability"], rtol=1e-5)


@pytest.mark.parametrize("jit_compile", JIT_COMPILE)
def test_in_a_model_that_is_saved_and_compiled(head, jit_compile):
    inputs = keras.Input((DIMS[-1],))
    model = keras.Model(inputs, AdaptiveClassifier(head, POLICY, dense=True)(inputs))
    loaded = save_and_load(model)
    assert loaded.layers[-1].dense
    loaded.compile(jit_compile=jit_compile)
    found = loaded.predict(X, batch_size=64, verbose=0)
    assert_decided(found, POLICY, keras.ops.convert_to_numpy(head(X)))
    types = {name: part.dtype for name, part in model.output.items()}
    assert types == {name: str(part.dtype) for name, part in found.items()}


def test_counts_the_rows_that_get_as_far(head):
    layer = AdaptiveClassifier(head, POLICY, dense=True)
    dims = numpy(layer(X))["dim"]
    counts = keras.ops.convert_to_numpy(layer.rows_per_prefix(X))
    np.testing.assert_array_equal(counts, [np.sum(dims >= dim) for dim in DIMS])
    assert counts[0] > counts[1] > counts[2] > counts[3] > 0


def test_a_confidence_equal_to_the_threshold_goes_on():
    even = MatryoshkaDense(2, [1, 2], kernel_initializer="zeros")  # probability 0.5, exactly
    for threshold, dim in ((0.5, 2), (float(np.nextafter(0.5, 0)), 1), (0.0, 1), (1.0, 2)):
        layer = AdaptiveClassifier(even, CascadePolicy([1, 2], [threshold]), dense=True)
        assert numpy(layer(X[:3, :2]))["dim"].tolist() == [dim] * 3


def test_rows_that_are_no_numbers(head):
    layer = AdaptiveClassifier(head, POLICY, dense=True)
    whole, poisoned = numpy(layer(X)), X.copy()
    poisoned[5, :] = np.nan
    poisoned[7, 2] = np.inf
    found = numpy(layer(poisoned))
    for row in (5, 7):
        assert [found[name][row] for name in ("class", "probability", "dim")] == [-1, 0, 32]
    others = np.delete(np.arange(ROWS), [5, 7])
    for name, part in found.items():
        np.testing.assert_allclose(part[others], whole[name][others], rtol=1e-5)


def test_few_rows_and_one_prefix(head):
    assert [part.shape for part in numpy(AdaptiveClassifier(head, POLICY)(X[:0])).values()] == [
        (0,)
    ] * 3
    only = numpy(AdaptiveClassifier(head, CascadePolicy([8], []), dense=True)(X))
    np.testing.assert_array_equal(only["dim"], 8)
    logits = keras.ops.convert_to_numpy(head(X))
    np.testing.assert_array_equal(only["class"], logits[:, 1].argmax(axis=-1))
