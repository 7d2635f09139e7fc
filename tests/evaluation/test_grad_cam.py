"""Heat maps of toy models whose answer is known, and of the recipes' backbones."""

import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaDense
from mrl_keras.evaluation import grad_cam, overlay
from mrl_keras.models import image_backbone, image_classifier

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (3, 4, 6, 2)).astype("float32")
# Rows are channels, columns classes; the prefix 1 reads the first channel alone.
KERNELS = np.array([[2.0, -1.0]]), np.array([[1.0, -2.0], [3.0, 0.5]])


def toy(tokens=None):
    """Images -> the same as feature maps, or as tokens -> mean over positions -> known logits."""
    images = keras.Input((4, 6, 2))
    x = keras.layers.Activation("linear", name="maps")(images)
    if tokens:
        x = keras.layers.Reshape((24, 2), name="patches")(x)
        if tokens == "class token":
            x = keras.layers.ZeroPadding1D((1, 0), name="tokens")(x)
        x = keras.layers.GlobalAveragePooling1D()(x)
    else:
        x = keras.layers.GlobalAveragePooling2D()(x)
    head = MatryoshkaDense(2, [1, 2], name="head")
    model = keras.Model(images, head(x))
    for kernel, value in zip(head.kernels, KERNELS, strict=True):
        kernel.assign(value)
    return model


def expected(dim, label):
    kernel = KERNELS[[1, 2].index(dim)][:, label]
    heat = np.maximum(IMAGES[..., :dim] @ kernel, 0.0)
    return heat / heat.max(axis=(1, 2), keepdims=True)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(
    ("tokens", "layer"), [(None, "maps"), ("patches", "patches"), ("class token", "tokens")]
)
def test_a_linear_model_shows_its_kernel(dim, label, tokens, layer):
    heat = grad_cam(toy(tokens), IMAGES, layer, dim, classes=label)
    assert heat.dtype == np.float32
    np.testing.assert_allclose(heat, expected(dim, label), atol=1e-5)


class Subclassed(keras.Model):
    def __init__(self, outputs=lambda logits: logits):
        super().__init__()
        self.head = MatryoshkaDense(2, [1, 2], name="head")
        self.maps = keras.layers.Activation("linear", name="maps")
        self.pool, self.outputs_of = keras.layers.GlobalAveragePooling2D(), outputs

    def call(self, x):
        return self.outputs_of(self.head(self.pool(self.maps(x))))


def test_a_subclassed_model_shows_its_kernel():
    model = Subclassed()
    model(IMAGES)
    for kernel, value in zip(model.head.kernels, KERNELS, strict=True):
        kernel.assign(value)
    for dims in (None, [1, 2]):
        heat = grad_cam(model, IMAGES, "maps", 2, classes=1, nesting_dims=dims)
        np.testing.assert_allclose(heat, expected(2, 1), atol=1e-5)


def test_several_outputs_are_refused():
    functional = toy()
    functional = keras.Model(functional.input, {"logits": functional.output})
    for model in (Subclassed(lambda logits: {"logits": logits}), functional):
        with pytest.raises(ValueError, match="must give one tensor of logits .*'logits'"):
            grad_cam(model, IMAGES, "maps", 2, nesting_dims=[1, 2])


def test_classes_of_each_image_and_batches():
    model, named = toy(), [1, 0, 1]
    whole = grad_cam(model, IMAGES, "maps", 2, classes=named)
    for i, label in enumerate(named):
        np.testing.assert_allclose(whole[i], expected(2, label)[i], atol=1e-5)
    parts = grad_cam(model, IMAGES, "maps", 2, classes=named, batch_size=2)
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    guessed = np.asarray(model(IMAGES))[:, 1].argmax(axis=-1)
    np.testing.assert_array_equal(
        grad_cam(model, IMAGES, "maps", 2), grad_cam(model, IMAGES, "maps", 2, classes=guessed)
    )


def test_maps_are_resized_to_the_image_and_empty_ones_are_zero():
    images = keras.Input((4, 4, 1))
    x = keras.layers.AveragePooling2D(2, name="small")(images)
    head = MatryoshkaDense(1, [1])
    model = keras.Model(images, head(keras.layers.GlobalAveragePooling2D()(x)))
    head.kernels[0].assign([[1.0]])
    bright = np.zeros((2, 4, 4, 1))
    bright[0, :2, :2] = 1.0
    bright[1] = -1.0
    heat = grad_cam(model, bright, "small", 1, classes=0)
    assert heat.shape == (2, 4, 4)
    assert heat[0, 0, 0] == 1.0
    assert heat[0, 3, 3] == 0.0
    assert (np.diff(heat[0, 0]) <= 0).all()
    assert not heat[1].any()


def test_convolutional_backbones():
    keras.utils.set_random_seed(0)
    pictures = RNG.integers(0, 256, (2, 16, 16, 3)).astype("uint8")
    backbone = image_backbone("small_resnet", (16, 16, 3), width=8, filters=(4, 8))
    model = image_classifier(backbone, 3, [2, 4, 8])
    last = [x.name for x in model.layers if isinstance(x, keras.layers.ReLU)][-1]
    nested = keras.Model(
        images := keras.Input((16, 16, 3)),
        model.get_layer("head")(keras.Model(model.input, backbone.output, name="inner")(images)),
    )
    for dim in (2, 8):
        heat = grad_cam(model, pictures, last, dim, classes=1)
        assert heat.shape == (2, 16, 16)
        assert heat.min() >= 0.0
        assert heat.max() <= 1.0
        inner = grad_cam(nested, pictures, f"inner/{last}", dim, classes=1, nesting_dims=[2, 4, 8])
        np.testing.assert_allclose(inner, heat, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stage", "options"),
    [
        ("garden:vit", "block1", {"pooler": "gap"}),
        ("garden:vit", "block0", {"pooler": "token"}),
    ],
)
def test_vision_transformers_of_model_garden(name, stage, options):
    pytest.importorskip("official")
    keras.utils.set_random_seed(0)
    sizes = {"patch_size": 4, "hidden_size": 8, "num_layers": 2, "num_heads": 2, "mlp_dim": 16}
    backbone = image_backbone(name, (16, 16, 3), **sizes, **options)
    model = image_classifier(backbone, 3, [2, 8])
    garden = next(layer for layer in model.layers if hasattr(layer, "stage_layers"))
    pictures = RNG.integers(0, 256, (2, 16, 16, 3)).astype("uint8")
    before = np.asarray(model(pictures))
    maps = {
        (dim, label): grad_cam(model, pictures, f"{garden.name}/{stage}", dim, classes=label)
        for dim in (2, 8)
        for label in (0, 1)
    }
    for heat in maps.values():
        assert heat.shape == (2, 16, 16)
        assert 0.0 <= heat.min() <= heat.max() <= 1.0
    assert any(heat.max() > 0 for heat in maps.values())
    assert np.abs(maps[2, 0] - maps[2, 1]).max() > 0
    assert np.abs(maps[2, 0] - maps[8, 0]).max() > 0
    np.testing.assert_array_equal(np.asarray(model(pictures)), before)  # nothing stays hooked
    assert "call" not in garden.stage_layers(stage)[-1].__dict__
    np.testing.assert_allclose(
        maps[8, 1], by_finite_differences(model, garden, stage, pictures, 1), atol=2e-2
    )


def by_finite_differences(model, garden, stage, pictures, label):
    """Grad-CAM with the gradient's mean over positions measured: shift a channel everywhere.

    Shifting all patch tokens of a channel by e changes the logit by e times the sum of its
    gradients over the positions.
    """
    import tensorflow as tf

    layer, skip = garden.stage_layers(stage)[-1], 1 if garden.pooler == "token" else 0
    original, seen = layer.call, []

    def logits(shift):
        def call(*args, **kwargs):
            output = original(*args, **kwargs)
            seen.append(output.numpy())
            return output + tf.constant(shift, tf.float32)

        layer.__dict__["call"] = call
        found = np.asarray(model(pictures), "float64")[:, 1, label]
        del layer.__dict__["call"]
        return found

    logits(0.0)
    tokens = seen[0][:, skip:]
    weights = np.zeros((len(pictures), 8))
    for channel in range(8):
        shift = np.zeros((1, 16 + skip, 8))
        shift[:, skip:, channel] = 1e-2
        weights[:, channel] = (logits(shift) - logits(-shift)) / 2e-2
    heat = np.maximum((tokens * weights[:, None]).sum(axis=-1), 0.0).reshape(-1, 4, 4)
    largest = heat.max(axis=(1, 2), keepdims=True)
    heat = np.where(largest > 0, heat / np.where(largest > 0, largest, 1.0), 0.0)
    return tf.image.resize(heat[..., None], (16, 16))[..., 0].numpy()


def test_overlay_by_hand():
    grey = np.full((1, 1, 2, 1), 100.0)
    found = overlay(grey, [[[0.0, 1.0]]], strength=0.5)
    assert found.dtype == np.uint8
    assert found[0, 0].tolist() == [[50, 50, 50], [177, 177, 177]]
    colour = RNG.integers(0, 256, (2, 3, 3, 3))
    np.testing.assert_allclose(overlay(colour, np.zeros((2, 3, 3)), 0.0), colour, atol=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "map"}, r"has no layer 'map' for the path 'map'. It has .*'maps'"),
        ({"layer": "maps/x"}, "'maps' has no layer 'x' for the path 'maps/x'"),
        ({"layer": "head"}, r"grid of the image's proportions 4 x 6. It is \(3, 2, 2\)"),
        ({"dim": 3}, "must be one of the trained prefixes .* Received 3"),
        ({"classes": 2}, "from 0 to 1. Received"),
        ({"classes": [0, 1]}, "`classes` must be an int, or 3 ints"),
        ({"classes": 0.5}, "`classes` must be an int"),
        ({"nesting_dims": [2]}, r"must give \(batch, 1 prefixes, classes\)"),
        ({"images": IMAGES[:0]}, "at least one image"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
    ],
)
def test_errors(change, message):
    arguments = {"model": toy(), "images": IMAGES, "layer": "maps", "dim": 2}
    with pytest.raises(ValueError, match=message):
        grad_cam(**{**arguments, **change})


def test_more_errors():
    images = keras.Input((4, 6, 2))
    maps = keras.layers.Activation("linear", name="maps")
    pooled = keras.layers.GlobalAveragePooling2D()(maps(maps(images)))
    twice = keras.Model(images, MatryoshkaDense(2, [1, 2])(pooled))
    with pytest.raises(ValueError, match="'maps' must run once. It ran 2 times"):
        grad_cam(twice, IMAGES, "maps", 2)
    plain = keras.Model(images, keras.layers.Dense(2)(pooled))
    with pytest.raises(ValueError, match="has no `nesting_dims`. Give them"):
        grad_cam(plain, IMAGES, "maps", 2)
    with pytest.raises(ValueError, match="`images` must be .* and `heat_maps`"):
        overlay(np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match="values from 0 to 1"):
        overlay(np.zeros((1, 1, 1, 3)), [[[2.0]]])
