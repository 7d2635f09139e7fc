import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from mrl_keras.data import read_columns, text_set

REAL = os.path.isdir(os.path.join(os.environ.get("TFDS_DATA_DIR", "missing"), "wikitext2_small"))


class MadeTexts(tfds.core.GeneratorBasedBuilder):
    """A TFDS set of texts and scores made here."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = {"text": text, "score": np.float32, "tokens": tfds.features.Sequence(text)}
        features = tfds.features.FeaturesDict(features)
        return self.dataset_info_from_configs(features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(5):
            yield i, {"text": f"Grüße {i}", "score": i / 2, "tokens": ["a"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    MadeTexts(data_dir=str(folder)).download_and_prepare()
    return str(folder)


def test_columns(folder):
    builder = text_set("made_texts", others=["score"], data_dir=folder)
    found = read_columns(builder, "train", ["text", "score"])
    assert found["text"].tolist() == [f"Grüße {i}" for i in range(5)]
    np.testing.assert_array_equal(found["score"], np.arange(5, dtype="float32") / 2)
    assert len(read_columns(builder, "train", ["text"], max_examples=2)["text"]) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"name": "nowhere"}, "No text set is named 'nowhere', neither in TFDS nor prepared in"),
        ({"texts": ["sentence"]}, r"must have the features \['sentence'\]. It has .*'score'"),
        ({"texts": ["score"]}, r"as texts \['score'\].* of these \['text'\] are texts"),
        ({"texts": ["tokens"]}, r"as texts \['tokens'\]"),
        ({"others": ["label"]}, r"must have the features \['text', 'label'\]"),
    ],
)
def test_sets_that_do_not_fit(folder, arguments, text):
    with pytest.raises(ValueError, match=text):
        text_set(**{"name": "made_texts", "data_dir": folder, **arguments})


def test_splits_that_do_not_fit(folder, monkeypatch):
    builder = text_set("made_texts", data_dir=folder)
    with pytest.raises(ValueError, match="'made_texts' has no split 'dev'. It has"):
        read_columns(builder, "dev", ["text"])
    monkeypatch.setattr(tfds.core.SplitInfo, "num_examples", 0)
    with pytest.raises(ValueError, match="split 'train' of 'made_texts' in .* is empty"):
        read_columns(builder, "train", ["text"])


def test_a_set_that_is_missing_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tfds.core.DatasetBuilder,
        "download_and_prepare",
        lambda self, **_: (_ for _ in ()).throw(ConnectionError("no network")),
    )
    with pytest.raises(ValueError, match=f"'lm1b' is not in {tmp_path}.* no network.*tfds build"):
        text_set("lm1b", data_dir=str(tmp_path))


def test_a_text_that_is_no_utf_8(folder, monkeypatch):
    builder = text_set("made_texts", data_dir=folder)
    broken = tf.data.Dataset.from_tensors({"text": b"\xff\xfe"})
    monkeypatch.setattr(type(builder), "as_dataset", lambda self, **_: broken)
    with pytest.raises(ValueError, match="'text' of example 0 of the split 'train'"):
        read_columns(builder, "train", ["text"])


@pytest.mark.skipif(not REAL, reason="TFDS_DATA_DIR holds no wikitext2_small")
def test_real_wikitext2():
    found = read_columns(text_set("wikitext2_small"), "validation", ["text"])
    assert len(found["text"]) == 712


def test_remote_folders_that_tfds_can_not_read(monkeypatch):
    with pytest.raises(ValueError, match="TFDS reads local folders, gs://, s3:// and az://"):
        text_set("made_texts", data_dir="ram://bucket/tfds")
    with pytest.raises(ValueError, match="`data_dir` must be a whole URL"):
        text_set("made_texts", data_dir="gs:/bucket/tfds")

    def builder(name, data_dir=None):
        raise RuntimeError("PermissionDeniedError: no right to gs://bucket/tfds\nmore")

    monkeypatch.setattr(tfds, "builder", builder)
    with pytest.raises(OSError, match=r"TFDS can't read 'made' in gs://bucket/tfds \(Perm.*tfds\)"):
        text_set("made", data_dir="gs://bucket/tfds")
    with pytest.raises(RuntimeError, match="no right"):
        text_set("made", data_dir="local")
