"""Contrastive training whose negatives are the whole batch, however many replicas share it."""

import keras
from keras import ops

from mrl_keras.losses.symmetric_contrastive import (
    SymmetricContrastive,
    row_and_column_logsumexp,
)
from mrl_keras.registry import register


@register
class GatheredBatch(keras.layers.Layer):
    """The embeddings of all replicas, in the order of the replicas.

    Under `tf.distribute` each replica gets the rows of the global batch, and their gradient
    flows back to the replicas that own them. On one replica, and outside of training, the layer
    changes nothing.

    Args:
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        (rows, d), with equally many rows on every replica.

    Output shape:
        (replicas * rows, d).

    Example:

    >>> from mrl_keras.models import GatheredBatch
    >>> GatheredBatch()(np.ones((2, 3), "float32")).shape
    TensorShape([2, 3])
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def call(self, inputs):
        return gathered(inputs)

    def compute_output_shape(self, input_shape):
        return (None, *input_shape[1:])


@register
class GlobalSymmetricContrastive(SymmetricContrastive):
    """`SymmetricContrastive` over the batch of all replicas.

    loss[i] = (logsumexp_j S[i, j] + logsumexp_k S[k, i]) / 2 - S[i, i]

    where i, j and k run over the pairs of the global batch, and S[i, j] is the similarity of
    query i and document j, divided by the temperature. A replica holds the rows of its own
    queries against the documents of all, as `dual_encoder` gives them: its rows are whole, and of
    each column it knows a part. The parts are added up over the replicas, which moves one number
    for each column, and spares every replica the n x n logits of the others. The mean over the
    replicas, and the gradient, are those of one replica that holds all pairs.

    Args:
        reduction: over the batch, as in every Keras loss. Default "sum_over_batch_size".
        name: default "global_symmetric_contrastive".
        dtype: dtype of the computation. Default None, `keras.config.floatx()`.

    Call arguments:
        y_true: not read; anything that has a row for each query.
        y_pred: logits (rows, columns) of this replica's queries against the documents of all
            replicas, in the order of the replicas; or nested (rows, prefixes, columns).

    Raises:
        ValueError: more or fewer columns than rows times replicas.

    Example:

    >>> from mrl_keras.losses import MatryoshkaLoss
    >>> from mrl_keras.models import GlobalSymmetricContrastive
    >>> loss = MatryoshkaLoss(GlobalSymmetricContrastive())
    >>> logits = np.zeros((4, 3, 4), "float32")  # three prefixes of four pairs
    >>> round(float(loss(np.zeros(4), logits)) / 3, 4)  # log(4) for each prefix
    1.3863

    Source: arXiv 2205.13147, Section 3 (contrastive learning, as in ALIGN); the negatives of
    all cores are ALIGN's (arXiv 2102.05918, Section 4.1).
    """

    def __init__(
        self,
        reduction="sum_over_batch_size",
        name="global_symmetric_contrastive",
        dtype=None,
    ):
        super().__init__("diagonal", reduction=reduction, name=name, dtype=dtype)

    def call(self, y_true, y_pred):
        y_pred = ops.convert_to_tensor(y_pred)
        prefixes = ops.unstack(y_pred, axis=1) if len(y_pred.shape) == 3 else [y_pred]
        return sum(global_symmetric_contrastive(logits) for logits in prefixes)

    def get_config(self):
        config = super().get_config()
        config.pop("positives")
        return config


def global_symmetric_contrastive(logits):
    """Loss of this replica's pairs within the batch of all replicas.

    Args:
        logits: (rows, replicas * rows), this replica's queries against all documents.

    Returns:
        Tensor (rows,), float32 or float64.

    Raises:
        ValueError: another number of columns.

    Example:

    >>> logits = np.log(np.array([[3.0, 1.0], [2.0, 4.0]], "float32"))
    >>> values = keras.ops.convert_to_numpy(global_symmetric_contrastive(logits))
    >>> np.allclose(np.exp(-2 * values), [3 / 4 * 3 / 5, 4 / 6 * 4 / 5])
    True
    """
    logits = ops.convert_to_tensor(logits)
    if keras.backend.standardize_dtype(logits.dtype) != "float64":
        logits = ops.cast(logits, "float32")
    index, replicas = replica_position()
    _check_columns(logits.shape, replicas)
    rows = ops.shape(logits)[0]
    mine = ops.arange(rows) + index * rows
    sums = row_and_column_logsumexp(logits)
    parts = gathered(ops.expand_dims(sums[rows:], 0))
    columns = ops.take(ops.logsumexp(parts, axis=0), mine)
    positive = ops.squeeze(ops.take_along_axis(logits, ops.expand_dims(mine, 1), axis=1), 1)
    return 0.5 * (sums[:rows] + columns) - positive


@register
class InBatchAccuracy(keras.metrics.MeanMetricWrapper):
    """How often a query's own document is the nearest of the batch of all replicas.

    Args:
        name: default "in_batch_top_1".
        dtype: default None, `keras.config.floatx()`.

    Call arguments:
        y_true: not read; anything that has a row for each query.
        y_pred: logits (rows, replicas * rows), as for `GlobalSymmetricContrastive`.

    Example:

    >>> from mrl_keras.metrics import per_prefix
    >>> from mrl_keras.models import InBatchAccuracy
    >>> [metric.name for metric in per_prefix(InBatchAccuracy(), [8, 16])]
    ['in_batch_top_1_d8', 'in_batch_top_1_d16']
    >>> metric = InBatchAccuracy()
    >>> metric.update_state([0, 0], np.array([[2.0, 1.0], [3.0, 1.0]]))
    >>> float(metric.result())
    0.5
    """

    def __init__(self, name="in_batch_top_1", dtype=None):
        super().__init__(_own_is_nearest, name=name, dtype=dtype)

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


def _own_is_nearest(y_true, y_pred):
    rows = ops.shape(y_pred)[0]
    mine = ops.arange(rows) + replica_position()[0] * rows
    return ops.equal(ops.argmax(y_pred, axis=1), ops.cast(mine, "int32"))


def gathered(values):
    """The rows of all replicas; the rows themselves on one, and on other backends."""
    if keras.backend.backend() != "tensorflow" or isinstance(values, keras.KerasTensor):
        return values
    from mrl_keras.distribution import gather

    return gather(values)


def replica_position():
    """(index, count) of this replica; (0, 1) on other backends."""
    if keras.backend.backend() != "tensorflow":
        return 0, 1
    from mrl_keras.distribution.replicas import replica_position

    return replica_position()


def _check_columns(shape, replicas):
    known = len(shape) == 2 and None not in shape
    if len(shape) != 2 or (known and shape[1] != replicas * shape[0]):
        raise ValueError(
            "The global contrastive loss needs logits (rows, replicas * rows) of this replica's "
            f"queries against the documents of all {replicas} replicas. Received {tuple(shape)}; "
            "`dual_encoder` makes them, and for further negatives there is SymmetricContrastive."
        )
