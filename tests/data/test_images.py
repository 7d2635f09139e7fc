import os

import numpy as np
import pytest
import sklearn.datasets
import tensorflow_datasets as tfds

from mrl_keras.data import load_images

REAL_CIFAR10 = os.path.isdir(os.path.join(os.environ.get("TFDS_DATA_DIR", "missing"), "cifar10"))


def test_digits_are_complete_disjoint_and_even_over_the_classes():
    data = load_images("digits")
    assert (data.image_shape, data.max_value, len(data.class_names)) == ((8, 8, 1), 16, 10)
    sizes = [len(split) for split in (data.train, data.validation, data.test)]
    assert sum(sizes) == 1797
    assert sizes[2] == 450
    assert sizes[1] == np.ceil(0.15 * (1797 - 450))
    assert data.train.images.dtype == np.uint8
    assert data.train.images.max() == 16
    everything = np.concatenate([data.train.images, data.validation.images, data.test.images])
    source = sklearn.datasets.load_digits().images[..., None]
    np.testing.assert_array_equal(sorted_rows(everything), sorted_rows(source))
    for split in (data.train, data.validation, data.test):
        share = np.bincount(split.labels, minlength=10) / len(split)
        assert np.abs(share - 0.1).max() < 0.015


def sorted_rows(images):
    """The images as rows in a canonical order: each image of the source appears once."""
    rows = images.reshape(len(images), -1).astype(int)
    return rows[np.lexsort(rows.T)]


def test_the_seed_decides_the_splits():
    first, same, other = (load_images("digits", seed=seed).test.labels for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


class MadeImages(tfds.core.GeneratorBasedBuilder):
    """A TFDS image set made here: 40 training and 12 test images of 6 x 6 x 3."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Image(shape=(None, None, 3))
        label = tfds.features.ClassLabel(names=["a", "b"])
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(40), "test": self._generate_examples(12)}

    def _generate_examples(self, count):
        rng = np.random.default_rng(count)
        for i in range(count):
            yield i, {"image": rng.integers(0, 256, (6, 6, 3)).astype("uint8"), "label": i % 2}


@pytest.fixture(scope="module")
def made_tfds(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    MadeImages(data_dir=folder).download_and_prepare()
    return folder


def test_tfds_set_by_name(made_tfds):
    data = load_images("made_images", made_tfds, image_size=4, validation_fraction=0.2)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [32, 8, 12]
    assert (data.image_shape, data.max_value, data.class_names) == ((4, 4, 3), 255, ("a", "b"))
    np.testing.assert_array_equal(np.bincount(data.validation.labels), [4, 4])
    few = load_images("made_images", made_tfds, image_size=4, max_examples=10)
    assert [len(few.train), len(few.validation), len(few.test)] == [8, 2, 10]


def test_images_of_differing_size_need_image_size(made_tfds):
    with pytest.raises(ValueError, match=r"'made_images' differ in size .* Give `image_size`"):
        load_images("made_images", made_tfds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "no_such_set"}, "No image classification set is named 'no_such_set'"),
        ({"validation_fraction": 0.0}, "`validation_fraction` must lie between 0 and 1"),
        ({"image_size": 0}, "`image_size` must be at least 1"),
        ({"max_examples": -1}, "`max_examples` must be at least 1"),
        ({"validation_fraction": 0.0001}, "Cannot hold out 0% of 1347 examples evenly"),
    ],
)
def test_errors(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_images(**{"data_dir": str(tmp_path), **arguments})


@pytest.mark.skipif(not REAL_CIFAR10, reason="TFDS_DATA_DIR holds no cifar10")
def test_real_cifar10():
    data = load_images("cifar10", max_examples=500)
    assert data.image_shape == (32, 32, 3)
    assert [len(data.train), len(data.validation), len(data.test)] == [425, 75, 500]
    assert data.class_names[:2] == ("airplane", "automobile")
