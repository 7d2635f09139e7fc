"""The crossentropy that `MaskedLMHead` gives, as a Keras loss."""

from keras import ops

from mrl_keras.losses.labelled import LabelledLoss
from mrl_keras.registry import register


@register
class MaskedLMCrossentropy(LabelledLoss):
    """The crossentropy that `MaskedLMHead` gives for its labels, as a Keras loss.

    loss = y_pred[..., 0], one value for each masked position.

    The head takes the labels as an input and computes -log softmax(z_m)[label] where the
    logits z_m are, so that they need not be kept; this loss picks it from the head's output.
    Wrapped in `MatryoshkaLoss` it gives Eq. 1, with a relative importance for each prefix,
    sample weights for padded positions and the reduction: with "mean_with_sample_weight" the
    mean over the positions that count.

    Args:
        reduction: over positions, as in every Keras loss. Default "sum_over_batch_size".
            Set it on `MatryoshkaLoss`, where it wraps this one.
        name: default "masked_lm_crossentropy".
        dtype: dtype of the computation. Default None, `keras.config.floatx()`.

    Call arguments:
        y_true: (batch, positions), usually the labels once more; only its shape is read. None
            is taken, too.
        y_pred: (batch, positions, 2), one prefix of the head's output.

    Raises:
        ValueError: shapes that don't fit, such as logits from a head without labels.

    Example:

    >>> from mrl_keras import MatryoshkaLoss
    >>> loss = MatryoshkaLoss(MaskedLMCrossentropy(), reduction="mean_with_sample_weight")
    >>> scores = np.array([[[[0.5, 1.0], [0.25, 1.0]], [[7.0, 0.0], [9.0, 0.0]]]])
    >>> labels, weights = np.array([[3, 0]]), np.array([[1.0, 0.0]])  # one position is padding
    >>> float(loss(labels, scores, sample_weight=weights))
    0.75

    Source: arXiv 2205.13147, Section 3, Eq. 1 (masked language models).
    """

    _reads_labels = False

    def __init__(self, reduction="sum_over_batch_size", name="masked_lm_crossentropy", dtype=None):
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true, y_pred):
        y_pred = ops.convert_to_tensor(y_pred)
        given = y_pred.shape[:-1] if y_true is None else ops.convert_to_tensor(y_true).shape
        _check_scores(given, y_pred.shape)
        return y_pred[..., 0]

    def get_config(self):
        return {**super().get_config(), "dtype": self.dtype}


def _check_scores(y_true_shape, y_pred_shape):
    """Raise a ValueError unless `y_pred` holds one prefix's two scores for each of `y_true`."""
    given, wanted = tuple(y_true_shape), tuple(y_pred_shape[:-1])
    fits = len(given) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(given, wanted, strict=True)
    )
    if not fits or y_pred_shape[-1] != 2:
        raise ValueError(
            "MaskedLMCrossentropy takes one prefix's scores (batch, positions, 2) from a "
            "MaskedLMHead that is given the labels, and y_true (batch, positions). Received "
            f"y_pred {tuple(y_pred_shape)} and y_true {given}. For nested scores wrap it: "
            "MatryoshkaLoss(MaskedLMCrossentropy())."
        )
