"""The base of losses that take their labels as they come."""

import keras
from keras import ops

from mrl_keras.masks import get_keras_mask, with_mask

HALF = ("float16", "bfloat16")


class LabelledLoss(keras.losses.Loss):
    """A Keras loss whose labels are not rounded to its dtype, and which takes zero rows.

    Keras converts labels to the loss's dtype; bfloat16 holds integers up to 256 only. Here integer
    labels stay integers where the dtype is a half precision one. Where a loss reads no labels,
    `y_true` may be None, so that `fit` needs none.
    """

    _reads_labels = True
    _reads_weights = False  # whether `call` takes `sample_weight`
    _label_kind = None  # "sparse": class numbers, "dense": a target for each output

    def __call__(self, y_true, y_pred, sample_weight=None):
        if y_true is None and self._reads_labels:
            raise ValueError(
                f"The loss {self.name!r} reads labels. Received y_true None: pass them to `fit` or "
                "`evaluate` as `y`, or as the second part of each batch."
            )
        if y_true is not None:
            y_true = self._converted(y_true)
        mask = get_keras_mask(y_pred)
        more = {"sample_weight": sample_weight} if self._reads_weights else {}
        value = _OfLabels(self, y_true, mask, more)((), y_pred, sample_weight)
        # Keras returns the values themselves where there is none to sum.
        empty = self.reduction not in (None, "none") and tuple(value.shape) == (0,)
        return ops.sum(value) if empty else value

    def _converted(self, y_true):
        y_true = ops.convert_to_tensor(y_true)
        dtype = keras.backend.standardize_dtype(y_true.dtype)
        exact = self._label_kind == "sparse" or (self._label_kind is None and "int" in dtype)
        if self.dtype not in HALF or not exact:
            return ops.cast(y_true, self.dtype)
        # Losses compare labels with negative numbers, which unsigned labels don't hold.
        return ops.cast(y_true, "int32") if dtype[0] == "u" or dtype == "bool" else y_true


class _OfLabels(keras.losses.Loss):
    """A loss with its labels: of the arguments of a call, Keras converts the outputs alone."""

    def __init__(self, loss, y_true, mask, more):
        super().__init__(name=loss.name, reduction=loss.reduction, dtype=loss.dtype)
        self.loss, self.y_true, self.mask, self.more = loss, y_true, mask, more

    def call(self, _, y_pred):
        return self.loss.call(self.y_true, with_mask(y_pred, self.mask), **self.more)
