"""Plain `fit` under MultiWorkerMirroredStrategy, where Keras 3's own fails."""

from __future__ import annotations

import keras
import tensorflow as tf


class DistributedFit:
    """A mixin before `keras.Model` that makes `fit` and `evaluate` work on several workers.

    Keras 3 converts values of several replicas as if they were tensors, in two places: the logs
    of a step, and the first batch, from which it builds the model. Here each replica's logs are a
    tensor of one element, and the first replica's rows build the model. Under other strategies
    nothing changes.

    >>> class Model(DistributedFit, keras.Model):
    ...     pass
    >>> model = Model(x := keras.Input((3,)), keras.layers.Dense(2)(x))
    >>> model.output_shape
    (None, 2)
    """

    @property
    def _on_workers(self):
        return isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy)

    def train_step(self, data):
        return self._per_replica(super().train_step(data))

    def test_step(self, data):
        return self._per_replica(super().test_step(data))

    def _per_replica(self, logs):
        if not self._on_workers:
            return logs
        return {name: tf.reshape(value, [1]) for name, value in logs.items()}

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if iterator is not None and self._on_workers:
            local = self.distribute_strategy.experimental_local_results
            for _, _, steps in iterator:
                data_batch = keras.tree.map_structure(lambda v: local(v)[0], next(steps))
                break
            iterator = None
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)


def distribute_fit(model: keras.Model) -> keras.Model:
    """The same model, of a class that has `DistributedFit` in front.

    Weights, outputs and what it saves stay as they are.

    Example:

    >>> inputs = keras.Input((3,))
    >>> model = distribute_fit(keras.Model(inputs, keras.layers.Dense(2)(inputs)))
    >>> isinstance(model, DistributedFit)
    True
    """
    kind = type(model)
    if not issubclass(kind, DistributedFit):
        model.__class__ = type(
            kind.__name__, (DistributedFit, kind), {"__module__": kind.__module__}
        )
    return model
