"""Small SavedModels with the kinds of signatures that exports have, without Keras."""

import json
import pathlib

import numpy as np
import tensorflow as tf

IDS = np.array([b"one", b"\xff\xfe", b"", "é".encode()], object)


class Served(tf.Module):
    """Signatures of features (batch, width), of words (batch,) and of an optional number."""

    def __init__(self, number, ballast, width, checked):
        super().__init__()
        self.number = tf.Variable(float(number))
        self.shape = [None, width] if checked else None
        self.ids = tf.Variable(IDS.tolist())
        # Random, so that every page of it is really there.
        self.ballast = tf.Variable(tf.random.uniform([ballast << 18])) if ballast else None
        features = tf.TensorSpec([None, width], tf.float32, name="features")
        words = tf.TensorSpec([None], tf.string, name="words")
        k = tf.TensorSpec([], tf.int32, name="k")

        @tf.function(input_signature=[features])
        def embed(features):
            return {"embedding": self._shaped(features)[:, :2] * self.number}

        @tf.function(input_signature=[features, k])
        def retrieve(features, k=tf.constant(3)):  # noqa: B008 (a SavedModel's default)
            k = tf.clip_by_value(k, 1, len(IDS))
            scores, rows = tf.math.top_k(self._shaped(features), k)
            found = {"ids": tf.gather(self.ids, rows), "scores": scores, "indices": rows}
            return found | {"certified": scores[:, 0] > 0.5}

        @tf.function(input_signature=[words])
        def read(words):
            found = {"copy_bytes": words, "length": tf.strings.length(words)}
            return found | {"version": tf.fill(tf.shape(words), self.number)}

        functions = {"embed": embed, "retrieve": retrieve, "read": read}
        self.served = functions | {"serving_default": embed}

    def _shaped(self, features):
        return tf.ensure_shape(features, self.shape) if self.shape else features


def write_model(folder, version, number=None, ballast=0, width=4, checked=True, custom_ops=()):
    """Writes `folder`/`version` whole, by a rename, as an export does.

    Args:
        folder: `pathlib.Path` of the model.
        version: int.
        number: what its answers show. Default: the version.
        ballast: MiB of a variable that does nothing.
        width: of the features.
        checked: whether the graph checks the width of features.
        custom_ops: what the manifest says of them.
    """
    module = Served(version if number is None else number, ballast, width, checked)
    whole, part = folder / str(version), folder / f".tmp-{version}"
    tf.saved_model.save(module, str(part), signatures=module.served)
    extra = part / "assets.extra"
    extra.mkdir()
    manifest = {"format_version": 1, "name": folder.name, "custom_ops": list(custom_ops)}
    (extra / "manifest.json").write_text(json.dumps(manifest))
    part.rename(whole)
    return whole


def damage(version):
    """The variables of a version lose their second half."""
    (file,) = pathlib.Path(version).glob("variables/*.data-*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
