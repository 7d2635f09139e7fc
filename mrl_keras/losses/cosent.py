"""CoSENT: a ranking loss that gives the similarities of pairs the order of their scores."""

import keras
from keras import ops

from mrl_keras.checks import positive_number
from mrl_keras.losses.labelled import LabelledLoss
from mrl_keras.registry import register_as

LOWEST = -1e9


def cosent(y_true, y_pred, temperature=0.05):
    """The CoSENT loss of each pair: by how much pairs of lower score exceed its similarity.

    loss[i] = log(1 + sum_{j: y[j] < y[i]} exp((s[j] - s[i]) / T))

    Args:
        y_true: scores y (n,) or (n, 1).
        y_pred: similarities s (n,) or (n, 1), computed in float32 at least.
        temperature: float above 0, T. Default 0.05.

    Returns:
        Tensor (n,), float32 or float64: 0 for a pair of the lowest score.

    Raises:
        ValueError: shapes that don't fit.

    Example:

    >>> values = cosent(np.array([1.0, 0.0]), np.array([0.5, 0.5], "float32"))
    >>> keras.ops.convert_to_numpy(values).round(3).tolist()  # log(2), and the lowest
    [0.6930000185966492, 0.0]

    Source: the pairwise comparison of CoSENT (Su 2022), as a mean over the pairs.
    """
    y_pred = ops.convert_to_tensor(y_pred)
    if keras.backend.standardize_dtype(y_pred.dtype) != "float64":
        y_pred = ops.cast(y_pred, "float32")
    y_true = ops.cast(ops.convert_to_tensor(y_true), y_pred.dtype)
    for values in (y_true, y_pred):
        if not (len(values.shape) == 1 or (len(values.shape) == 2 and values.shape[1] == 1)):
            raise ValueError(
                "CoSENT needs one score and one similarity for each pair, (n,) or (n, 1). "
                f"Received y_true {tuple(y_true.shape)} and y_pred {tuple(y_pred.shape)}."
            )
    scores, similarities = (ops.reshape(values, (-1,)) for values in (y_true, y_pred))
    lower = ops.less(ops.expand_dims(scores, 0), ops.expand_dims(scores, 1))
    above = ops.expand_dims(similarities, 0) - ops.expand_dims(similarities, 1)
    terms = ops.where(lower, above / temperature, LOWEST)
    # The pair itself is the 1 of the formula: its own difference is 0.
    zero = ops.zeros_like(ops.expand_dims(similarities, 1))
    return ops.logsumexp(ops.concatenate([terms, zero], axis=1), axis=1)


@register_as("PairRanking")
class CoSENT(LabelledLoss):
    """CoSENT: of two pairs, the one with the higher score must have the higher similarity.

    loss[i] = log(1 + sum_{j: y[j] < y[i]} exp((s[j] - s[i]) / T))

    Only the order of the scores matters, as for Spearman's correlation.
    Pairs are compared within the batch, which under `tf.distribute` is one replica's part. In
    `MatryoshkaLoss` every prefix is ranked by itself.

    Args:
        temperature: float above 0, T. Default 0.05.
        reduction: over the batch, as in every Keras loss. Default "sum_over_batch_size".
        name: default "cosent".
        dtype: dtype of the computation. Default None, `keras.config.floatx()`.

    Call arguments:
        y_true: scores (n,) or (n, 1).
        y_pred: similarities (n,) or (n, 1), such as cosines.

    Raises:
        ValueError: a temperature out of range, or shapes that don't fit.

    Example:

    >>> from mrl_keras.losses import MatryoshkaLoss, CoSENT
    >>> loss = MatryoshkaLoss(CoSENT(temperature=1.0))
    >>> cosines = np.zeros((2, 3, 1), "float32")  # two pairs at three prefixes
    >>> round(float(loss(np.array([1.0, 0.0]), cosines)) / 3, 4)  # log(2) and 0
    0.3466

    Source: the pairwise comparison of CoSENT (Su 2022), as a mean over the pairs.
    """

    def __init__(
        self,
        temperature=0.05,
        reduction="sum_over_batch_size",
        name="cosent",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.temperature = positive_number(temperature, "`temperature`")

    def call(self, y_true, y_pred):
        return cosent(y_true, y_pred, self.temperature)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature, "dtype": self.dtype}
