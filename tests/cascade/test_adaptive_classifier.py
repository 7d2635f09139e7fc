"""The layer gives the array side's answers, and leaves out the work."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras import MatryoshkaDense
from mrl_keras.cascade import AdaptiveClassifier, CascadePolicy

DIMS, UNITS, ROWS = [4, 8, 16, 32], 6, 300
POLICY = CascadePolicy(DIMS, [0.75, 0.7, 0.6], temperatures=[1.5, 0.9, 0.5, 2.0])


def embeddings(rows=ROWS, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, DIMS[-1])).astype("float32")


@pytest.fixture(scope="module", params=[False, True], ids=["MRL", "MRL-E"])
def head(request):
    normal = keras.initializers.RandomNormal(stddev=0.5, seed=3)
    layer = MatryoshkaDense(
        UNITS, DIMS, request.param, kernel_initializer=normal, bias_initializer=normal
    )
    layer.build((None, DIMS[-1]))
    return layer


def assert_same(found, policy, logits):
    """Equal to `policy.decide`, but for confidences that float32 cannot tell from a threshold."""
    expected = policy.decide(logits)
    sure = policy.decide(logits).probabilities
    near = np.abs(sure[:, None] - np.array(policy.thresholds)).min(axis=1, initial=1) < 1e-5
    assert near.sum() <= 0.02 * len(near)
    np.testing.assert_array_equal(found["class"].numpy()[~near], expected.classes[~near])
    np.testing.assert_array_equal(found["dim"].numpy()[~near], expected.dims[~near])
    np.testing.assert_allclose(
        found["probability"].numpy()[~near], expected.probabilities[~near], rtol=1e-4
    )


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_gives_the_answers_of_the_policy(head, compiled):
    layer = AdaptiveClassifier(head, POLICY)
    call = tf.function(layer) if compiled else layer
    x = embeddings()
    found = call(x)
    assert {name: part.dtype.name for name, part in found.items()} == {
        "class": "int64",
        "probability": "float32",
        "dim": "int32",
    }
    assert_same(found, POLICY, head(x).numpy())
    assert set(found["dim"].numpy()) == set(DIMS)


@pytest.mark.parametrize(("threshold", "dim"), [(0.0, 4), (1.0, 32)])
def test_thresholds_0_and_1_give_the_smallest_and_the_largest_dim(head, threshold, dim):
    layer = AdaptiveClassifier(head, CascadePolicy(DIMS, [threshold] * 3))
    x = 1e3 * embeddings()  # as confident as float32 can be
    found = layer(x)
    np.testing.assert_array_equal(found["dim"], dim)
    np.testing.assert_array_equal(
        found["class"], head(x).numpy()[:, DIMS.index(dim)].argmax(axis=-1)
    )
    rows = layer.rows_per_prefix(x).numpy()
    np.testing.assert_array_equal(rows, [ROWS, 0, 0, 0] if threshold == 0 else [ROWS] * 4)


def test_a_confidence_equal_to_the_threshold_goes_on():
    head = MatryoshkaDense(2, [1, 2], kernel_initializer="zeros")  # probability 0.5, exactly
    x = np.ones((3, 2), "float32")
    assert (
        AdaptiveClassifier(head, CascadePolicy([1, 2], [0.5]))(x)["dim"].numpy().tolist() == [2] * 3
    )
    below = np.nextafter(0.5, 0)
    assert (
        AdaptiveClassifier(head, CascadePolicy([1, 2], [below]))(x)["dim"].numpy().tolist()
        == [1] * 3
    )


def test_counts_the_rows_that_go_on(head):
    layer = AdaptiveClassifier(head, POLICY)
    dims = layer(embeddings())["dim"].numpy()
    expected = [np.sum(dims >= dim) for dim in DIMS]
    np.testing.assert_array_equal(layer.rows_per_prefix(embeddings()), expected)
    assert expected[0] > expected[1] > expected[2] > expected[3] > 0


def test_products_are_as_small_as_the_counts_say(head, monkeypatch):
    """Counts the multiplications that really run, by watching matmul."""
    sizes, matmul = [], keras.ops.matmul

    def watched(x, kernel):
        sizes.append((*x.shape, kernel.shape[-1]))
        return matmul(x, kernel)

    layer = AdaptiveClassifier(head, POLICY)
    rows = layer.rows_per_prefix(embeddings()).numpy()
    monkeypatch.setattr(keras.ops, "matmul", watched)
    layer(embeddings())
    widths = np.diff([0, *DIMS]) if head.efficient else DIMS
    assert sizes == [(row, width, UNITS) for row, width in zip(rows, widths, strict=True)]
    work = sum(np.prod(size) for size in sizes)
    assert work < (0.6 if head.efficient else 1.2) * ROWS * DIMS[-1] * UNITS


def test_rows_do_not_see_each_other(head):
    layer, x = AdaptiveClassifier(head, POLICY), embeddings()
    order = np.random.default_rng(1).permutation(ROWS)
    whole, shuffled = layer(x), layer(x[order])
    for name in ("class", "dim"):
        np.testing.assert_array_equal(whole[name].numpy()[order], shuffled[name])
    poisoned = x.copy()
    poisoned[5, :] = np.nan
    poisoned[7, 2] = np.inf
    found = layer(poisoned)
    for row in (5, 7):
        assert [found[name][row].numpy() for name in ("class", "probability", "dim")] == [-1, 0, 32]
    others = np.delete(np.arange(ROWS), [5, 7])
    for name, part in found.items():
        np.testing.assert_allclose(part.numpy()[others], whole[name].numpy()[others], rtol=1e-5)


@pytest.mark.parametrize("rows", [0, 1])
def test_small_batches(head, rows):
    found = tf.function(AdaptiveClassifier(head, POLICY))(embeddings()[:rows])
    assert [part.shape for part in found.values()] == [(rows,)] * 3
    assert_same(found, POLICY, head(embeddings()).numpy()[:rows])


def test_a_policy_may_stop_early_and_needs_no_wider_embedding(head):
    layer, x = AdaptiveClassifier(head, POLICY.up_to(16)), embeddings()
    assert_same(layer(x[:, :16]), POLICY.up_to(16), head(x).numpy()[:, :3])
    only = AdaptiveClassifier(head, CascadePolicy([8], []))(x)
    np.testing.assert_array_equal(only["class"], head(x).numpy()[:, 1].argmax(axis=-1))
    np.testing.assert_array_equal(only["dim"], 8)


def test_mrl_e_takes_interpolated_dims():
    head = MatryoshkaDense(UNITS, [4, 32], efficient=True)
    policy = CascadePolicy([4, 12, 32], [0.3, 0.4])
    found, x = AdaptiveClassifier(head, policy)(embeddings()), embeddings()
    logits = np.stack([head.prefix_logits(x, dim) for dim in policy.dims], axis=1)
    assert_same(found, policy, logits)
    assert 12 in found["dim"].numpy()


def test_in_a_model_that_is_saved_and_predicts(head, tmp_path):
    inputs = keras.Input((DIMS[-1],))
    layer = AdaptiveClassifier(head, POLICY, name="adaptive")
    model = keras.Model(inputs, layer(inputs))
    assert {name: part.shape for name, part in model.output.items()} == dict.fromkeys(
        ("class", "probability", "dim"), (None,)
    )
    found = model.predict(embeddings(), batch_size=128, verbose=0)
    path = os.path.join(tmp_path, "model.keras")
    model.save(path)
    loaded = keras.saving.load_model(path)
    again = loaded.predict(embeddings(), batch_size=128, verbose=0)
    for name in found:
        np.testing.assert_array_equal(again[name], found[name])
    config = loaded.get_layer("adaptive").get_config()
    assert config["policy"] == POLICY.to_dict()
    assert loaded.get_layer("adaptive").policy == POLICY
    again = AdaptiveClassifier.from_config(config)
    assert again.classifier.get_config() == loaded.get_layer("adaptive").classifier.get_config()


def test_a_head_of_mixed_precision(head):
    config = {**head.get_config(), "dtype": "mixed_bfloat16", "name": "half"}
    half = MatryoshkaDense.from_config(config)
    half.build((None, DIMS[-1]))
    half.set_weights(head.get_weights())
    found = AdaptiveClassifier(half, POLICY)(embeddings())
    assert found["probability"].dtype == tf.float32
    exact = AdaptiveClassifier(head, POLICY)(embeddings())
    assert np.mean(found["class"].numpy() == exact["class"].numpy()) > 0.9


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (CascadePolicy([4, 64], [0.5]), r"prefixes of the classifier, \[4, 8, 16, 32\]"),
        (CascadePolicy([4, 5], [0.5]), r"prefixes of the classifier.*Received \[4, 5\]"),
    ],
)
def test_dims_that_the_head_has_not_are_refused(policy, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveClassifier(MatryoshkaDense(3, DIMS), policy)


def test_refused_inputs_and_classifiers(head):
    layer = AdaptiveClassifier(head, POLICY)
    with pytest.raises(ValueError, match=r"inputs \(batch, 32\).*Received shape \(3, 31\)"):
        layer(np.zeros((3, 31), "float32"))
    with pytest.raises(ValueError, match="must be a MatryoshkaDense. Received <Dense"):
        AdaptiveClassifier(keras.layers.Dense(3), POLICY)


def test_a_policy_is_what_its_dict_says():
    policy = CascadePolicy([4, 8], [0.5])
    head = MatryoshkaDense(3, [4, 8])
    assert AdaptiveClassifier(head, policy.to_dict()).policy == policy
    with pytest.raises(ValueError, match="A policy needs the keys"):
        AdaptiveClassifier(head, {"dims": [4, 8], "threshold": [0.5]})
