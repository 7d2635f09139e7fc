import keras
import numpy as np
import pytest

from mrl_keras.models.backbones.resnet import IMAGENET_DEVIATION, IMAGENET_MEAN, Blur, resnet
from mrl_keras.models.backbones.small_resnet import small_resnet
from tests.support.contracts import as_numpy, save_and_load

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 33, 48, 3)).astype("uint8")


def test_resnet50_has_torchvisions_number_of_weights():
    model = resnet()
    assert model.output_shape == (None, 2048)
    trained = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert trained == 25_557_032 - 2048 * 1000 - 1000  # torchvision's resnet50 without its head


@pytest.mark.parametrize("blur_pool", [False, True])
def test_resnet_takes_any_size_and_survives_saving(blur_pool):
    model = resnet(blocks=(1, 2), filters=(4, 8), blur_pool=blur_pool)
    count = sum(isinstance(layer, Blur) for layer in model.layers)
    assert count == (1 if blur_pool else 0)  # the shortcut; 8 channels are too few to blur
    assert as_numpy(model(IMAGES[:, :, :33])).shape == (4, 32)
    expected = model.predict(IMAGES, verbose=0)
    np.testing.assert_array_equal(save_and_load(model).predict(IMAGES, verbose=0), expected)


def test_channels_are_normalised():
    model = resnet(blocks=(1,), filters=(4,))
    normal = keras.Model(model.input, model.layers[1].output)
    expected = (IMAGES - np.array(IMAGENET_MEAN)) / IMAGENET_DEVIATION
    np.testing.assert_allclose(as_numpy(normal(IMAGES)), expected, atol=1e-5)


def test_blur_is_a_binomial_filter_of_each_channel():
    x = RNG.standard_normal((2, 6, 7, 3)).astype("float32")
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    expected = sum(
        weights[i, j] * padded[:, i : i + 6, j : j + 7] for i in range(3) for j in range(3)
    )
    np.testing.assert_allclose(as_numpy(Blur()(x)), expected, atol=1e-5)


def test_resnet_errors():
    with pytest.raises(ValueError, match="one number for each stage"):
        resnet(blocks=(1, 1), filters=(4,))
    with pytest.raises(ValueError, match="must have three channels"):
        resnet((8, 8, 1))


@pytest.mark.parametrize("stem_strides", [1, 2])
def test_small_resnet_blocks_start_as_the_identity(stem_strides):
    model = small_resnet((16, 16, 3), 8, filters=(4, 6), blocks=2, stem_strides=stem_strides)
    assert model.output_shape == (None, 8)
    plain = [layer for layer in model.layers if isinstance(layer, keras.layers.Add)]
    assert len(plain) == 4
    x = RNG.integers(0, 256, (2, 16, 16, 3)).astype("uint8")
    for layer in plain:
        before, _ = layer.input
        probe = keras.Model(model.input, [before, layer.output])
        one, other = (as_numpy(value) for value in probe(x))
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="`stem_strides` must be 1 or 2"):
        small_resnet((16, 16, 3), 8, stem_strides=3)
    with pytest.raises(ValueError, match="`filters` must hold at least one stage"):
        small_resnet((16, 16, 3), 8, filters=())


def test_small_resnet_without_a_projection_gives_the_pooled_channels():
    model = small_resnet((16, 16, 3), 6, filters=(4, 6), projection=False)
    x = RNG.integers(0, 256, (2, 16, 16, 3)).astype("uint8")
    last = keras.Model(model.input, model.get_layer("embedding").input)
    expected = as_numpy(last(x)).mean((1, 2))
    np.testing.assert_allclose(as_numpy(model(x)), expected, atol=1e-6)
    assert expected.min() >= 0.0  # they come from a ReLU
    with pytest.raises(ValueError, match="the last of `filters`, 6 dims. Received width 8"):
        small_resnet((16, 16, 3), 8, filters=(4, 6), projection=False)
