"""Backbones of KerasHub, with random weights and small configs."""

import keras
import numpy as np
import pytest

from mrl_keras.models import (
    hub_backbone,
    hub_text_encoder,
    image_backbone,
    image_classifier,
    pooled,
)
from tests.support import hub
from tests.support.contracts import as_numpy

pytest.importorskip("keras_hub")
IDS = {
    "token_ids": np.array([[2, 6, 7, 3], [2, 6, 3, 0]]),
    "segment_ids": np.zeros((2, 4), "int32"),
    "padding_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]]),
}
BERT = {"vocabulary_size": 20, "max_sequence_length": 8, **hub.SMALL}


def test_outputs_are_pooled_by_name():
    backbone = hub.bert()
    outputs = {name: as_numpy(value) for name, value in backbone(IDS).items()}
    sequence = outputs["sequence_output"]
    mean = pooled(backbone, "mean", "sequence_output")
    np.testing.assert_allclose(as_numpy(mean(IDS))[1], sequence[1, :3].mean(axis=0), atol=1e-6)
    first = pooled(backbone, "cls", "sequence_output")
    np.testing.assert_allclose(as_numpy(first(IDS)), sequence[:, 0], atol=1e-6)
    one = pooled(backbone, output="pooled_output")
    np.testing.assert_allclose(as_numpy(one(IDS)), outputs["pooled_output"], atol=1e-6)
    with pytest.raises(ValueError, match="must name one.*'sequence_output' .None, None, 8"):
        pooled(backbone)
    with pytest.raises(ValueError, match="which is one embedding"):
        pooled(backbone, "mean", "pooled_output")
    with pytest.raises(ValueError, match="choose one by `pooling='mean'`"):
        pooled(backbone, output="sequence_output")
    with pytest.raises(ValueError, match="`pooling` must be one of"):
        pooled(backbone, "max", "sequence_output")


def test_vit_needs_a_pooling():
    backbone = hub.vit()
    with pytest.raises(ValueError, match=r"\(None, 5, 8\): choose one by `pooling='mean'`"):
        image_classifier(backbone, 3, [4, 8])
    model = image_classifier(backbone, 3, [4, 8], pooling="cls")
    head = model.get_layer("head")
    first = as_numpy(backbone(hub.images(2)))[:, 0]
    np.testing.assert_allclose(as_numpy(model(hub.images(2))), as_numpy(head(first)), atol=1e-5)


def test_image_backbone_by_class_and_by_preset(tmp_path):
    options = {"patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
    made = image_backbone("hub:ViTBackbone", (16, 16, 3), pooling="mean", **options)
    assert made.output_shape == (None, 8)
    backbone = hub.vit()
    backbone.save_to_preset(str(tmp_path))
    name = f"hub:{tmp_path}"
    with pytest.raises(ValueError, match="does not say how its images were scaled"):
        image_backbone(name, (16, 16, 3), pooling="mean")
    loaded = image_backbone(name, (16, 16, 3), pooling="mean", preprocessing="channels")
    mean, deviation = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    expected = as_numpy(backbone((hub.images(2) - mean) / deviation)).mean(axis=1)
    np.testing.assert_allclose(as_numpy(loaded(hub.images(2))), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"images of the shape \(32, 32, 3\) alone"):
        image_backbone(name, (32, 32, 3), pooling="mean", preprocessing="channels")


def test_freezing_lora_and_half_precision():
    frozen = hub_text_encoder("BertBackbone", width=4, freeze=True, **BERT)
    assert [w.path for w in frozen.trainable_weights] == ["embedding/kernel", "embedding/bias"]
    adapted = hub_text_encoder("BertBackbone", lora_rank=2, **BERT)
    names = {weight.name for weight in adapted.trainable_weights}
    assert names == {"lora_kernel_a", "lora_kernel_b", "bias"}  # of queries and values
    half = hub_text_encoder("BertBackbone", dtype="mixed_bfloat16", **BERT)
    assert half(IDS).dtype == "bfloat16"


def test_a_text_backbone_from_a_preset(tmp_path):
    backbone = hub.bert()
    backbone.save_to_preset(str(tmp_path))
    encoder = hub_text_encoder(str(tmp_path), pooling=None, output="pooled_output")
    expected = as_numpy(backbone(IDS)["pooled_output"])
    np.testing.assert_allclose(as_numpy(encoder(IDS)), expected, atol=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="does not take"):
        hub_backbone("BertBackbone", num_layers=1)
    with pytest.raises(ValueError, match="functional or Sequential"):
        pooled(keras.layers.Dense(2))
