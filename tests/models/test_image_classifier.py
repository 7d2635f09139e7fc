import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaLoss
from mrl_keras.models import image_classifier, small_convnet
from tests.support.contracts import as_numpy, save_and_load

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 17, (8, 8, 8, 1)).astype("uint8")
LABELS = RNG.integers(0, 3, 8)


def backbone():
    return small_convnet((8, 8, 1), width=8, max_value=16, filters=(4, 4))


@pytest.mark.parametrize("efficient", [False, True])
@pytest.mark.slow
def test_trains_saves_and_reloads(efficient):
    model = image_classifier(backbone(), 3, [2, 4, 8], efficient=efficient)
    assert model.output_shape == (None, 3, 3)
    inner = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss=MatryoshkaLoss(inner))
    losses = model.fit(IMAGES, LABELS, epochs=10, batch_size=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    revived = save_and_load(model)
    np.testing.assert_array_equal(
        revived.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0)
    )


def test_raw_pixels_are_scaled_by_the_largest_value():
    model = backbone()
    bright = small_convnet((8, 8, 1), width=8, max_value=32, filters=(4, 4))
    bright.set_weights(model.get_weights())
    doubled = as_numpy(bright(2.0 * IMAGES.astype("float32")))
    np.testing.assert_allclose(doubled, as_numpy(model(IMAGES)), atol=1e-6)


def test_fixed_feature_baseline_reads_its_prefix_only():
    base = backbone()
    model = image_classifier(base, 3, [2])
    assert model.output_shape == (None, 1, 3)
    embedding = as_numpy(base(IMAGES))
    head = model.get_layer("head")
    expected = embedding[:, :2] @ as_numpy(head.kernels[0]) + as_numpy(head.biases[0])
    np.testing.assert_allclose(as_numpy(model(IMAGES))[:, 0], expected, atol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match=r"must end at the embedding width 8.*\[2, 4\]"):
        image_classifier(backbone(), 3, [2, 4])
    with pytest.raises(ValueError, match=r"must not exceed the embedding width 8\. Received 16"):
        image_classifier(backbone(), 3, [16])
    patches = keras.Input((9, 4))
    vectors = keras.Model(patches, keras.layers.Dense(2)(patches))
    with pytest.raises(ValueError, match=r"end in an embedding .*\(None, 9, 2\).*pooling='mean'"):
        image_classifier(vectors, 3, [2])
    with pytest.raises(ValueError, match="`width` must be at least 1"):
        small_convnet((8, 8, 1), width=0)
