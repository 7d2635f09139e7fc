"""Embedders of raw texts and images; backbones of KerasHub with random weights."""

import keras
import numpy as np
import pytest

from mrl_keras.models import (
    MatryoshkaImageEmbedder,
    MatryoshkaTextEmbedder,
    embedders,
    small_convnet,
)
from tests.support import hub
from tests.support.contracts import as_numpy, save_and_load

keras_hub = pytest.importorskip("keras_hub")


def embedder(**options):
    keras.utils.set_random_seed(0)
    return MatryoshkaTextEmbedder(hub.bert(), hub.bert_preprocessor(), [2, 4, 8], **options)


@pytest.fixture(scope="module")
def trained():
    """An embedder after a training on pairs, the history, and the accuracy before."""
    model = embedder()
    model.compile(keras.optimizers.Adam(0.02))
    pairs = (hub.TEXTS * 4, hub.OTHERS * 4)
    options = {"batch_size": 4, "shuffle": False, "verbose": 0}
    history = model.fit(pairs, epochs=12, validation_data=pairs, **options).history
    return model, history


@pytest.mark.slow
def test_fits_on_pairs(trained):
    model, history = trained
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert {f"{val}in_batch_top1_d{dim}" for val in ("", "val_") for dim in (2, 4, 8)} < set(
        history
    )
    found = model.evaluate((hub.TEXTS, hub.OTHERS), batch_size=4, verbose=0, return_dict=True)
    np.testing.assert_allclose(found["loss"], history["val_loss"][-1], rtol=1e-4)
    near = model.encode(hub.TEXTS, dim=4) @ model.encode(hub.OTHERS, dim=4).T
    assert near.argmax(axis=1).tolist() == [0, 1, 2, 3]


@pytest.mark.slow
def test_encode_cuts_and_normalises(trained):
    model, _ = trained
    full = model.encode(hub.TEXTS, normalize=False, batch_size=3)
    tokens = model.preprocessor(hub.TEXTS)
    np.testing.assert_allclose(full, as_numpy(model(tokens)), atol=1e-6)
    np.testing.assert_allclose(model.predict(hub.TEXTS, verbose=0), full, atol=1e-6)
    np.testing.assert_allclose(model.predict_on_batch(np.array(hub.TEXTS)), full, atol=1e-6)
    cut = model.encode(hub.TEXTS, dim=3)
    lengths = np.linalg.norm(full[:, :3], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, full[:, :3] / lengths, atol=1e-6)
    assert model.encode("a cat").shape == (1, 8)
    assert model.encode([]).shape == (0, 8)
    with pytest.raises(ValueError, match="from 1 to 8. Received 9"):
        model.encode(["a"], dim=9)


@pytest.mark.slow
def test_presets_and_files(trained, tmp_path):
    model, _ = trained
    model.save_to_preset(str(tmp_path))
    expected = model.encode(hub.TEXTS)
    revived = MatryoshkaTextEmbedder.from_preset(str(tmp_path))
    np.testing.assert_allclose(revived.encode(hub.TEXTS), expected, atol=1e-6)
    assert list(revived.nesting_dims) == [2, 4, 8]
    plain = keras_hub.models.TextEmbedder.from_preset(str(tmp_path), normalize=False)
    np.testing.assert_allclose(
        plain.encode_text(hub.TEXTS, verbose=0), model.encode(hub.TEXTS, normalize=False), atol=1e-5
    )
    np.testing.assert_allclose(save_and_load(model).encode(hub.TEXTS), expected, atol=1e-6)
    with pytest.raises(ValueError, match="another class"):
        MatryoshkaImageEmbedder.from_preset(str(tmp_path))


def test_a_projection_is_in_the_preset(tmp_path):
    model = embedder(width=8, output="pooled_output")
    assert model.output_shape == (None, 8)
    keras.utils.set_random_seed(1)
    model = MatryoshkaTextEmbedder(hub.bert(), hub.bert_preprocessor(), [2, 6], width=6)
    model.save_to_preset(str(tmp_path))
    revived = MatryoshkaTextEmbedder.from_preset(str(tmp_path), lora_rank=2)
    np.testing.assert_allclose(revived.encode(hub.TEXTS), model.encode(hub.TEXTS), atol=1e-6)
    names = {weight.name for weight in revived.trainable_weights}
    assert names == {"lora_kernel_a", "lora_kernel_b", "kernel", "bias"}


def test_a_finished_text_embedder_of_keras_hub(tmp_path):
    task = keras_hub.models.BertTextEmbedder(hub.bert(), hub.bert_preprocessor())
    model = MatryoshkaTextEmbedder(task, nesting_dims=[4, 8])
    expected = task.encode_text(hub.TEXTS, verbose=0)
    np.testing.assert_allclose(model.encode(hub.TEXTS), expected, atol=1e-6)
    model.save_to_preset(str(tmp_path))
    revived = MatryoshkaTextEmbedder.from_preset(str(tmp_path))
    np.testing.assert_allclose(revived.encode(hub.TEXTS), expected, atol=1e-6)


@pytest.mark.slow
def test_scores_and_datasets():
    import tensorflow as tf

    model = embedder()
    model.compile("sgd", loss="cosent")
    model.fit((hub.TEXTS, hub.OTHERS), [4.0, 1.0, 3.0, 2.0], verbose=0)
    batches = tf.data.Dataset.from_tensor_slices(((hub.TEXTS, hub.OTHERS), [4.0, 1, 3, 2])).batch(2)
    model.fit(batches, verbose=0)
    model.compile("sgd")
    model.fit(batches.map(lambda pair, _: pair), verbose=0)
    with pytest.raises(ValueError, match="must have as many rows"):
        model.fit((hub.TEXTS, hub.OTHERS[:3]))
    with pytest.raises(ValueError, match="must be a pair"):
        model.fit(hub.TEXTS)
    with pytest.raises(ValueError, match="`loss` must be one of"):
        model.compile(loss="crossentropy")


@pytest.mark.slow
def test_images():
    model = MatryoshkaImageEmbedder(hub.vit(), nesting_dims=[4, 8])
    model.compile("sgd")
    model.fit((hub.images(4), hub.images(4, seed=1)), verbose=0)
    assert model.encode(hub.images(3), dim=4).shape == (3, 4)
    own = MatryoshkaImageEmbedder(small_convnet((8, 8, 1), 8, filters=(4,)), nesting_dims=[8])
    assert own.encode(np.zeros((2, 8, 8, 1))).shape == (2, 8)


def test_refusals():
    with pytest.raises(ValueError, match="`nesting_dims` must be prefix sizes"):
        MatryoshkaTextEmbedder(hub.bert(), hub.bert_preprocessor())
    with pytest.raises(ValueError, match="functional or Sequential keras.Model"):
        MatryoshkaTextEmbedder("bert", nesting_dims=[8])
    own = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    with pytest.raises(ValueError, match=r"save\('NAME.keras'\)"):
        MatryoshkaTextEmbedder(own, nesting_dims=[8]).save_to_preset("nowhere")
    wrong = MatryoshkaTextEmbedder(hub.bert(), lambda texts: {"ids": texts}, [8])
    with pytest.raises(ValueError, match="'padding_mask'.*are missing"):
        wrong.encode(["a"])


def test_an_address_of_a_hub_is_no_folder(monkeypatch):
    asked = []

    def backbone(preset, *options, **more):
        asked.append(preset)
        raise ValueError("no network")

    monkeypatch.setattr(embedders, "hub_backbone", backbone)
    for address in ("hf://someone/some-bert", "kaggle://someone/bert/keras/small"):
        with pytest.raises(ValueError, match="no network"):
            MatryoshkaTextEmbedder.from_preset(address, nesting_dims=[4, 8])
    assert len(asked) == 2
