import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from mrl_keras.data import ImageStreamOptions, class_names, image_set, streamed_batches
from mrl_keras.data.image.imagenet_4k import (
    choose_images,
    imagenet_1k_synsets,
    imagenet_4k,
    imagenet_21k,
)

COUNTS = {"n00000001": 7, "n00000002": 5, "n00000003": 6, "n01440764": 9, "misc": 9}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Folders of made JPEG files; n01440764 is a class of ImageNet-1K."""
    folder = tmp_path_factory.mktemp("imagenet21k")
    rng = np.random.default_rng(0)
    for name, count in COUNTS.items():
        (folder / name).mkdir()
        (folder / name / "notes.txt").write_text("no image")
        for i in range(count):
            image = tf.io.encode_jpeg(rng.integers(0, 256, (20 + i, 24, 3)).astype("uint8"))
            (folder / name / f"{name}_{i}.JPEG").write_bytes(image.numpy())
    return folder


def test_the_rule(source):
    chosen = choose_images(source, train=4, query=2)
    assert list(chosen) == ["n00000001", "n00000003"]
    for parts in chosen.values():
        assert (len(parts["train"]), len(parts["query"])) == (4, 2)
        assert not set(parts["train"]) & set(parts["query"])
    assert choose_images(source, train=4, query=2) == chosen
    assert list(choose_images(source, excluded=[], train=5, query=1)) == [
        "n00000001", "n00000003", "n01440764"
    ]  # fmt: skip
    assert len(set(imagenet_1k_synsets())) == 1000


def test_builds_a_tfds_set_that_is_found_by_name_and_streams(source, tmp_path):
    builder = imagenet_4k(source, str(tmp_path), train=4, query=2)
    counts = {name: split.num_examples for name, split in builder.info.splits.items()}
    assert counts == {"train": 8, "query": 4}
    again = image_set("imagenet4k", str(tmp_path))
    assert class_names(again) == ("n00000001", "n00000003")
    chosen = choose_images(source, train=4, query=2)
    for split in counts:
        found = {
            (example["file_name"].decode(), example["label"])
            for example in tfds.as_numpy(again.as_dataset(split))
        }
        assert found == {
            (f"{synset}/{file.name}", label)
            for label, (synset, files) in enumerate(chosen.items())
            for file in files[split]
        }
    images, labels = next(iter(streamed_batches(again, "train", 8, ImageStreamOptions(16))))
    assert images.shape == (8, 16, 16, 3)
    assert sorted(labels.numpy()) == [0] * 4 + [1] * 4
    with pytest.raises(ValueError, match="holds Imagenet4k of other classes or sizes"):
        imagenet_4k(source, str(tmp_path), train=5, query=1)


def test_imagenet_21k_trains_on_all_other_images_of_its_classes(source, tmp_path):
    builder = imagenet_21k(source, str(tmp_path), least=6, query=2)
    counts = {name: split.num_examples for name, split in builder.info.splits.items()}
    assert counts == {"train": 5 + 4 + 7, "query": 6}
    assert class_names(image_set("imagenet21k", str(tmp_path))) == (
        "n00000001", "n00000003", "n01440764"
    )  # fmt: skip
    with pytest.raises(ValueError, match="`least` must be .* 3"):
        imagenet_21k(source, str(tmp_path), least=2, query=2)
    with pytest.raises(ValueError, match="No class of .*21k0 has 10 images or more; of 4 classes"):
        imagenet_21k(source, str(tmp_path), least=10, query=2)


def test_errors(source, tmp_path):
    with pytest.raises(ValueError, match="There is no folder .*missing"):
        choose_images(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"holds no class folders such as n01440764/\.$"):
        choose_images(tmp_path)
    (tmp_path / "n00000001.tar").touch()
    with pytest.raises(ValueError, match="Unpack its 1 archives"):
        choose_images(tmp_path)
    with pytest.raises(ValueError, match="has 1050 images or more; of 4 classes .* has 7"):
        choose_images(source)
    bad = tmp_path / "source" / "n00000009"
    bad.mkdir(parents=True)
    for i in range(2):
        (bad / f"{i}.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="Corrupt image: .*n00000009.*is no JPEG"):
        imagenet_4k(bad.parent, str(tmp_path / "tfds"), train=1, query=1)
