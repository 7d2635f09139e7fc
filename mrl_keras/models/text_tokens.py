"""BERT's tokenizer as a Keras layer, so that a model takes raw text."""

import keras

from mrl_keras import lazy_tensorflow as tf
from mrl_keras.data.text.wordpiece import Wordpiece
from mrl_keras.registry import register


@register
class BertTokens(keras.layers.Layer):
    """Raw text as BERT's inputs: "[CLS]", the text's pieces, "[SEP]", "[PAD]" to a fixed length.

    The vocabulary is part of the layer's config and of an exported graph: neither needs a file.
    Whoever loads an exported model needs tensorflow-text's ops: `mrl_keras.export.load` imports
    them, any other program imports tensorflow_text first, and TF Serving must link them.
    TPUs and XLA know no strings: train on tokens that the input pipeline makes (`Wordpiece`),
    and put this layer in front of the trained model.

    Args:
        vocabulary: pieces, "[PAD]", "[UNK]", "[CLS]", "[SEP]" and "[MASK]" among them, such as
            `mrl_keras.data.learn_vocabulary` gives or a published BERT has.
        length: int, tokens of each text with "[CLS]" and "[SEP]", at least 3. Longer texts are
            cut off.
        lower_case: bool, lower the case and strip accents. Default True.
        kept: special pieces that are read as such where they stand in a text literally, such as
            ("[MASK]",). Default ().
        **kwargs: `name`.

    Input shape:
        Strings (batch,).

    Output shape:
        A dict of "input_word_ids", "input_mask" and "input_type_ids", each int32 (batch, length).

    Raises:
        ValueError: another Keras backend than TensorFlow, or an argument that `Wordpiece`
            refuses.
        ImportError: tensorflow-text is not installed.

    Example:

    >>> import keras
    >>> from mrl_keras.models import BertTokens
    >>> pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "low", "##er"]
    >>> text = keras.Input((), dtype="string", name="text")
    >>> model = keras.Model(text, BertTokens(pieces, length=5)(text)["input_word_ids"])
    >>> model(keras.ops.convert_to_tensor(["Lower", "high"])).numpy().tolist()
    [[2, 5, 6, 3, 0], [2, 1, 3, 0, 0]]
    """

    def __init__(self, vocabulary, length, lower_case=True, kept=(), **kwargs):
        super().__init__(**{"trainable": False, **kwargs})
        tf.require_backend("BertTokens")
        self._wordpiece = Wordpiece(vocabulary, length, lower_case, kept)
        # One traced function, whatever the number of callers: it holds the vocabulary's table.
        self._function = tf.function(
            self._wordpiece, input_signature=[tf.TensorSpec((None,), tf.string)]
        )
        self.supports_jit = False
        self._convert_input_args = False
        self.built = True

    vocabulary = property(lambda self: self._wordpiece.vocabulary, doc="Pieces, a tuple of str.")
    length = property(lambda self: self._wordpiece.length, doc="int, tokens of each text.")
    lower_case = property(lambda self: self._wordpiece.lower_case, doc="bool.")
    kept = property(lambda self: self._wordpiece.kept, doc="Special pieces, a tuple of str.")

    def call(self, inputs):
        return self._function(tf.convert_to_tensor(inputs, tf.string))

    def compute_output_shape(self, input_shape):
        names = ("input_word_ids", "input_mask", "input_type_ids")
        return dict.fromkeys(names, (input_shape[0], self.length))

    def compute_output_spec(self, inputs):
        shapes = self.compute_output_shape(inputs.shape)
        return {name: keras.KerasTensor(shape, "int32") for name, shape in shapes.items()}

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary": list(self.vocabulary),
            "length": self.length,
            "lower_case": self.lower_case,
            "kept": list(self.kept),
        }
