"""Further encoders of raw inputs of their own, as of a dual encoder, over an exact index."""

import os
import pathlib
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from mrl_keras.export import ServingOptions, export_saved_model, load, load_manifest
from mrl_keras.export.versions import MODEL_FILE
from mrl_keras.export.warmup import FILE_NAME
from mrl_keras.models import NestedLayers
from mrl_keras.retrieval import NestedIndex, SearchPlan

RNG = np.random.default_rng(0)
PLAN = SearchPlan((8,), k=3)


def tower(name, width):
    inputs = keras.Input((width,), name=name)
    return keras.Model(inputs, keras.layers.Dense(8)(inputs))


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """An export of two towers with an index over the images, loaded."""
    base = tmp_path_factory.mktemp("towers")
    words, pixels = tower("words", 4), tower("pixels", 6)
    images = RNG.standard_normal((30, 6)).astype("float32")
    rows = pixels.predict(images, verbose=0)
    index = NestedIndex.build(rows, [4, 8])
    path = export_saved_model(
        base / "model",
        words,
        index=index,
        plan=PLAN,
        options=ServingOptions(
            encoders={"embed_text": words, "embed_image": pixels}, twin=True, warmup_batch_sizes=()
        ),
    )
    served = load(path)
    return types.SimpleNamespace(
        base=base, path=path, served=served, words=words, images=images, rows=rows, index=index
    )


def test_each_encoder_has_its_signature(towers):
    manifest, served = load_manifest(towers.path), towers.served
    assert manifest["encoders"] == ["embed_image", "embed_text"]
    assert manifest["signatures"]["embed_image"] == {"pixels": ["float32", [None, 6]]}
    assert manifest["normalization"]["embed_image"] is None
    texts = RNG.standard_normal((5, 4)).astype("float32")
    found = served.signatures["embed_text"](words=texts)["embedding"]
    np.testing.assert_allclose(found, towers.words.predict(texts, verbose=0), atol=1e-5)
    again = served.signatures["embed_image"](pixels=towers.images)["embedding"]
    np.testing.assert_allclose(again, towers.rows, atol=1e-5)
    nearest = served.signatures["retrieve"](words=texts)["indices"].numpy()[:, 0]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (found.numpy(), towers.rows)]
    np.testing.assert_array_equal(nearest, (unit[0] @ unit[1].T).argmax(axis=1))


def test_an_exact_model_needs_no_custom_op_and_no_twin(towers):
    assert os.listdir(towers.base) == ["model"]
    assert load_manifest(towers.path)["custom_ops"] == []
    assert not os.path.exists(os.path.join(towers.path, "assets.extra", FILE_NAME))
    queries = RNG.standard_normal((40, 8)).astype("float32")
    found = towers.served.signatures["retrieve_embeddings"](embedding=tf.constant(queries))
    np.testing.assert_array_equal(found["ids"], towers.index.search(queries, PLAN).ids)


@keras.saving.register_keras_serializable("tests")
class Finite(keras.layers.Layer):
    """Fails where its input is not finite: what ran is seen from outside."""

    def call(self, x):
        return tf.debugging.check_numerics(x, "the deep layer ran")


def test_a_layer_answers_alone(tmp_path):
    """`embed_layer` runs the first layer of at least the number, and nothing after it."""
    inputs = keras.Input((4,), name="words")
    shallow = keras.layers.Dense(8, name="layer2")(inputs)
    deep = keras.layers.Dense(8, name="layer4")(Finite(name="finite")(shallow))
    nested = NestedLayers(keras.Model(inputs, deep), ["layer2", "layer4"])
    encoder = nested.encoder("layer4")
    path = export_saved_model(
        tmp_path / "model",
        encoder,
        nesting_dims=[4, 8],
        options=ServingOptions(layers={4: encoder, 2: nested.encoder("layer2")}),
    )
    manifest, signatures = load_manifest(path), load(path).signatures
    assert manifest["layers"] == [2, 4]
    assert manifest["signatures"]["embed_layer"]["layer"] == ["int32", []]
    assert manifest["normalization"]["embed_layer"] is None
    assert "embed_layer" in manifest["warmed_signatures"]
    words = RNG.standard_normal((3, 4)).astype("float32")
    wanted = {name: np.asarray(one) for name, one in nested(words).items()}
    for asked, name in ((-1, "layer2"), (2, "layer2"), (3, "layer4"), (4, "layer4"), (9, "layer4")):
        found = signatures["embed_layer"](words=words, layer=tf.constant(asked))["embedding"]
        np.testing.assert_allclose(found, wanted[name], atol=1e-6)
    saved = saved_model_pb2.SavedModel.FromString(pathlib.Path(path, MODEL_FILE).read_bytes())
    (default,) = saved.meta_graphs[0].signature_def["embed_layer"].defaults.values()
    assert int(tf.make_ndarray(default)) == 4
    broken = np.full((3, 4), np.nan, "float32")
    signatures["embed_layer"](words=broken, layer=tf.constant(2))
    with pytest.raises(tf.errors.InvalidArgumentError, match="the deep layer ran"):
        signatures["embed_layer"](words=broken, layer=tf.constant(4))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({1: tower("pixels", 4)}, "must take the raw inputs of the exported encoder.*of layer 1"),
        ({0: tower("words", 4)}, "Each of `layers` must be"),
        (
            {1: keras.Sequential([keras.Input((4,)), keras.layers.Dense(7)])},
            r"must give embeddings \(batch, 8\)",
        ),
    ],
)
def test_errors_of_layers(layers, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        options = ServingOptions(layers=layers)
        export_saved_model(tmp_path / "m", tower("words", 4), nesting_dims=[8], options=options)


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ({"embed": tower("pixels", 6)}, "no other signature has.* Received 'embed'"),
        ({"twice": tower("pixels", 6)}, "no other signature has.* Received 'twice'"),
        (
            {"embed_image": keras.Sequential([keras.Input((6,)), keras.layers.Dense(7)])},
            r"must give embeddings \(batch, 8\).* shape is \(None, 7\)",
        ),
    ],
)
def test_errors(encoders, message, tmp_path):
    heads = {"twice": keras.layers.Dense(2)}
    with pytest.raises(ValueError, match=message):
        export_saved_model(
            tmp_path / "model",
            tower("words", 4),
            nesting_dims=[8],
            options=ServingOptions(encoders=encoders, heads=heads),
        )
    assert not (tmp_path / "model").exists() or not list((tmp_path / "model").iterdir())
