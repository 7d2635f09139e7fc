"""The ScaNN searcher as a resource of a SavedModel, built once, when the model is loaded."""

from __future__ import annotations

import uuid

import numpy as np
import tensorflow as tf

from mrl_keras.retrieval.partition.leaves import leaf_order
from mrl_keras.retrieval.scann.searcher import TENSOR_DTYPES, TENSOR_NAMES, scann_ops

# TensorsToScann takes what ScannToTensors gives, with the last part moved to the front.
_INPUT_ORDER = (TENSOR_NAMES[-1], *TENSOR_NAMES[:-1])

_BY_ROW = ("datapoint_to_token", "hashed_dataset", "int8_dataset", "dp_norms", "dataset")


class ScannParts(tf.Module):
    """The searcher's parts as variables: what the checkpoint holds of it.

    Their shapes are open, because the searcher's resource empties them once it is built.

    Args:
        shortlist: `mrl_keras.retrieval.ScannSearcher`.

    Attributes:
        order: int32 (rows,), leaf by leaf: row `i` of the parts is row `order[i]` of the shortlist.
    """

    def __init__(self, shortlist):
        super().__init__(name="scann_parts")
        tensors = shortlist.tensors()
        self.order = leaf_order(tensors["datapoint_to_token"])
        self.parts = {
            name: tf.Variable(
                tf.constant(_reorder(name, part, self.order), TENSOR_DTYPES[name]),
                shape=tf.TensorShape(None),
                trainable=False,
                name=name,
            )
            for name, part in tensors.items()
        }


def _reorder(name, part, order):
    """A part of the searcher with its rows in `order`; unchanged where it has no rows."""
    return part[order] if name in _BY_ROW and np.ndim(part) else part


class ScannResource(tf.saved_model.experimental.TrackableResource):
    """Builds the searcher in the SavedModel's init op; requests only look it up.

    TensorsToScann builds a searcher the first time that a shared name is used, and hands out the
    built one later without reading its inputs. So:

    - the name is explicit and unique for each export. Otherwise each signature would build a
      private searcher in its first request, and two indexes of one model would be mixed up;
    - `_initialize` runs in the init op, after the variables are restored and before the model is
      served. It then empties the part variables, which frees the second copy;
    - `handle` gives the op empty inputs. Were the searcher missing, the op would fail cleanly.

    Args:
        parts: `ScannParts` that the saved module tracks too: a resource does not save what its
            own attributes hold.
    """

    def __init__(self, parts: ScannParts):
        super().__init__(device="CPU")
        self._parts = parts
        self._name = f"mrl-scann-{uuid.uuid4().hex}"

    def _create_resource(self):
        # TrackableResource needs a handle of its own. The searcher lives under `_name`.
        return tf.raw_ops.MutexV2(shared_name=f"{self._name}-guard")

    def _initialize(self):
        variables = self._parts.parts
        handle = self._tensors_to_scann(variables[name].read_value() for name in _INPUT_ORDER)
        with tf.control_dependencies([handle]):
            for name in _INPUT_ORDER:
                variables[name].assign(tf.zeros([0], TENSOR_DTYPES[name]))

    def handle(self) -> tf.Tensor:
        """The searcher's handle, for the graph of a request."""
        with tf.device("CPU"):
            return self._tensors_to_scann(tf.zeros([], TENSOR_DTYPES[n]) for n in _INPUT_ORDER)

    def _tensors_to_scann(self, inputs):
        _, ops = scann_ops()
        return ops.tensors_to_scann(*inputs, shared_name=self._name)

    def _destroy_resource(self):
        # A session frees its resources by itself; this is for models loaded into Python.
        if not tf.executing_eagerly():
            tf.raw_ops.DestroyResourceOp(resource=self.handle(), ignore_lookup_error=True)
