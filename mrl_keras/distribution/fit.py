"""`fit` on several replicas and workers."""

import contextlib

import keras
import tensorflow as tf


def fit_distributed(model, make_batches, batch_size, **options):
    """`model.fit` on all replicas of the model's strategy; each worker makes its own rows only.

    With one replica, `model.fit` itself does all this.

    Args:
        model: compiled `keras.Model`, made in the scope of its `tf.distribute.Strategy`.
        make_batches: function (rows, (worker, workers)) -> `tf.data.Dataset` with batches of
            `rows` examples, those of worker `worker` of `workers`.
        batch_size: int, rows of the global batch; each replica takes an equal part.
        **options: of `keras.Model.fit`, such as `steps_per_epoch`.

    Returns:
        `keras.callbacks.History`.

    Raises:
        ValueError: the replicas do not divide the batch.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> data = tf.data.Dataset.from_tensors((tf.ones(2), tf.ones(1))).repeat()
    >>> history = fit_distributed(
    ...     model, lambda rows, shard: data.batch(rows), 8, steps_per_epoch=3, verbose=0
    ... )
    >>> len(history.history["loss"])
    1
    """
    batches = distribute_batches(model.distribute_strategy, make_batches, batch_size)
    with _steps_for_workers(model):
        return model.fit(batches, **options)


def distribute_batches(strategy, make_batches, batch_size):
    """The batches of all replicas, as `fit` takes them; arguments as of `fit_distributed`."""
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise ValueError(
            f"`batch_size` is the global batch, and must be a multiple of the {replicas} replicas. "
            f"Received {batch_size}."
        )

    def make_for_worker(context):
        workers = context.num_input_pipelines
        local = make_batches(batch_size // workers, (context.input_pipeline_id, workers))
        return local.rebatch(batch_size // replicas, drop_remainder=True)

    return strategy.distribute_datasets_from_function(make_for_worker)


class _WorkerSteps:
    """A mixin with which `fit` runs under `MultiWorkerMirroredStrategy`.

    Keras reduces the logs of a step over the workers in a way that takes no scalars, and builds
    a model from a batch that is one tensor per replica.
    """

    def train_step(self, data):
        return _as_vectors(super().train_step(data))

    def test_step(self, data):
        return _as_vectors(super().test_step(data))

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if iterator is not None:
            local = self.distribute_strategy.experimental_local_results
            for _, _, batches in iterator:
                data_batch = keras.tree.map_structure(lambda v: local(v)[0], next(batches))
                break
        super()._maybe_symbolic_build(data_batch=data_batch)


def _as_vectors(logs):
    return keras.tree.map_structure(lambda value: tf.reshape(value, [1]), logs)


@contextlib.contextmanager
def _steps_for_workers(model):
    """Gives a model of several workers the steps of `_WorkerSteps`, and its own class afterwards.

    The model is saved by its own class, so the change does not outlast the context.
    """
    cls = type(model)
    if not isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
        yield
        return
    # `object.__setattr__`, since that of Keras tracks what it is given.
    object.__setattr__(model, "__class__", type(cls.__name__, (_WorkerSteps, cls), {}))
    try:
        yield
    finally:
        object.__setattr__(model, "__class__", cls)
