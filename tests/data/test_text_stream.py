import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from mrl_keras.data import (
    SPECIAL_PIECES,
    Sampling,
    TextSource,
    Wordpiece,
    masked_lm_stream,
    streamed_texts,
    text_set,
)

WORDS = [f"word{i:02d}" for i in range(40)]


class StreamedTexts(tfds.core.GeneratorBasedBuilder):
    """23 long texts made here, or 5 short ones of other words."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("long", "short")]

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        long = self.builder_config.name == "long"
        for i in range(23 if long else 5):
            yield i, {"text": f"t{i} " + " ".join(WORDS) if long else f"übung {i}"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    names = ("streamed_texts/long", "streamed_texts/short")
    for name in names:
        StreamedTexts(config=name.split("/")[1], data_dir=folder).download_and_prepare()
    return [
        TextSource(text_set(name, data_dir=folder), share=share)
        for name, share in zip(names, (3.0, 1.0), strict=True)
    ]


def take(dataset, count):
    return [
        (texts.numpy().tolist(), seeds.numpy()) for texts, seeds in itertools.islice(dataset, count)
    ]


def stream(sources, batch_size=4, characters=1000, shard=(0, 1), start_step=0):
    sampling = Sampling(3, *shard, start_step)
    return streamed_texts(sources, batch_size, characters, sampling, shuffle_buffer=8)


def test_sets_share_each_batch_and_every_document_comes_once_a_pass(sources):
    found = take(stream(sources), 20)
    for texts, _ in found:
        assert [text.startswith("übung".encode()) for text in texts] == [False] * 3 + [True]
    short = [texts[3] for texts, _ in found]
    for first in range(0, 20, 5):
        assert len(set(short[first : first + 5])) == 5
    long = [text.split()[0] for texts, _ in found for text in texts[:3]][:46]
    assert len(set(long[:23])) == len(set(long[23:])) == 23
    assert long[:23] != long[23:]
    seeds = np.concatenate([seeds for _, seeds in found])
    assert len(np.unique(seeds, axis=0)) == 80  # no two windows are drawn alike


@pytest.mark.slow
def test_any_step_can_be_the_first(sources):
    whole = take(stream(sources, characters=60), 12)
    for (a, b), (c, d) in zip(
        whole[5:], take(stream(sources, characters=60, start_step=5), 7), strict=True
    ):
        assert a == c
        np.testing.assert_array_equal(b, d)


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.slow
def test_the_global_seed_does_not_matter(sources, seed):
    whole = take(stream(sources), 8)
    tf.random.set_seed(seed)
    try:
        again = take(stream(sources), 8)
    finally:
        tf.random.set_seed(None)
    assert [texts for texts, _ in again] == [texts for texts, _ in whole]


def test_windows_are_whole_words_from_anywhere(sources):
    batches = take(stream(sources[:1], 8, 60), 12)
    texts = [text.decode() for batch, _ in batches for text in batch]
    firsts = {text.split()[0] for text in texts}
    assert firsts <= {*WORDS, *(f"t{i}" for i in range(23))}
    assert len(firsts) > 20
    assert max(len(text) for text in texts) <= 60


def test_workers_read_different_documents(sources):
    shards = [take(stream(sources[:1], 2, shard=(i, 2)), 5) for i in range(2)]
    names = [{t.split()[0] for texts, _ in shard for t in texts} for shard in shards]
    assert names[0].isdisjoint(names[1])


@pytest.mark.slow
def test_masked_batches_of_a_stream(sources):
    wordpiece = Wordpiece([*SPECIAL_PIECES, *WORDS], length=16)
    inputs, labels, weights = next(iter(masked_lm_stream(stream(sources[:1]), wordpiece, 2)))
    assert inputs["input_word_ids"].shape == (4, 16)
    assert (labels.numpy()[weights.numpy() > 0] >= 5).all()
    np.testing.assert_array_equal(weights.numpy(), [[1.0, 1.0]] * 4)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"batch_size": 1}, "A batch of 1 rows has none for the share 1.0"),
        ({"characters": 0}, "`characters` must be at least 1"),
        ({"shard": (5, 2)}, "must be below the count 2"),
    ],
)
def test_refusals(sources, change, text):
    with pytest.raises(ValueError, match=text):
        stream(sources, **change)


def test_no_sets():
    with pytest.raises(ValueError, match="Each set needs a share above 0"):
        streamed_texts([], 4, 100)
