import itertools
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from mrl_keras.data import (
    ImageStreamOptions,
    LabelledImages,
    Sampling,
    array_batches,
    corrupt_images,
    evaluation_batches,
    explain_image_errors,
    image_set,
    read_split,
    streamed_batches,
)

RNG = np.random.default_rng(0)
DATA = LabelledImages(RNG.integers(0, 256, (10, 8, 8, 3)).astype("uint8"), np.arange(10))


def take(dataset, count):
    """The first batches as (images, labels) arrays."""
    return [(x.numpy(), y.numpy()) for x, y in itertools.islice(dataset, count)]


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for (a, b), (c, d) in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)


class TestArrays:
    def test_every_epoch_holds_every_example_once_in_its_own_order(self):
        labels = np.concatenate([y for _, y in take(array_batches(DATA, 4, Sampling(1)), 10)])
        epochs = labels.reshape(4, 10)
        for epoch in epochs:
            np.testing.assert_array_equal(np.sort(epoch), np.arange(10))
        assert len({tuple(epoch) for epoch in epochs}) == 4

    def test_images_stay_with_their_labels(self):
        for images, labels in take(array_batches(DATA, 4, augment=None), 5):
            np.testing.assert_array_equal(images, DATA.images[labels])

    @pytest.mark.slow
    def test_the_seed_decides_and_any_step_can_be_the_first(self):
        whole = take(array_batches(DATA, 4, Sampling(1)), 9)
        assert_same(take(array_batches(DATA, 4, Sampling(1)), 9), whole)
        assert_same(take(array_batches(DATA, 4, Sampling(1, start_step=5)), 4), whole[5:])
        other = take(array_batches(DATA, 4, Sampling(2)), 9)
        assert any((a[1] != b[1]).any() for a, b in zip(whole, other, strict=True))

    @pytest.mark.slow
    def test_workers_share_the_batch_of_one(self):
        whole = take(array_batches(DATA, 6, Sampling(1, start_step=2)), 5)
        shards = [
            take(array_batches(DATA, 2, Sampling(1, i, 3, start_step=2)), 5) for i in range(3)
        ]
        together = [
            tuple(np.concatenate(part) for part in zip(*rows, strict=True))
            for rows in zip(*shards, strict=True)
        ]
        assert_same(together, whole)

    def test_bfloat16_holds_every_pixel_value(self):
        exact, same = (
            take(array_batches(DATA, 10, dtype=dtype), 1)[0][0] for dtype in ("uint8", "bfloat16")
        )
        np.testing.assert_array_equal(same.astype("float32"), exact.astype("float32"))

    def test_evaluation_reads_all_once(self):
        batches = take(evaluation_batches(DATA, 4), 9)
        assert [len(y) for _, y in batches] == [4, 4, 2]
        np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), DATA.images)
        assert len(take(evaluation_batches(DATA, 4, drop_remainder=True), 9)) == 2
        assert take(evaluation_batches(DATA, 4, resolution=5), 1)[0][0].shape == (4, 5, 5, 3)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"batch_size": 0}, "`batch_size` must be at least 1"),
            ({"dtype": "int8"}, "`dtype` must be one of .* Received 'int8'"),
            ({"augment": "mixup"}, "`augment` must be one of .* Received 'mixup'"),
            ({"images": LabelledImages(DATA.images[:0], DATA.labels[:0])}, "the split is empty"),
        ],
    )
    def test_errors(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            array_batches(**{"images": DATA, "batch_size": 4, **arguments})
        empty = LabelledImages(DATA.images[:0], DATA.labels[:0])
        with pytest.raises(ValueError, match="the split is empty"):
            evaluation_batches(empty, 4)


class StreamedImages(tfds.core.GeneratorBasedBuilder):
    """Made images of differing sizes; the colour tells the class."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=23),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(23), "empty": self._generate_examples(4)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": np.full((12 + i, 30 - i, 3), 10 * i, "uint8"), "label": i}


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    config = tfds.download.DownloadConfig(num_shards=4)
    StreamedImages(data_dir=folder).download_and_prepare(download_config=config)
    (path,) = pathlib.Path(folder).rglob("dataset_info.json")
    info = json.loads(path.read_text())
    for split in info["splits"]:
        if split["name"] == "empty":
            split["shardLengths"] = ["0"] * len(split["shardLengths"])
    path.write_text(json.dumps(info))
    return image_set("streamed_images", folder)


def stream(builder, batch_size=4, resolution=8, seed=0, shard=(0, 1), start_step=0, **options):
    options = ImageStreamOptions(resolution, **options)
    sampling = Sampling(seed, *shard, start_step)
    return streamed_batches(builder, "train", batch_size, options, sampling)


@pytest.fixture(scope="module")
def whole(streamed):
    return take(stream(streamed, seed=1), 14)


class TestStream:
    def test_every_epoch_holds_every_example_once(self, streamed):
        batches = take(stream(streamed, 23, shuffle_buffer=5), 3)
        orders = [tuple(y) for _, y in batches]
        assert len(set(orders)) == 3
        for images, labels in batches:
            np.testing.assert_array_equal(np.sort(labels), np.arange(23))
            np.testing.assert_array_equal(images[:, 0, 0, 0], 10 * labels)

    @pytest.mark.parametrize("first", [3, 12])
    def test_any_step_can_be_the_first(self, streamed, whole, first):
        assert_same(take(stream(streamed, seed=1, start_step=first), 14 - first), whole[first:])

    def test_the_seed_decides(self, streamed, whole):
        assert (take(stream(streamed, seed=2), 1)[0][1] != whole[0][1]).any()

    @pytest.mark.parametrize(
        ("workers", "chosen"),
        [
            (2, (0, 1)),
            (6, (0, 5)),  # more workers than files
            pytest.param(6, range(6), marks=pytest.mark.slow),
        ],
    )
    def test_workers_read_different_examples(self, streamed, workers, chosen):
        sets = []
        for i in chosen:
            # Fewer examples than an epoch of one worker are each different.
            batches = take(stream(streamed, 3, shard=(i, workers)), 1)
            sets.append({label for _, labels in batches for label in labels})
        assert len(set.union(*sets)) == 3 * len(chosen)

    @pytest.mark.slow
    def test_resolution_changes_at_its_step_and_is_static_where_one_is_left(self, streamed):
        stages = [(0, 8), (3, 16)]
        sizes = [x.shape[1] for x, _ in take(stream(streamed, resolution=stages), 5)]
        assert sizes == [8, 8, 8, 16, 16]
        later = stream(streamed, resolution=stages, start_step=2)
        assert [x.shape[1] for x, _ in take(later, 2)] == [8, 16]
        static = stream(streamed, resolution=stages, start_step=3, dtype="bfloat16")
        spec = static.element_spec[0]
        assert (spec.shape, spec.dtype) == ((4, 16, 16, 3), tf.bfloat16)

    def test_evaluation(self, streamed):
        batches = take(evaluation_batches(streamed, 10, "train", resolution=8), 9)
        labels = np.concatenate([y for _, y in batches])
        np.testing.assert_array_equal(np.sort(labels), np.arange(23))
        assert batches[0][0].shape == (10, 8, 8, 3)

    def test_errors(self, streamed):
        with pytest.raises(ValueError, match="has no split 'test'. It has .*'train'"):
            streamed_batches(streamed, "test", 4, ImageStreamOptions(8))
        with pytest.raises(ValueError, match="`dtype` must be one of .* Received 'int8'"):
            ImageStreamOptions(8, dtype="int8")
        with pytest.raises(ValueError, match="The split 'empty' of 'streamed_images' .* is empty"):
            streamed_batches(streamed, "empty", 4, ImageStreamOptions(8))


class Damaged(tfds.core.GeneratorBasedBuilder):
    """A set whose third image or label is wrong, by configuration."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=name) for name in ("garbage", "truncated", "label")
    ]

    def _info(self):
        label = tfds.features.ClassLabel(num_classes=4)
        features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": label}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": np.zeros((8, 8, 3), "uint8"), "label": i}


@pytest.fixture(scope="module", params=["garbage", "truncated", "label"])
def damaged(request, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("damaged"))
    Damaged(config=request.param, data_dir=folder).download_and_prepare()
    builder = image_set(f"damaged/{request.param}", folder)
    (path,) = builder.info.splits["train"].filepaths
    records = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
    feature = records[2].features.feature
    if request.param == "label":
        feature["label"].int64_list.value[0] = 7
    else:
        image = feature["image"].bytes_list.value
        image[0] = b"garbage" if request.param == "garbage" else image[0][:40]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record.SerializeToString())
    return request.param, builder


def test_damaged_data_is_one_clear_error(damaged):
    kind, builder = damaged
    wanted = {
        "garbage": r"Corrupt image, no JPEG, PNG, GIF or BMP file: .*tfrecord.*record 2",
        "truncated": r"Corrupt image in damaged: ",
        "label": r"Label out of range 0 to 3: 7 in .*tfrecord.*record 2",
    }[kind]
    with pytest.raises(ValueError, match=wanted) as raised, explain_image_errors("damaged"):
        take(stream(builder), 1)
    assert "\n" not in str(raised.value)
    in_memory = "Labels must lie between 0 and 3, .* has 7" if kind == "label" else (
        "Corrupt image in the split 'train' of 'damaged': .*tfrecord.*__2"
    )  # fmt: skip
    with pytest.raises(ValueError, match=in_memory):
        read_split(builder, "train")
    found = [name for name, _ in corrupt_images(builder, "train")]
    assert len(found) == (kind != "label")


class Undownloadable(tfds.core.GeneratorBasedBuilder):
    """A set whose archives are not there."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(num_classes=2)
        features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": label}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        raise AssertionError("Manual directory does not exist or is empty")

    def _generate_examples(self):
        yield from ()


def test_a_missing_set_says_where_it_looked_and_how_to_prepare_it(tmp_path):
    wanted = rf"'undownloadable' is not in {tmp_path}.*Manual directory.*`tfds build"
    with pytest.raises(ValueError, match=wanted):
        image_set("undownloadable", str(tmp_path))
    with pytest.raises(ValueError, match=rf"named 'nowhere', neither .* in {tmp_path}"):
        image_set("nowhere", str(tmp_path))
