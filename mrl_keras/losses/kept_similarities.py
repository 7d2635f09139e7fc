"""A loss that keeps the similarities of other embeddings, such as the full one before a change."""

import keras
from keras import ops

from mrl_keras.checks import positive_number
from mrl_keras.losses.labelled import LabelledLoss
from mrl_keras.losses.self_distillation import softmax_divergence
from mrl_keras.registry import register

LOWEST = -1e9


def similarity_divergence(y_true, y_pred, temperature=0.05):
    """How far the neighbours by `y_pred` are from those by `y_true`, for each row.

        loss[i] = KL(softmax_j(y_true[i, j] / T) || softmax_j(y_pred[i, j] / T)),    j != i

    Args:
        y_true: similarities to keep (n, n), of each row with all rows of the batch.
        y_pred: similarities (n, n), computed in float32 at least.
        temperature: float above 0, T.

    Returns:
        Tensor (n,), float32 or float64, at least 0.

    Raises:
        ValueError: two shapes that differ or are not square.

    Example:

    >>> kept, seen = [[1, 0.9, 0.2]] * 3, np.zeros((3, 3), "float32")
    >>> values = similarity_divergence(np.array(kept, "float32"), seen, temperature=0.1)
    >>> round(float(values[0]), 3)  # log 2 - the entropy of softmax([9, 2])
    0.686
    """
    y_pred = ops.convert_to_tensor(y_pred)
    if keras.backend.standardize_dtype(y_pred.dtype) != "float64":
        y_pred = ops.cast(y_pred, "float32")
    y_true = ops.cast(ops.convert_to_tensor(y_true), y_pred.dtype)
    shapes = tuple(y_true.shape), tuple(y_pred.shape)
    known = [size for shape in shapes for size in shape if size is not None]
    if any(len(shape) != 2 for shape in shapes) or len(set(known)) > 1:
        raise ValueError(
            "Similarities must be those of the rows of a batch with each other, (n, n), in both "
            f"arguments. Received y_true {shapes[0]} and y_pred {shapes[1]}."
        )
    if 0 in shapes[1]:
        return ops.sum(y_pred, axis=1)
    # A row's similarity with itself is 1 in both, and would take most of the softmax.
    itself = ops.multiply(ops.eye(ops.shape(y_pred)[0], dtype=y_pred.dtype), LOWEST)
    kept = ops.add(ops.divide(y_true, temperature), itself)
    seen = ops.add(ops.divide(y_pred, temperature), itself)
    return softmax_divergence(kept, seen)


@register
class KeptSimilarities(LabelledLoss):
    """Keeps each row's neighbours: the similarities of given embeddings are the labels.

        loss[i] = KL(softmax_j(y_true[i, j] / T) || softmax_j(y_pred[i, j] / T)),    j != i

    All pairs of the batch count, near ones most: at T = 0.05 a neighbour at cosine 0.6 weighs 55
    times one at 0.4. In `MatryoshkaLoss` over the output of `MatryoshkaSimilarity` every prefix
    keeps the similarities of the full embedding. No labels of classes are needed. Under
    `tf.distribute` the batch is one replica's part.

    Args:
        temperature: float above 0, T. Default 0.05.
        reduction: over the batch, as in every Keras loss. Default "sum_over_batch_size".
        name: default "kept_similarities".
        dtype: dtype of the computation. Default None, `keras.config.floatx()`.

    Call arguments:
        y_true: (n, n), the similarities to keep: cosines of a batch of n rows with each other. No
            gradient goes back to them.
        y_pred: (n, n), similarities of the same rows; not yet divided by a temperature.

    Raises:
        ValueError: a temperature that is not finite and above 0; shapes that differ or are not
            square.

    Example:

    >>> from mrl_keras import KeptSimilarities
    >>> cosines = np.array([[1, 0.8, 0.1], [0.8, 1, 0.0], [0.1, 0.0, 1]], "float32")
    >>> float(KeptSimilarities()(cosines, cosines))
    0.0

    Source: arXiv 2407.20243 keeps pairwise and top-k similarities by absolute differences; as
    distributions over the rows, arXiv 2101.04731.
    """

    def __init__(
        self,
        temperature=0.05,
        reduction="sum_over_batch_size",
        name="kept_similarities",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.temperature = positive_number(temperature, "`temperature`")

    def call(self, y_true, y_pred):
        kept = ops.stop_gradient(ops.convert_to_tensor(y_true))
        return similarity_divergence(kept, y_pred, self.temperature)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature, "dtype": self.dtype}
