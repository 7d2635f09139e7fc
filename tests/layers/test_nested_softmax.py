import keras
import numpy as np
import pytest

from mrl_keras.layers.nested_softmax import nested_label_scores
from mrl_keras.nesting import NestingDims
from tests.support import oracles
from tests.support.backend import gradients, numerical_gradient
from tests.support.contracts import as_numpy

DIMS = NestingDims([2, 3, 6])
RNG = np.random.default_rng(0)
HIDDEN = RNG.standard_normal((5, 6)).astype("float32")
TABLE = RNG.standard_normal((11, 6)).astype("float32")
BIAS = RNG.standard_normal(11).astype("float32")
LABELS = np.array([3, 0, 10, 3, 7], "int32")
UPSTREAM = RNG.standard_normal((5, 3)).astype("float32")
BLOCK_SIZES = (1, 3, 4, 10, 11, 100)


def oracle_logits(hidden, table, bias, dims=DIMS):
    hidden, table, bias = (np.array(x, "float64") for x in (hidden, table, bias))
    return oracles.nested_logits(hidden, [table.T], [bias], dims, efficient=True)


def oracle(hidden, table, bias, labels=LABELS, dims=DIMS):
    """(n, prefixes, 2), in float64, from all logits."""
    logits = oracle_logits(hidden, table, bias, dims)
    target = oracles.one_hot(labels, len(table))[:, None]
    crossentropy = oracles.softmax_crossentropy(target, logits)
    correct = (logits * target).sum(axis=-1) >= logits.max(axis=-1)
    return np.stack([crossentropy, correct], axis=-1)


def scores(hidden, table, bias, labels=LABELS, block_size=4, dims=DIMS):
    tensors = (keras.ops.convert_to_tensor(x) for x in (hidden, table, bias, labels))
    return nested_label_scores(*tensors, dims, block_size)


def weighted(block_size, upstream=UPSTREAM):
    def total(hidden, table, bias):
        labels = keras.ops.convert_to_tensor(LABELS)
        found = nested_label_scores(hidden, table, bias, labels, DIMS, block_size)
        return keras.ops.sum(found[..., 0] * keras.ops.convert_to_tensor(upstream))

    return total


def weighted_oracle(hidden, table, bias):
    return (UPSTREAM * oracle(hidden, table, bias)[..., 0]).sum()


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_values(block_size):
    found = as_numpy(scores(HIDDEN, TABLE, BIAS, block_size=block_size))
    np.testing.assert_allclose(found, oracle(HIDDEN, TABLE, BIAS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_gradients_of_hidden_table_and_bias(block_size):
    arrays = (HIDDEN, TABLE, BIAS)
    value, found = gradients(weighted(block_size), *arrays)
    np.testing.assert_allclose(value, weighted_oracle(*arrays), rtol=1e-5)
    for which, gradient in enumerate(found):
        expected = numerical_gradient(weighted_oracle, arrays, which)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=2e-6)


def test_positions_of_no_weight_have_no_gradient():
    upstream = UPSTREAM.copy()
    upstream[[1, 4]] = 0.0
    _, found = gradients(weighted(4, upstream), HIDDEN, TABLE, BIAS)
    kept = np.array([0, 2, 3])
    assert np.abs(found[0][[1, 4]]).max() == 0.0
    assert np.abs(found[0][kept]).min(axis=1).max() > 0.0


def test_one_prefix():
    dims = NestingDims([6])
    found = as_numpy(scores(HIDDEN, TABLE, BIAS, dims=dims))
    assert found.shape == (5, 1, 2)
    expected = oracle(HIDDEN, TABLE, BIAS, dims=dims)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_label_that_ties_for_the_largest_logit_is_right():
    table = np.ones((7, 2), "float32")
    bias = np.array([0, 1, 0, 1, 0, 0, 0], "float32")
    found = as_numpy(scores(table[:3], table, bias, np.array([1, 3, 5]), 3, NestingDims([1, 2])))
    np.testing.assert_array_equal(found[..., 1], [[1, 1], [1, 1], [0, 0]])


@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_large_logits_neither_overflow_nor_vanish(offset):
    bias = BIAS + np.float32(offset)
    bias[3] += 500.0  # its softmax is 1 to the last digit, the others' 0
    found = as_numpy(scores(HIDDEN, TABLE, bias))
    np.testing.assert_allclose(found, oracle(HIDDEN, TABLE, bias), rtol=1e-4, atol=3e-3)
    _, (to_hidden, to_table, to_bias) = gradients(weighted(4), HIDDEN, TABLE, bias)
    softmax = np.zeros((5, 1, 11))
    softmax[..., 3] = 1.0
    to_logits = (softmax - oracles.one_hot(LABELS, 11)[:, None]) * UPSTREAM[..., None]
    np.testing.assert_allclose(to_bias, to_logits.sum(axis=(0, 1)), atol=1e-5)
    assert np.isfinite(to_hidden).all()
    assert np.isfinite(to_table).all()


def test_entries_with_a_bias_of_minus_infinity_are_left_out():
    bias = BIAS.copy()
    bias[:5] = -np.inf  # more than the first block
    labels = np.array([5, 6, 10, 9, 7], "int32")
    found = as_numpy(scores(HIDDEN, TABLE, bias, labels, 3))
    expected = oracle(HIDDEN, TABLE[5:], bias[5:], labels - 5)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_labels_outside_the_vocabulary_give_nan_alone():
    labels = np.array([3, -1, 10, 11, 7], "int32")
    found = as_numpy(scores(HIDDEN, TABLE, BIAS, labels))
    np.testing.assert_array_equal(np.isnan(found[..., 0]).all(axis=1), [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(found[[1, 3], :, 1], 0.0)
    kept = [0, 2, 4]
    np.testing.assert_allclose(found[kept], oracle(HIDDEN, TABLE, BIAS)[kept], rtol=1e-5, atol=1e-6)


def test_what_is_not_a_number_is_not_hidden():
    hidden = HIDDEN.copy()
    hidden[2, 4] = np.nan  # in the last block of the dims
    found = as_numpy(scores(hidden, TABLE, BIAS))[..., 0]
    np.testing.assert_array_equal(np.isnan(found), np.eye(5)[2][:, None] * [0, 0, 1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_summed_in_float32(dtype):
    halves = [keras.ops.cast(x, dtype) for x in (HIDDEN, TABLE, BIAS)]
    found = scores(*halves)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    expected = oracle(*(as_numpy(x) for x in halves))
    np.testing.assert_allclose(as_numpy(found), expected, rtol=1e-5, atol=1e-6)


def test_no_tensor_holds_the_logits_of_the_vocabulary():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("reads TensorFlow's graph")
    import tensorflow as tf

    positions, vocabulary, block_size = 64, 1000, 16
    hidden, table = tf.ones((positions, 6)), tf.ones((vocabulary, 6))

    @tf.function
    def step(hidden, table, bias, labels):
        with tf.GradientTape() as tape:
            tape.watch([hidden, table, bias])
            value = nested_label_scores(hidden, table, bias, labels, DIMS, block_size)[..., 0]
        return tape.gradient(value, [hidden, table, bias])

    labels = tf.zeros(positions, "int32")
    graph = step.get_concrete_function(hidden, table, tf.zeros(vocabulary), labels).graph
    sizes, graphs = [], [graph]
    while graphs:
        graph = graphs.pop()
        for operation in graph.get_operations():
            sizes += [out.shape.num_elements() or 0 for out in operation.outputs]
            for name in ("body", "cond", "f"):
                if name in operation.node_def.attr and operation.node_def.attr[name].func.name:
                    found = operation.node_def.attr[name].func.name
                    graphs.append(operation.graph._get_function(found).graph)
    assert positions * block_size in sizes, "the blocks were not found"
    assert max(sizes) <= max(table.shape.num_elements(), positions * block_size * len(DIMS))


def test_no_positions():
    found = scores(HIDDEN[:0], TABLE, BIAS, LABELS[:0])
    assert tuple(found.shape) == (0, 3, 2)
