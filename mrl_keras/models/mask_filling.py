"""Keras layers that answer "[MASK]": where it stands, and the likeliest pieces there."""

import keras
from keras import ops

from mrl_keras import lazy_tensorflow as tf
from mrl_keras.checks import whole_number
from mrl_keras.data.text.wordpiece import checked_vocabulary
from mrl_keras.registry import register


@register
class TokenPlaces(keras.layers.Layer):
    """The first places at which each row has a token.

    Args:
        token: int, the id to look for.
        count: int, places to give for each row.
        **kwargs: `name`.

    Input shape:
        Ids (batch, length), length static and at least `count`.

    Output shape:
        int32 (batch, count), ascending; -1 where a row has fewer.

    Example:

    >>> TokenPlaces(token=4, count=2)(np.array([[2, 4, 9, 4], [2, 9, 4, 3]])).numpy().tolist()
    [[1, 3], [2, -1]]
    """

    def __init__(self, token, count, **kwargs):
        super().__init__(**kwargs)
        self.token = whole_number(token, "`token`", least=0)
        self.count = whole_number(count, "`count`")

    def call(self, inputs):
        length = inputs.shape[1]
        left = ops.arange(length, 0, -1, dtype="int32")
        found = ops.where(ops.equal(inputs, self.token), left, 0)
        first, _ = ops.top_k(found, self.count)
        return ops.where(first > 0, length - first, -1)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((inputs.shape[0], self.count), "int32")

    def get_config(self):
        return {**super().get_config(), "token": self.token, "count": self.count}


@register
class TopPieces(keras.layers.Layer):
    """The likeliest pieces of each prefix, with their probabilities.

    Args:
        vocabulary: pieces, the first logits' names. Logits beyond them are left out.
        k: int, pieces to give. Default 5.
        **kwargs: `name`.

    Input shape:
        A list of logits (batch, positions, prefixes, units) and places (batch, positions), -1
        for an empty slot.

    Output shape:
        A dict of "pieces", strings, and "probabilities", float32, each (batch, positions,
        prefixes, k), and "positions", the places. Empty slots have "" and 0.

    Example:

    >>> from mrl_keras.data import SPECIAL_PIECES
    >>> logits = np.zeros((1, 1, 1, 7), "float32")
    >>> logits[..., 6] = 9.0
    >>> found = TopPieces([*SPECIAL_PIECES, "low", "high"], k=1)([logits, np.array([[3]])])
    >>> found["pieces"].numpy().tolist()
    [[[[b'high']]]]
    """

    def __init__(self, vocabulary, k=5, **kwargs):
        tf.require_backend("TopPieces")
        super().__init__(**kwargs)
        self._vocabulary = checked_vocabulary(vocabulary)
        self.k = whole_number(k, "`k`")
        if self.k > len(self._vocabulary):
            raise ValueError(
                f"`k` must not exceed the {len(self._vocabulary)} pieces. Received {self.k}."
            )

    vocabulary = property(lambda self: self._vocabulary, doc="Pieces, a tuple of str.")

    def call(self, inputs):
        logits, places = inputs
        logits = tf.cast(logits, tf.float32)[..., : len(self.vocabulary)]
        found = tf.math.top_k(tf.nn.softmax(logits), self.k)
        here = (tf.cast(places, tf.int32) >= 0)[:, :, None, None]
        pieces = tf.gather(tf.constant(self.vocabulary), found.indices)
        return {
            "pieces": tf.where(here, pieces, ""),
            "probabilities": tf.where(here, found.values, 0.0),
            "positions": tf.cast(places, tf.int32),
        }

    def compute_output_spec(self, inputs):
        logits, places = inputs
        shape = (*logits.shape[:-1], self.k)
        return {
            "pieces": keras.KerasTensor(shape, "string"),
            "probabilities": keras.KerasTensor(shape, "float32"),
            "positions": keras.KerasTensor(places.shape, "int32"),
        }

    def get_config(self):
        return {**super().get_config(), "vocabulary": list(self.vocabulary), "k": self.k}
