"""Softmax crossentropy with label smoothing for integer labels."""

from keras import ops

from mrl_keras.losses.labelled import LabelledLoss
from mrl_keras.registry import register


def smoothed_sparse_crossentropy(y_true, logits, label_smoothing):
    """Crossentropy against (1 - e) * one_hot(y) + e / units, without making the one-hot tensor.

    L = (1 - e) * CE(y, z) + e * (logsumexp(z) - mean(z))

    Args:
        y_true: int labels (batch, ...) or (batch, ..., 1).
        logits: tensor (batch, ..., units).
        label_smoothing: float e in [0, 1).

    Returns:
        Tensor (batch, ...).
    """
    crossentropy = ops.sparse_categorical_crossentropy(y_true, logits, from_logits=True)
    if label_smoothing == 0.0:
        return crossentropy
    spread = ops.subtract(ops.logsumexp(logits, axis=-1), ops.mean(logits, axis=-1))
    return (1.0 - label_smoothing) * crossentropy + label_smoothing * spread


@register
class SmoothedSparseCategoricalCrossentropy(LabelledLoss):
    """Softmax crossentropy on logits with integer labels and label smoothing.

    Keras smooths dense labels only; the paper trains ResNet50 with a smoothing of 0.1 on
    integer labels (Appendix C). Equals `CategoricalCrossentropy(from_logits=True,
    label_smoothing=e)` on one-hot labels.

    Args:
        label_smoothing: float e in [0, 1). Default 0.1.
        reduction, name, dtype: as in every Keras loss.

    Call arguments:
        y_true: int labels (batch, ...) or (batch, ..., 1).
        y_pred: logits (batch, ..., units).

    Example:

    >>> import keras
    >>> from mrl_keras.losses import MatryoshkaLoss, SmoothedSparseCategoricalCrossentropy
    >>> loss = MatryoshkaLoss(SmoothedSparseCategoricalCrossentropy(0.1))
    >>> round(float(loss([3], keras.ops.zeros((1, 2, 4)))), 4)  # 2 * log(4)
    2.7726
    """

    _label_kind = "sparse"

    def __init__(
        self,
        label_smoothing=0.1,
        reduction="sum_over_batch_size",
        name="smoothed_sparse_categorical_crossentropy",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"`label_smoothing` must be in [0, 1). Received {label_smoothing!r}.")
        self.label_smoothing = float(label_smoothing)

    def call(self, y_true, y_pred):
        return smoothed_sparse_crossentropy(y_true, y_pred, self.label_smoothing)

    def get_config(self):
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "dtype": self.dtype,
        }
