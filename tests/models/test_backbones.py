import keras
import numpy as np
import pytest

from mrl_keras.models import image_backbone, image_classifier

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")
TINY = {
    "small_convnet": {"width": 8, "filters": (4, 4)},
    "small_resnet": {"width": 8, "filters": (4, 4)},
    "resnet": {"blocks": (1, 1), "filters": (2, 2), "blur_pool": True},
    "applications:MobileNetV2": {"alpha": 0.35},
    "garden:resnet": {"model_id": 18, "depth_multiplier": 0.125},
    "garden:vit": {
        "patch_size": 8, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "mlp_dim": 8,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TINY)
def test_raw_images_to_an_embedding_and_a_classifier(name):
    if name.startswith("garden:"):
        pytest.importorskip("official")
    backbone = image_backbone(name, (32, 32, 3), **TINY[name])
    width = backbone.output_shape[-1]
    embedding = np.asarray(backbone(IMAGES, training=False))
    assert embedding.shape == (2, width)
    assert np.isfinite(embedding).all()
    model = image_classifier(backbone, 3, [width // 2, width])
    assert model(IMAGES).shape == (2, 2, 3)


def test_a_foreign_network_sees_normalised_pixels():
    backbone = image_backbone("applications:MobileNetV2", (32, 32, 3), alpha=0.35)
    normalised = np.asarray(backbone.layers[1](IMAGES.astype("float32")))
    expected = (IMAGES[0, 0, 0] - np.array([123.675, 116.28, 103.53])) / [58.395, 57.12, 57.375]
    np.testing.assert_allclose(normalised[0, 0, 0], expected, rtol=1e-4)


def test_keras_hub_backbones_plug_in():
    hub = pytest.importorskip("keras_hub")
    network = hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block",
        image_shape=(32, 32, 3),
    )  # fmt: skip
    images = keras.Input((32, 32, 3))
    embedding = keras.layers.GlobalAveragePooling2D()(network(images))
    model = image_classifier(keras.Model(images, embedding), 3, [8, 64])
    assert model(IMAGES.astype("float32")).shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("resnet51", {}, r"name must be one of \['small_convnet', .* Received 'resnet51'"),
        ("applications:ResNet51", {}, "Received 'applications:ResNet51'"),
        ("small_resnet", {"depth": 3}, "'small_resnet' does not take {'depth': 3}"),
    ],
)
def test_refusals(name, options, text):
    with pytest.raises(ValueError, match=text):
        image_backbone(name, (32, 32, 3), **options)
