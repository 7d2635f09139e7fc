"""The accuracy that `MaskedLMHead` gives, as a Keras metric."""

import keras
from keras import ops

from mrl_keras.masks import get_keras_mask, masked_weights
from mrl_keras.registry import register


@register
class MaskedLMAccuracy(keras.metrics.Mean):
    """How often the label of a masked position has the largest logit.

    The mean of y_pred[..., 1], which `MaskedLMHead` sets to 1 where no logit exceeds the
    label's. `per_prefix` makes one for each prefix. Pass them to `compile` as
    `weighted_metrics`, so that sample weights leave padded positions out.

    Args:
        name: default "masked_lm_accuracy".
        dtype: default None, `keras.config.floatx()`.

    Call arguments:
        y_true: (batch, positions); not read.
        y_pred: (batch, positions, 2), one prefix of the head's output.
        sample_weight: optional (batch, positions).

    Raises:
        ValueError: `y_pred` does not end in two scores.

    Example:

    >>> from mrl_keras.metrics import per_prefix
    >>> [metric.name for metric in per_prefix(MaskedLMAccuracy(), [12, 24])]
    ['masked_lm_accuracy_d12', 'masked_lm_accuracy_d24']

    Source: arXiv 2205.13147, Table 7 (accuracy of each prefix on masked language modelling).
    """

    def __init__(self, name="masked_lm_accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self._direction = "up"

    def update_state(self, y_true, y_pred, sample_weight=None):
        mask = get_keras_mask(y_pred)
        y_pred = ops.convert_to_tensor(y_pred)
        if y_pred.shape[-1] != 2:
            raise ValueError(
                f"The metric {self.name!r} takes the scores (batch, positions, 2) of a "
                f"MaskedLMHead that is given the labels. Received shape {tuple(y_pred.shape)}."
            )
        sample_weight = masked_weights(sample_weight, mask, self.dtype)
        return super().update_state(y_pred[..., 1], sample_weight=sample_weight)
