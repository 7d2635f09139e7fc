"""What an encoder takes: names and specs of its raw inputs, and calling it with them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import keras
import tensorflow as tf

RESERVED_NAMES = ("embedding", "dim", "k", "shortlist", "leaves")
_AUTOMATIC_NAME = re.compile(r"(keras_tensor|input_layer)(_\d+)?$")


class RawInputs:
    """The raw inputs of an encoder, by name.

    Args:
        encoder: Keras layer or model, raw inputs -> (batch, d) embedding.
        input_spec: `None`, a `tf.TensorSpec` or a mapping from names to specs; see
            `ServingOptions`.

    Attributes:
        specs: dict from input names to `tf.TensorSpec`, each with an open batch axis. A single
            input that has no name of its own is called "inputs".
        encode: `tf.function`, a dict of tensors by input name -> the encoder's embedding, as
            float32. Every signature calls it, so that a SavedModel holds one copy of the graph.

    Raises:
        ValueError: inputs that are not known, a batch axis that is fixed, or a name that the
            signatures use themselves.
    """

    def __init__(self, encoder, input_spec=None):
        self._encoder = encoder
        if input_spec is None:
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
        self._check()
        self.encode = tf.function(self._embed, input_signature=[dict(self.specs)])

    def _check(self):
        for name, spec in self.specs.items():
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
        return tf.cast(self._encoder(self.packed(tensors), training=False), tf.float32)

    def packed(self, tensors):
        """A dict of tensors by input name, as the encoder takes them."""
        flat = [tensors[name] for name in self.specs]
        if self._structure is None:
            return flat[0]
        return keras.tree.pack_sequence_as(self._structure, flat)


def _own_inputs(encoder):
    """(structure or None for one tensor, flat specs, names) of a functional encoder's inputs."""
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
