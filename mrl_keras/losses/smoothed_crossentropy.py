"""Softmax crossentropy with label smoothing for integer labels."""

import numbers

from keras import backend, ops

from mrl_keras.losses.labelled import LabelledLoss
from mrl_keras.registry import register


def smoothed_sparse_crossentropy(y_true, logits, label_smoothing=0.0):
    """Crossentropy against (1 - e) * one_hot(y) + e / units, without making the one-hot tensor.

    L = logsumexp(z) - (1 - e) * z[y] - e * mean(z)

    Only the label's logit is gathered, in value and in gradient. The one-hot tensor of TensorFlow's
    own op makes XLA read all logits twice more.

    Args:
        y_true: integer labels (batch, ...) or (batch, ..., 1). A label outside [0, units) gives
            NaN.
        logits: tensor z (batch, ..., units), computed in float32 at least.
        label_smoothing: float e in [0, 1). Default 0.0.

    Returns:
        Tensor (batch, ...) of the dtype of `logits`.

    Example:

    >>> logits = np.log(np.array([[1.0, 3.0]], "float32"))
    >>> value = smoothed_sparse_crossentropy(np.array([0]), logits)
    >>> round(float(np.exp(-value[0])), 4)
    0.25
    """
    logits = ops.convert_to_tensor(logits)
    dtype = backend.standardize_dtype(logits.dtype)
    logits = ops.cast(logits, backend.result_type(dtype, "float32"))
    labels = ops.cast(y_true, "int32")
    if len(labels.shape) < len(logits.shape):
        labels = ops.expand_dims(labels, -1)
    inside = ops.logical_and(labels >= 0, labels < logits.shape[-1])
    picked = ops.take_along_axis(logits, ops.where(inside, labels, 0), axis=-1)
    picked = ops.squeeze(ops.where(inside, picked, float("nan")), -1)
    value = ops.subtract(ops.logsumexp(logits, axis=-1), (1.0 - label_smoothing) * picked)
    if label_smoothing:
        value = ops.subtract(value, label_smoothing * ops.mean(logits, axis=-1))
    return ops.cast(value, dtype)


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
        y_true: int labels (batch, ...) or (batch, ..., 1). A label outside [0, units) gives NaN.
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
        if not (isinstance(label_smoothing, numbers.Real) and 0.0 <= label_smoothing < 1.0):
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
