"""Images with captions: reading, drawing texts, streaming, errors."""

import collections
import itertools
import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from mrl_keras.data import (
    CaptionedImages,
    ImageStreamOptions,
    Sampling,
    caption_batches,
    caption_set,
    caption_texts,
    explain_image_errors,
    read_captioned,
    streamed_caption_batches,
)
from mrl_keras.data.image_text.pipeline import draw_texts, texts_of

REAL = os.path.isdir(os.path.join(os.environ.get("TFDS_DATA_DIR", "missing"), "emoji_captions"))
CAPTIONS = tuple(tuple(f"{row}{place}" for place in "abcde"[: 1 + row % 5]) for row in range(10))
DATA = CaptionedImages(
    np.broadcast_to(10 * np.arange(10, dtype="uint8")[:, None, None, None], (10, 8, 8, 3)), CAPTIONS
)


def take(dataset, count):
    """The first batches as (images, list of str)."""
    return [
        (x.numpy(), [text.decode() for text in y.numpy()])
        for x, y in itertools.islice(dataset, count)
    ]


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for (a, b), (c, d) in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, c)
        assert b == d


def batches(rows, *sampling):
    return caption_batches(DATA, rows, Sampling(*sampling), captions_per_text=3)


@pytest.fixture(scope="module")
def whole():
    return take(batches(4, 1), 9)


class TestArrays:
    def test_texts_are_captions_of_their_images(self):
        seen = collections.defaultdict(set)
        for images, texts in take(caption_batches(DATA, 10), 60):
            rows = images[:, 0, 0, 0] // 10
            assert sorted(rows) == list(range(10))
            for row, text in zip(rows, texts, strict=True):
                seen[row].add(text)
        assert all(seen[row] == set(texts) for row, texts in enumerate(CAPTIONS))

    def test_the_seed_decides_and_any_step_can_be_the_first(self, whole):
        assert_same(take(batches(4, 1, 0, 1, 5), 4), whole[5:])
        other = take(batches(4, 2), 9)
        assert any(a[1] != b[1] for a, b in zip(whole, other, strict=True))

    def test_workers_share_the_batch_of_one(self, whole):
        shards = [take(batches(2, 1, i, 2), 9) for i in range(2)]
        together = [(np.concatenate([a, c]), b + d) for (a, b), (c, d) in zip(*shards, strict=True)]
        assert_same(together, whole)

    @pytest.mark.slow
    def test_errors(self):
        with pytest.raises(ValueError, match="the split is empty"):
            caption_batches(CaptionedImages(DATA.images[:0], ()), 4)
        with pytest.raises(ValueError, match="`augment` must be one of .* Received 'mixup'"):
            caption_batches(DATA, 4, augment="mixup")
        with pytest.raises(ValueError, match="`captions_per_text` must be at least 1"):
            caption_batches(DATA, 4, captions_per_text=0)


def test_draw_texts():
    """Several captions, none twice, in any order; as many of them as there can be."""
    counts = tf.constant([1, 2, 4] * 200)
    captions = tf.constant([["a", "", "", ""], ["a", "b", "", ""], ["a", "b", "c", "d"]] * 200)
    seeds = tf.stack([tf.range(600, dtype=tf.int64), tf.ones(600, tf.int64)], axis=1)
    texts = [text.decode() for text in draw_texts(captions, counts, seeds, 3).numpy()]
    parts = [text.split(", ") for text in texts]
    assert set(texts[::3]) == {"a"}
    assert set(texts[1::3]) == {"a", "b", "a, b", "b, a"}
    assert all(len(part) == len(set(part)) <= 3 and "" not in part for part in parts)
    sizes = collections.Counter(len(part) for part in parts[2::3])
    assert all(abs(sizes[n] / 200 - 1 / 3) < 0.12 for n in (1, 2, 3))
    firsts = collections.Counter(part[0] for part in parts[2::3])
    assert all(abs(firsts[letter] / 200 - 1 / 4) < 0.12 for letter in "abcd")
    assert texts_of(["a", "b", "c"], 2) == ["a, b", "c"]


class Captioned(tfds.core.GeneratorBasedBuilder):
    """Made images of differing sizes, whose colour and captions tell the row."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "captions": tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()}),
            "title": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(10), "bare": self._generate_examples(11)}

    def _generate_examples(self, count):
        for i in range(count):
            texts = CAPTIONS[i] if i < 10 else ()
            captions = [{"id": n, "text": text} for n, text in enumerate(texts)]
            image = np.full((12 + i, 30 - i, 3), 10 * i, "uint8")
            yield i, {"image": image, "captions": captions, "title": f"title {i}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tfds"))
    Captioned(data_dir=path).download_and_prepare()
    return path


def test_reading(folder):
    builder = caption_set("captioned", "captions/text", folder)
    data = read_captioned(builder, "train", "captions/text", image_size=8)
    assert data.images.shape == (10, 8, 8, 3)
    rows = data.images[:, 0, 0, 0] // 10
    assert [data.captions[i] for i in np.argsort(rows)] == list(CAPTIONS)
    assert len(read_captioned(builder, "train", "captions/text", 8, max_examples=3)) == 3
    assert len(read_captioned(builder, "train", "captions/text", 8, max_examples=99)) == 10
    texts = [
        text.decode()
        for text in caption_texts(builder, "train", "captions/text").as_numpy_iterator()
    ]
    assert sorted(texts) == sorted(text for group in CAPTIONS for text in group)
    single = read_captioned(caption_set("captioned", "title", folder), "train", "title", 8)
    assert sorted(single.captions)[0] == ("title 0",)


@pytest.mark.slow
def test_stream(folder):
    builder = caption_set("captioned", "captions/text", folder)

    def stream(start_step=0):
        sampling = Sampling(1, start_step=start_step)
        options = ImageStreamOptions(8)
        return streamed_caption_batches(builder, "train", 5, options, sampling, "captions/text")

    dataset = stream()
    assert dataset.element_spec[0].shape == (5, 8, 8, 3)
    whole = take(dataset, 6)
    for images, texts in whole:
        assert images.shape == (5, 8, 8, 3)
        for row, text in zip(images[:, 0, 0, 0] // 10, texts, strict=True):
            assert text in CAPTIONS[row]
    assert {text[0] for _, texts in whole[:2] for text in texts} == set("0123456789")
    for seed, first in ((0, 0), (7, 3)):
        tf.random.set_seed(seed)  # the global seed changes nothing
        assert_same(take(stream(start_step=first), 6 - first), whole[first:])


def test_errors(folder):
    with pytest.raises(ValueError, match=r"'image' and 'text' .*It has \['captions', 'image', 'ti"):
        caption_set("captioned", "text", folder)
    with pytest.raises(ValueError, match="'captions/id' "):
        caption_set("captioned", "captions/id", folder)
    with pytest.raises(ValueError, match="differ in size .* Stream them"):
        caption_set("captioned", "title", folder, image_shape_needed=True)
    with pytest.raises(ValueError, match="No image-text set is named 'nowhere'"):
        caption_set("nowhere", data_dir=folder)
    builder = caption_set("captioned", "captions/text", folder)
    with pytest.raises(ValueError, match="needs a caption. In the split 'bare' .* 1 have none"):
        read_captioned(builder, "bare", "captions/text", 8)
    stream = streamed_caption_batches(
        builder, "bare", 11, ImageStreamOptions(8), captions="captions/text"
    )
    with (
        pytest.raises(ValueError, match="Image without captions: .*record"),
        explain_image_errors("captioned"),
    ):
        take(stream, 1)


@pytest.mark.skipif(not REAL, reason="TFDS_DATA_DIR holds no emoji_captions")
def test_real_images_with_captions():
    builder = caption_set("emoji_captions", image_shape_needed=True)
    train, test = (read_captioned(builder, split) for split in ("train", "test"))
    assert (train.images.shape, test.images.shape) == ((1102, 64, 64, 3), (275, 64, 64, 3))
    assert train.captions[0][:2] == ("railway car", "transportation")
