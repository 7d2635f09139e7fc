"""Plain `fit` under any strategy, and the batches that it is fed."""

import contextlib

import keras
import tensorflow as tf


class DistributedModel:
    """A mixin with which `fit` and `evaluate` run under `MultiWorkerMirroredStrategy`.

    Keras reduces the logs of a step over the workers in a way that takes no scalars, and builds
    a model from a batch that is one tensor per replica. Both are mended here; without several
    workers, nothing changes. For a model that exists already, see `distributed`.

    Example:

    >>> import keras
    >>> class Model(DistributedModel, keras.Sequential):
    ...     pass
    >>> Model([keras.layers.Dense(1)]).multi_worker
    False
    """

    @property
    def multi_worker(self):
        """bool, whether the model was made under `MultiWorkerMirroredStrategy`."""
        return isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy)

    def train_step(self, data):
        return self._rows(super().train_step(data))

    def test_step(self, data):
        return self._rows(super().test_step(data))

    def _rows(self, logs):
        return {k: tf.reshape(v, [1]) for k, v in logs.items()} if self.multi_worker else logs

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if iterator is not None and self.multi_worker:
            local = self.distribute_strategy.experimental_local_results
            for _, _, batches in iterator:
                data_batch = keras.tree.map_structure(lambda v: local(v)[0], next(batches))
                break
            iterator = None
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)


@contextlib.contextmanager
def distributed(model):
    """A context in which `model` is also a `DistributedModel`: call `fit` and `evaluate` in it.

    Outside, the model is of its own class again, and is saved as such.

    Args:
        model: `keras.Model`, made in the scope of its strategy.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> with distributed(model):
    ...     isinstance(model, DistributedModel)
    True
    """
    cls = type(model)
    if isinstance(model, DistributedModel):
        yield model
        return
    # Past Keras' own __setattr__, which tracks what it is given.
    object.__setattr__(model, "__class__", type(cls.__name__, (DistributedModel, cls), {}))
    try:
        yield model
    finally:
        object.__setattr__(model, "__class__", cls)


def global_batches(strategy, batch_size, make):
    """The training batches of all replicas, each worker making its own rows only.

    Args:
        strategy: `tf.distribute.Strategy`.
        batch_size: int, rows of the global batch; each replica takes an equal part.
        make: function (batch_size, shard) -> `tf.data.Dataset` with the rows of worker
            shard[0] of shard[1].

    Returns:
        What `fit` takes.

    Raises:
        ValueError: the replicas do not divide the batch.

    Example:

    >>> data = tf.data.Dataset.range(8)
    >>> make = lambda batch_size, shard: data.batch(batch_size)
    >>> int(next(iter(global_batches(tf.distribute.get_strategy(), 4, make)))[3])
    3
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise ValueError(
            f"`batch_size` is the global batch, and must be a multiple of the {replicas} replicas. "
            f"Received {batch_size}."
        )
    if replicas == 1:
        return make(batch_size, (0, 1))

    def of_worker(context):
        workers = context.num_input_pipelines
        local = make(batch_size // workers, (context.input_pipeline_id, workers))
        return local.rebatch(batch_size // replicas, drop_remainder=True)

    return strategy.distribute_datasets_from_function(of_worker)
