"""Models that train on pairs of raw inputs, which their preprocessors turn into tensors."""

import types

import keras
import numpy as np

from mrl_keras.files import atomic_file

# What a folder of `save_to_preset` holds beside the files of KerasHub.
CONFIG, WEIGHTS = "matryoshka.json", "matryoshka.npz"


class Untracked(types.SimpleNamespace):
    """What a model holds without being made of it: Keras tracks nothing in here."""


class TrainsOnPairs(keras.Model):
    """A model whose `fit` and `evaluate` train another one that shares its weights.

    A subclass has `_parts`, an `Untracked` whose `trained` is None until `compile` sets it.
    """

    def _named(self, pair):
        """{input of the trained model: tensor} of a pair of raw inputs."""
        raise NotImplementedError

    def fit(self, x=None, y=None, validation_data=None, **kwargs):
        """Trains on pairs of raw inputs.

        Args:
            x: (first, second), such as two lists of texts, or images and texts; each a list or
                array of raw inputs, of the same length. Or a `tf.data.Dataset` of batches (first,
                second) or ((first, second), y).
            y: scores (rows,), for a loss that reads them. Default None.
            validation_data: a dataset like `x`, or ((first, second), y) or (first, second). Default
                None.
            **kwargs: as of `keras.Model.fit`: `batch_size`, `epochs`, `callbacks` and so on.
                Callbacks see the model of pairs, which shares the weights.

        Returns:
            `keras.callbacks.History`.
        """
        if validation_data is not None:
            kwargs["validation_data"] = self._prepared_pairs(*_unpacked(validation_data))
        x, y = self._prepared_pairs(x, y)
        return self._trained().fit(x, y, **kwargs)

    def evaluate(self, x=None, y=None, **kwargs):
        """The loss and metrics on pairs, as `fit` takes them."""
        x, y = self._prepared_pairs(x, y)
        return self._trained().evaluate(x, y, **kwargs)

    def _trained(self):
        if self._parts.trained is None:
            self.compile()
        return self._parts.trained

    def _prepared_pairs(self, x, y):
        if hasattr(x, "element_spec"):
            return x.map(lambda *batch: self._labelled(*_unpacked(batch))), None
        if not isinstance(x, (list, tuple)) or len(x) != 2:
            raise ValueError(
                "`x` must be a pair (first, second) of raw inputs, such as two lists of texts, or "
                f"a tf.data.Dataset of such batches. Received {type(x).__name__}."
            )
        rows = [len(side) for side in x]
        if rows[0] != rows[1] or (y is not None and len(y) != rows[0]):
            raise ValueError(
                f"Both sides of the pairs, and scores, must have as many rows. Received {rows} "
                f"and {None if y is None else len(y)} scores."
            )
        named, y = self._labelled(tuple(x), y)
        named = {name: keras.ops.convert_to_numpy(value) for name, value in named.items()}
        return named, np.zeros(rows[0], "float32") if y is None else np.asarray(y)

    def _labelled(self, pair, y=None):
        """({input of the trained model: tensor}, y)."""
        named = self._named(pair)
        if y is None:
            y = keras.ops.zeros(keras.ops.shape(next(iter(named.values())))[:1])
        return named, y


def _unpacked(batch):
    """((first, second), y) of (first, second), ((first, second), y) or a dataset, which is x."""
    if isinstance(batch, tuple) and len(batch) == 2 and not isinstance(batch[0], tuple):
        return batch, None
    return batch if isinstance(batch, tuple) else (batch, None)


def write_variables(layer, path):
    """Writes the variables of one layer into a local .npz file."""
    stored = {}
    layer.save_own_variables(stored)
    arrays = {name: keras.ops.convert_to_numpy(value) for name, value in stored.items()}
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_variables(layer, path):
    """Assigns the variables of a layer that `write_variables` wrote."""
    with np.load(path) as arrays:
        layer.load_own_variables(dict(arrays))
