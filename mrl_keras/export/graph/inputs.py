"""The raw inputs of an encoder: their names and specs, and the encoder called with them."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping

import keras
import tensorflow as tf

RESERVED_NAMES = ("embedding", "dim", "layer", "k", "shortlist", "leaves")
# Names of inputs that become argument names of a signature.
_SERVABLE_NAME = re.compile(r"(?!.*/$)[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
# What preprocessors of KerasHub read, by the part that reads it.
_RAW = {
    "tokenizer": tf.TensorSpec((None,), tf.string, name="text"),
    "image_converter": tf.TensorSpec((None, None, None, 3), tf.float32, name="images"),
}
_AUTOMATIC_NAME = re.compile(r"(keras_tensor|input_layer)(_\d+)?$")


class RawInputs:
    """The raw inputs of an encoder, by name.

    Args:
        encoder: Keras layer or model, raw inputs -> (batch, d) embedding.
        width: int, d.
        input_spec: `None`, a `tf.TensorSpec` or a mapping from names to specs; see
            `ServingOptions`. Of an encoder with a preprocessor, what the preprocessor reads.

    Attributes:
        width: int, d.
        specs: dict from input names to `tf.TensorSpec`, each with an open batch axis. A single
            input that has no name of its own is called "inputs".
        encode: `tf.function`, a dict of tensors by input name -> the encoder's embedding, as
            float32. Every signature calls it, so that a SavedModel holds one copy of the graph.

    Raises:
        ValueError: inputs that are not known, a batch axis that is fixed, a name that the
            signatures use themselves or that TensorFlow can't serve, several outputs, or an
            embedding of another width.
    """

    def __init__(self, encoder, width, input_spec=None):
        self._encoder, self.width = encoder, width
        self._prepare, raw = _raw_input(encoder)
        if input_spec is None and raw is not None:
            self._structure, flat, names = None, [raw], [raw.name]
        elif input_spec is None:
            self._structure, flat, names = _own_inputs(encoder)
        elif isinstance(input_spec, Mapping):
            names, flat = sorted(input_spec), [input_spec[name] for name in sorted(input_spec)]
            self._structure = dict.fromkeys(names)
        else:
            self._structure, flat, names = None, [input_spec], ["inputs"]
        self.specs = {
            name: tf.TensorSpec(spec.shape, spec.dtype, name=name)
            for name, spec in zip(names, flat, strict=True)
        }
        self._check_specs()
        self.encode = tf.function(self._embed, input_signature=[dict(self.specs)])
        self._several = None
        shape = self.encode.get_concrete_function().structured_outputs.shape
        if self._several is not None:
            raise ValueError(
                f"The encoder must give one tensor (batch, {width}). Its outputs are a "
                f"{self._several}. Pick one, such as "
                "`keras.Model(encoder.inputs, encoder.output[NAME])`."
            )
        if shape.rank != 2 or shape[1] != width:
            raise ValueError(
                f"The encoder must give embeddings (batch, {width}), the width at which the "
                f"nesting dims end. Its output shape is {shape}."
            )

    def _check_specs(self):
        arguments = {"dim": "dim", "layer": "layer"}  # inputs of `embed_dim` and `embed_layer`
        for name, spec in self.specs.items():
            _check_name(name, arguments)
            if name in RESERVED_NAMES:
                raise ValueError(
                    f"An input of the encoder must not be called {name!r}, which the signatures "
                    f"use themselves ({', '.join(RESERVED_NAMES)}). Rename it in `keras.Input`, "
                    "or give `ServingOptions(input_spec={name: spec})`."
                )
            if spec.shape.rank is None or spec.shape.rank < 1 or spec.shape[0] is not None:
                raise ValueError(
                    f"The input {name!r} must have an open batch axis, such as (None, 32, 32, 3). "
                    f"Received the shape {spec.shape}."
                )

    def _embed(self, tensors):
        inputs = self.pack(tensors)
        if self._prepare is not None:
            inputs = self._prepare(inputs)
        output = self._encoder(inputs, training=False)
        if isinstance(output, (Mapping, list, tuple)):
            # Told after the trace, which would wrap an error's text.
            self._several = _described(output)
            return tf.zeros((0, self.width))
        return tf.cast(output, tf.float32)

    def pack(self, tensors):
        """A dict of tensors by input name in the structure that the encoder takes."""
        flat = [tensors[name] for name in self.specs]
        if self._structure is None:
            return flat[0]
        return keras.tree.pack_sequence_as(self._structure, flat)


def _check_name(name, arguments):
    """Refuses names that TensorFlow can't serve; `arguments` holds those before, {argument: name}.

    Raises:
        ValueError: such a name, or one that becomes the same argument as another.
    """
    advice = (
        "Rename it in `keras.Input`, or give `ServingOptions(input_spec={name: spec})`: letters, "
        "digits, '_', '.' and '-', and no '_' at the beginning."
    )
    if not _SERVABLE_NAME.fullmatch(name) or keyword.iskeyword(name) or name == "self":
        raise ValueError(
            f"An input of the encoder must have a name that a signature can have. Received "
            f"{name!r}. {advice}"
        )
    # As TensorFlow names a function's arguments.
    argument = re.sub(r"[^a-z0-9]", "_", name.lower())
    argument = argument if argument[0].isalpha() else f"arg_{argument}"
    other = arguments.setdefault(argument, name)
    if other != name:
        raise ValueError(
            f"The inputs of a signature must differ in more than case and signs. Received "
            f"{name!r} beside {other!r}. {advice}"
        )


def _described(outputs):
    """ "dict with 'a' (None, 8), 'b' (None, 4)", for an error's text."""
    named = outputs.items() if isinstance(outputs, Mapping) else enumerate(outputs)
    shown = (f"{name!r} {tuple(getattr(part, 'shape', ()))}" for name, part in named)
    return f"{'dict' if isinstance(outputs, Mapping) else 'list'} with {', '.join(shown)}"


def _raw_input(encoder):
    """(function, `tf.TensorSpec`) of an encoder that has a preprocessor; (None, None) without one.

    A task of KerasHub, or `MatryoshkaTextEmbedder` and the like, is called with what its
    preprocessor gives: a served one reads the raw inputs.
    """
    preprocessor = getattr(encoder, "preprocessor", None)
    if preprocessor is None:
        return None, None
    own = getattr(encoder, "raw_input", None)
    if own is not None:
        name, shape, dtype = own
        return encoder.prepared, tf.TensorSpec(shape, dtype, name=name)
    found = [spec for kind, spec in _RAW.items() if getattr(preprocessor, kind, None) is not None]
    if len(found) != 1:
        raise ValueError(
            f"The encoder {encoder.name!r} has a preprocessor {type(preprocessor).__name__}, which "
            "must read either texts or images to be exported with it. Set "
            "`encoder.preprocessor = None` to export the model behind it, with the inputs "
            f"{[tensor.name for tensor in encoder.inputs]}."
        )
    return preprocessor, found[0]


def _own_inputs(encoder):
    """(structure, flat specs, names) of a functional encoder's inputs; no structure for one."""
    flat = getattr(encoder, "inputs", None)
    if not flat:
        raise ValueError(
            f"The inputs of the encoder {type(encoder).__name__} are not known: only a functional "
            "or Sequential model with a `keras.Input` knows them. Give "
            "`options=ServingOptions(input_spec=tf.TensorSpec([None, ...], tf.float32))`, or a "
            "mapping from names to specs for several inputs."
        )
    names = [tensor.name for tensor in flat]
    if len(flat) == 1:
        names = ["inputs" if _AUTOMATIC_NAME.match(names[0]) else names[0]]
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in flat]
    return (None if len(flat) == 1 else encoder.input), specs, names
