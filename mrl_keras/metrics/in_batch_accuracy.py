"""Accuracy within the batch of a contrastive model."""

import keras
from keras import ops

from mrl_keras.registry import register
from mrl_keras.replicas import first_row


@register
class InBatchAccuracy(keras.metrics.MeanMetricWrapper):
    """How often a query's own document is the nearest of the batch of all replicas.

    Args:
        name: default "in_batch_top1".
        dtype: default None, `keras.config.floatx()`.
        scores: bool, `y_pred` are the scores of `models.ContrastiveScores`, which hold the answer.
            Default False, logits.

    Call arguments:
        y_true: not read; anything that has a row for each query.
        y_pred: logits (rows, rows of all replicas), as for `SymmetricContrastive("gathered")`;
            with `scores` (rows, 2).

    Raises:
        ValueError: with `scores`, another shape.

    Example:

    >>> from mrl_keras.metrics import InBatchAccuracy, per_prefix
    >>> [metric.name for metric in per_prefix(InBatchAccuracy(), [8, 16])]
    ['in_batch_top1_d8', 'in_batch_top1_d16']
    >>> metric = InBatchAccuracy()
    >>> metric.update_state([0, 0], np.array([[2.0, 1.0], [3.0, 1.0]]))
    >>> float(metric.result())
    0.5
    """

    def __init__(self, name="in_batch_top1", dtype=None, scores=False):
        self.scores = bool(scores)
        function = own_was_nearest if self.scores else own_is_nearest
        super().__init__(function, name=name, dtype=dtype)
        self._direction = "up"

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype, "scores": self.scores}


def own_is_nearest(y_true, y_pred):
    """Whether each row's own column is the largest; see `InBatchAccuracy`."""
    y_pred = ops.convert_to_tensor(y_pred)
    rows = ops.shape(y_pred)[0]
    own = ops.arange(rows, dtype="int32") + first_row(rows)
    if y_pred.shape[1] in (None, 0):  # no column may be there, and the largest of none is no place
        y_pred = ops.pad(y_pred, ((0, 0), (0, 1)), constant_values=-float("inf"))
    return ops.equal(ops.argmax(y_pred, axis=1), ops.cast(own, "int32"))


def own_was_nearest(y_true, y_pred):
    """What the second of two scores says; see `InBatchAccuracy`."""
    y_pred = ops.convert_to_tensor(y_pred)
    if len(y_pred.shape) != 2 or y_pred.shape[1] != 2:
        raise ValueError(
            "InBatchAccuracy(scores=True) takes the scores (rows, 2) of a ContrastiveScores layer. "
            f"Received shape {tuple(y_pred.shape)}; for logits leave `scores` out."
        )
    return y_pred[:, 1]
