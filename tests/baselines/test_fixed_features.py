"""FF-k: one model for each width, trained on training data alone."""

import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaLoss
from mrl_keras.baselines import FixedFeatures, slimmable_classifier, subnetwork
from mrl_keras.evaluation import knn_accuracy
from mrl_keras.models import image_backbone, image_classifier

RNG = np.random.default_rng(0)
LABELS = np.arange(24) % 3
IMAGES = (RNG.random((24, 8, 8, 3)) * 60 + 80 * LABELS[:, None, None, None]).astype("uint8")


def test_models_are_trained_one_by_one_and_share_nothing():
    keras.utils.set_random_seed(0)
    trained = []

    def train(dim):
        images = keras.Input((8, 8, 3))
        colours = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(images))
        backbone = keras.Model(images, keras.layers.Dense(dim)(colours))
        model = image_classifier(backbone, 3, [dim])
        inner = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.02), loss=MatryoshkaLoss(inner), jit_compile=False)
        model.fit(IMAGES, LABELS, batch_size=24, epochs=2, verbose=0)
        trained.append((dim, model))
        return lambda images: np.asarray(backbone(images))

    baseline = FixedFeatures(train).fit([2, 4])
    assert [dim for dim, _ in trained] == [2, 4]
    weights = [{id(w) for w in model.weights} for _, model in trained]
    assert not weights[0] & weights[1]
    for dim in (2, 4):
        found = baseline.transform(IMAGES, dim)
        assert found.shape == (24, dim)
        assert knn_accuracy(found, LABELS, found, LABELS, [dim], k=3)[dim] > 0.6
    assert len(trained) == 2  # asking trains nothing


def test_a_slimmable_network_has_the_same_interface():
    backbone = image_backbone("small_resnet", (8, 8, 3), width=8, filters=(4, 8))
    network = slimmable_classifier(backbone, 3, (0.5, 1.0))
    baseline = FixedFeatures(lambda dim: subnetwork(network, dim).predict_on_batch).fit([4, 8])
    assert [baseline.transform(IMAGES, dim).shape for dim in (4, 8)] == [(24, 4), (24, 8)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FixedFeatures(3), "`train` must be a function from a width"),
        (lambda: FixedFeatures(lambda dim: None).fit([2]), "For 2 it gave None"),
        (lambda: FixedFeatures(np.eye).fit([4, 2]), "must ascend"),
        (lambda: FixedFeatures(np.eye).transform(IMAGES, 2), "is not fitted. Call `fit` first"),
        (
            lambda: FixedFeatures(lambda dim: np.asarray).fit([2]).transform(np.eye(4), 2),
            r"\(examples, 2\).*\(4, 4\)",
        ),
        (
            lambda: FixedFeatures(lambda dim: np.asarray).fit([2]).transform(np.eye(3), 3),
            r"one of the fitted \[2\]. Received 3",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
