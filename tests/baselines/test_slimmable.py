"""Slimmable networks: slices of shared weights, and batch statistics of each width."""

import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaLoss
from mrl_keras.baselines import Slimmable, slimmable_classifier, slimmable_dims, subnetwork
from mrl_keras.models import image_backbone
from tests.support.contracts import as_numpy, run_layer_contract, save_and_load

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 8, 8, 3)).astype("uint8")
LABELS = np.arange(6) % 3
WIDTHS = (0.25, 0.5, 1.0)


def classifier(widths=WIDTHS, filters=(4, 8)):
    backbone = image_backbone("small_resnet", (8, 8, 3), width=8, filters=filters)
    return slimmable_classifier(backbone, 3, widths)


def test_contract():
    layer = keras.layers.Dense(5, activation="tanh")
    run_layer_contract(
        Slimmable, {"layer": layer, "slim_outputs": False}, RNG.random((4, 3)).astype("float32")
    )


def test_a_width_uses_the_first_channels():
    x = RNG.standard_normal((2, 5, 6, 4)).astype("float32")
    convolution = Slimmable(keras.layers.Conv2D(8, 3, strides=2, padding="same"))
    convolution.build(x.shape)
    convolution.layer.bias.assign(RNG.standard_normal(8))
    kernel, bias = (as_numpy(weight) for weight in convolution.weights)
    plain = keras.layers.Conv2D(2, 3, strides=2, padding="same")
    plain.build((None, 5, 6, 1))
    plain.set_weights([kernel[:, :, :1, :2], bias[:2]])
    np.testing.assert_allclose(
        as_numpy(convolution(x[..., :1], width=0.25)), as_numpy(plain(x[..., :1])), atol=1e-5
    )
    dense = Slimmable(keras.layers.Dense(6), slim_outputs=False)
    dense.build((None, 4))
    kernel, bias = (as_numpy(weight) for weight in dense.weights)
    rows = x[:, 0, 0]
    np.testing.assert_allclose(
        as_numpy(dense(rows[:, :2], width=0.5)), rows[:, :2] @ kernel[:2] + bias, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("small_resnet", {"filters": (4, 8), "width": 8}),
        ("small_resnet", {"filters": (4, 8), "width": 8, "projection": False}),
        ("small_convnet", {"filters": (4, 8), "width": 8}),
        ("resnet", {"blocks": (1, 1), "filters": (4, 8), "blur_pool": True}),
    ],
)
def test_full_width_is_the_backbone_and_each_width_runs_alone(name, options):
    backbone = image_backbone(name, (8, 8, 3), **options)
    model = slimmable_classifier(backbone, 3, WIDTHS)
    width = backbone.output_shape[-1]
    dims = slimmable_dims(width, WIDTHS)
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([RNG.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
            model.get_layer(f"{layer.name}_at_100").set_weights(layer.get_weights())
        elif layer.weights:
            model.get_layer(layer.name).layer.set_weights(layer.get_weights())
    np.testing.assert_allclose(
        as_numpy(subnetwork(model, width)(IMAGES)), as_numpy(backbone(IMAGES)), atol=1e-4
    )
    logits, head = as_numpy(model(IMAGES)), model.get_layer("head").layer
    for i, dim in enumerate(dims):
        alone = subnetwork(model, dim)
        embedding = as_numpy(alone(IMAGES))
        assert embedding.shape == (6, dim)
        expected = embedding @ as_numpy(head.kernel)[:dim] + as_numpy(head.bias)
        np.testing.assert_allclose(logits[:, i], expected, atol=1e-4)
        normal = [x for x in alone.layers if isinstance(x, keras.layers.BatchNormalization)]
        assert all(x.name.endswith(f"_at_{round(100 * WIDTHS[i])}") for x in normal)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_trains_and_survives_saving(compiled):
    model = classifier((0.25, 1.0), filters=(4,))
    inner = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss=MatryoshkaLoss(inner), jit_compile=compiled)
    model.fit(IMAGES, LABELS, batch_size=6, epochs=1, verbose=0)
    statistics = [w for w in model.non_trainable_weights if "moving_mean" in w.path]
    assert len(statistics) == 3 * 2
    assert all(np.abs(as_numpy(w)).max() > 0 for w in statistics)
    revived = save_and_load(model)
    expected = model.predict(IMAGES, verbose=0)
    np.testing.assert_array_equal(revived.predict(IMAGES, verbose=0), expected)
    assert subnetwork(revived, 2)(IMAGES).shape == (6, 2)


def test_weights_are_shared_but_for_batch_normalisation():
    counted = {widths: classifier(widths).count_params() for widths in (WIDTHS, (1.0,))}
    # 6 normalisations of 4 or 8 channels at the full width, 4 numbers for each channel.
    channels = sum([4] * 3 + [8] * 3)
    model = classifier()
    widest = [x for x in model.layers if x.name.endswith("_at_100") and x.weights]
    assert channels == sum(x.gamma.shape[0] for x in widest)
    assert counted[WIDTHS] - counted[(1.0,)] == round(4 * channels * (0.25 + 0.5))


def test_errors():
    with pytest.raises(ValueError, match=r"`widths` must end at 1.*\(0.25, 0.5\)"):
        slimmable_dims(64, (0.25, 0.5))
    with pytest.raises(ValueError, match="must not repeat a dim"):
        slimmable_dims(4, (0.45, 0.5, 1.0))
    with pytest.raises(ValueError, match="must be above 0 and at most 1. Received 0"):
        slimmable_dims(64, (0, 1.0))
    with pytest.raises(ValueError, match="leaves none of 4 channels"):
        slimmable_dims(4, (0.1, 1.0))
    with pytest.raises(ValueError, match="must be a keras.layers.Dense, or"):
        Slimmable(keras.layers.Conv2D(4, 3, groups=2))
    layer = Slimmable(keras.layers.Dense(4))
    layer.build((None, 2))
    with pytest.raises(ValueError, match=r"at most 2 channels.*\(1, 3\)"):
        layer(np.ones((1, 3), "float32"))
    with pytest.raises(ValueError, match=r"embedding_at_2.*Received dim=3"):
        subnetwork(classifier(), 3)
    images = keras.Input((8, 8, 3))
    depthwise = keras.layers.DepthwiseConv2D(3)(images)
    pooled = keras.layers.GlobalAveragePooling2D()(depthwise)
    with pytest.raises(ValueError, match="is made of Conv2D, Dense.*DepthwiseConv2D"):
        slimmable_classifier(keras.Model(images, pooled), 3, (1.0,))
    dense = keras.layers.Dense(3)
    with pytest.raises(ValueError, match="used once. Received"):
        slimmable_classifier(keras.Model(images, pooled_twice(images, dense)), 3, (1.0,))


def pooled_twice(images, dense):
    return keras.layers.GlobalAveragePooling2D()(dense(dense(images)))


def test_quantised_weights_are_refused():
    layer = Slimmable(keras.layers.Dense(4))
    x = np.ones((2, 3), "float32")
    layer(x)
    layer.layer.quantize("int8")
    with pytest.raises(ValueError, match="quantise a plain"):
        layer(x)


def test_channels_come_last():
    layer = keras.layers.Conv2D(4, 1, data_format="channels_first")
    with pytest.raises(ValueError, match="channels last"):
        Slimmable(layer)


def test_layers_keep_their_dtype():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, dtype="mixed_bfloat16", name="half")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(8, dtype="float32", name="whole")(x)
    model = slimmable_classifier(keras.Model(inputs, outputs), 3, [0.5, 1.0])
    names = {layer.name: layer.compute_dtype for layer in model._flatten_layers()}
    assert (names["half"], names["whole"]) == ("bfloat16", "float32")
