"""Embeddings of several layers: values, what is trained, files, errors, on every backend."""

import json

import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaDense, MatryoshkaLoss, per_prefix
from mrl_keras.models import NestedLayers, cut, pooled, sentence_pairs
from tests.support.contracts import as_numpy, check_every_argument_is_given, save_and_load

RNG = np.random.default_rng(0)
DIMS = [2, 8]
NAMES = ["block1", "block3"]
ROWS = {
    "tokens": RNG.standard_normal((6, 5, 4)).astype("float32"),
    "padding_mask": (np.arange(5) < np.array([5, 4, 3, 2, 1, 5])[:, None]).astype("int32"),
}
LABELS = np.arange(6) % 3


def network():
    """Three dense blocks over the vectors of tokens, as a dict of one output."""
    inputs = {
        "tokens": keras.Input((5, 4), name="tokens"),
        "padding_mask": keras.Input((5,), dtype="int32", name="padding_mask"),
    }
    x = inputs["tokens"]
    for number in (1, 2, 3):
        x = keras.layers.Dense(8, "tanh", name=f"block{number}")(x)
    return keras.Model(inputs, {"last": x})


def nested(layer_names=NAMES, **options):
    keras.utils.set_random_seed(0)
    return NestedLayers(network(), layer_names, **{"pooling": "mean", **options})


def expected_of(model, depth):
    """The NumPy oracle: the mean of the tokens' vectors after `depth` blocks."""
    x = ROWS["tokens"]
    for number in range(1, depth + 1):
        kernel, bias = model.get_layer(f"block{number}").get_weights()
        x = np.tanh(x @ kernel + bias)
    mask = ROWS["padding_mask"][..., None]
    return (x * mask).sum(axis=1) / mask.sum(axis=1)


def test_each_embedding_is_that_of_its_layer():
    model = nested(["block1", "last"])
    found = model(ROWS)
    assert set(found) == {"block1", "last"}
    for name, depth in (("block1", 1), ("last", 3)):
        np.testing.assert_allclose(as_numpy(found[name]), expected_of(model, depth), atol=1e-5)
        encoder = model.encoder(name)
        np.testing.assert_array_equal(as_numpy(encoder(ROWS)), as_numpy(found[name]))
        assert encoder.count_params() == 40 + 72 * (depth - 1)
    first = as_numpy(nested(pooling="cls")(ROWS)["block3"])
    assert np.abs(first - expected_of(model, 3)).max() > 1e-3


def test_one_linear_layer_maps_all_layers():
    model = nested(width=6)
    kernel, bias = model.get_layer("embedding").get_weights()
    for name, depth in (("block1", 1), ("block3", 3)):
        wanted = expected_of(model, depth) @ kernel + bias
        np.testing.assert_allclose(as_numpy(model(ROWS)[name]), wanted, atol=1e-5)


def classifier(importance):
    """A compiled classifier with a head on each layer."""
    backbone = nested()
    heads = {
        name: MatryoshkaDense(3, DIMS, name=f"{name}_head")(embedding)
        for name, embedding in backbone.output.items()
    }
    model = keras.Model(backbone.input, heads)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = {name: MatryoshkaLoss(crossentropy, importance[name]) for name in NAMES}
    metrics = {name: per_prefix("sparse_categorical_accuracy", DIMS) for name in NAMES}
    model.compile(keras.optimizers.SGD(0.5), losses, metrics=metrics, jit_compile=False)
    return backbone, model


def crossentropies(logits):
    """Mean crossentropy of each prefix, (prefixes,)."""
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return -logs[np.arange(len(LABELS)), :, LABELS].mean(axis=0)


@pytest.mark.slow
def test_the_loss_is_the_sum_over_layers_and_prefixes_and_trains_all():
    importance = {"block1": [2.0, 1.0], "block3": [0.0, 0.5]}
    backbone, model = classifier(importance)
    before = [as_numpy(weight) for weight in backbone.weights]
    wanted = sum(
        np.dot(importance[name], crossentropies(as_numpy(model(ROWS)[name]))) for name in NAMES
    )
    history = model.fit(ROWS, dict.fromkeys(NAMES, LABELS), batch_size=6, epochs=15, verbose=0)
    np.testing.assert_allclose(history.history["loss"][0], wanted, rtol=1e-5)
    assert history.history["loss"][-1] < 0.5 * wanted
    assert history.history["block1_sparse_categorical_accuracy_d8"][-1] > 0.8
    for weight, old in zip(backbone.weights, before, strict=True):
        assert np.abs(as_numpy(weight) - old).max() > 0, weight.path


def test_pairs_are_compared_at_every_layer():
    backbone = nested()
    model = sentence_pairs(backbone, DIMS, temperature=0.5)
    sides = {
        f"{side}_{name}": value for side in ("first", "second") for name, value in ROWS.items()
    }
    sides["second_tokens"] = sides["second_tokens"][::-1].copy()
    outputs = model(sides)
    assert set(outputs) == {f"{kind}_{name}" for kind in ("similarity", "cosine") for name in NAMES}
    for name in NAMES:
        alone = sentence_pairs(backbone.encoder(name), DIMS, temperature=0.5)(sides)
        for kind, wanted in alone.items():
            np.testing.assert_allclose(
                as_numpy(outputs[f"{kind}_{name}"]), as_numpy(wanted), atol=1e-5
            )


def test_config_files_and_clones():
    arguments = {
        "network": network(), "layer_names": NAMES, "pooling": "mean", "width": 6,
    }  # fmt: skip
    check_every_argument_is_given(NestedLayers, arguments)
    model = NestedLayers(**arguments, name="nested")
    assert {**model.get_config(), "network": 0} == {
        **arguments, "network": 0, "name": "nested", "trainable": True
    }  # fmt: skip
    assert model.network.output_shape == arguments["network"].output_shape
    text = json.dumps(keras.saving.serialize_keras_object(model))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is NestedLayers
    assert {**again.get_config(), "network": 0} == {**model.get_config(), "network": 0}
    assert again.output_shape == model.output_shape
    loaded = save_and_load(model)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for other in (loaded, clone):
        for name, wanted in model(ROWS).items():
            np.testing.assert_array_equal(as_numpy(other(ROWS)[name]), as_numpy(wanted))
    inner = keras.Model(model.input, model(model.input)["block3"])  # as a layer of another model
    np.testing.assert_array_equal(
        as_numpy(save_and_load(inner)(ROWS)), as_numpy(model(ROWS)["block3"])
    )


def test_errors():
    with pytest.raises(ValueError, match=r"Received 'block9'; its outputs are \['last'\] and its"):
        nested(["block9"])
    with pytest.raises(ValueError, match=r"and none twice. Received \['block1', 'block1'\]"):
        nested(["block1", "block1"])
    with pytest.raises(ValueError, match="at least one layer, and none twice"):
        nested([])
    with pytest.raises(ValueError, match="choose one by `pooling='mean'`"):
        nested(pooling=None)
    with pytest.raises(ValueError, match="must be a functional or Sequential"):
        NestedLayers(keras.layers.Dense(2), ["a"])
    with pytest.raises(ValueError, match=r"must be one of \['block1', 'block3'\]. Received 'last'"):
        nested().encoder("last")
    with pytest.raises(ValueError, match="`output` must name one of the network's outputs"):
        pooled(nested())  # one of the layers must be chosen
    wide = network()
    wide = keras.Model(
        wide.input, {**wide.output, "wide": keras.layers.Dense(9)(wide.output["last"])}
    )
    with pytest.raises(ValueError, match=r"one width. Received \{'block1': 8, 'wide': 9\}"):
        NestedLayers(wide, ["block1", "wide"], pooling="mean")


def test_an_encoder_of_a_shared_linear_layer_is_cut_at_its_own_call():
    model = nested(width=6)
    for name in ("block1", "block3"):
        encoder = model.encoder(name)
        found = as_numpy(cut(encoder, 4)(ROWS))
        np.testing.assert_allclose(found, as_numpy(encoder(ROWS))[:, :4], atol=1e-6)
