"""Encoders of KerasHub are exported with their preprocessors: the served model reads raw inputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.export import ServingOptions, export_saved_model, load
from mrl_keras.models import MatryoshkaTextEmbedder, pooled
from tests.support import hub

keras_hub = pytest.importorskip("keras_hub")
QUIET = ServingOptions(warmup_batch_sizes=())


def served(folder, encoder, dims=(4, 8), options=QUIET):
    path = export_saved_model(folder / "m", encoder, nesting_dims=dims, options=options)
    return load(path).signatures["embed"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wordpiece", "byte pairs", "sentencepiece"])
def test_an_embedder_reads_strings(kind, tmp_path):
    parts = {
        "wordpiece": lambda: (hub.bert(), hub.bert_preprocessor()),
        "byte pairs": hub.roberta,
        "sentencepiece": hub.albert,
    }
    embedder = MatryoshkaTextEmbedder(*parts[kind](), nesting_dims=[4, 8])
    texts = ["a cat", "cat a cat a", "cat at"]  # bytes that the small vocabulary has
    found = served(tmp_path, embedder, dims=None)(text=tf.constant(texts))["embedding"].numpy()
    np.testing.assert_allclose(found, embedder.encode(texts, normalize=False), atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.slow
def test_a_task_of_keras_hub_reads_strings(tmp_path):
    task = keras_hub.models.BertTextEmbedder(hub.bert(), hub.bert_preprocessor())
    embed = served(tmp_path, task, options=ServingOptions(warmup_batch_sizes=(2,)))
    found = embed(text=tf.constant(hub.TEXTS))["embedding"]
    np.testing.assert_allclose(found, task.encode_text(hub.TEXTS, verbose=0), atol=1e-5)


@pytest.mark.slow
def test_without_a_preprocessor_it_reads_tokens(tmp_path):
    task = keras_hub.models.BertTextEmbedder(hub.bert())
    embed = served(tmp_path, task)
    assert set(embed.structured_input_signature[1]) == {
        "token_ids", "segment_ids", "padding_mask"
    }  # fmt: skip


@pytest.mark.slow
def test_images_are_converted(tmp_path):
    backbone = hub.vit()
    converter = keras_hub.layers.ViTImageConverter(image_size=(16, 16), scale=1 / 255)
    encoder = pooled(backbone, "cls")
    encoder.preprocessor = keras_hub.models.ViTImageClassifierPreprocessor(converter)
    embed = served(tmp_path, encoder)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 24, 3)).astype("float32")
    expected = encoder(converter(images))
    np.testing.assert_allclose(embed(images=tf.constant(images))["embedding"], expected, atol=1e-5)


def test_a_preprocessor_of_several_inputs_is_refused(tmp_path):
    encoder = keras.Sequential([keras.Input((4,), name="pixels"), keras.layers.Dense(8)])
    encoder.preprocessor = keras.layers.Rescaling(1.0)
    with pytest.raises(ValueError, match="either texts or images.*preprocessor = None.*pixels"):
        served(tmp_path, encoder)
