"""Self-distillation: a prefix learns from the output of the full width."""

import keras
from keras import ops

from mrl_keras.checks import checked_number
from mrl_keras.losses.inner import as_inner_loss, call_inner, label_kind
from mrl_keras.losses.labelled import LabelledLoss
from mrl_keras.registry import deserialize_argument, register


def softmax_divergence(kept, seen):
    """KL(softmax(kept) || softmax(seen)) along the last axis, of logits of one shape and dtype."""
    kept, seen = ops.log_softmax(kept), ops.log_softmax(seen)
    return ops.sum(ops.multiply(ops.exp(kept), ops.subtract(kept, seen)), axis=-1)


def distillation(y_pred, teacher, temperature=1.0):
    """T^2 KL(softmax(t / T) || softmax(z / T)) along the last axis; no gradient reaches t.

    Args:
        y_pred: logits z (..., units), or rows of similarities.
        teacher: logits t of the same shape.
        temperature: float above 0, T. Default 1.0.

    Returns:
        Tensor (...), float32.

    Example:

    >>> same = np.array([[1.0, 2.0]], "float32")
    >>> ops.convert_to_numpy(distillation(same, same)).tolist()
    [0.0]

    Source: arXiv 1503.02531, Section 2 (the factor T^2 keeps gradients of one size).
    """
    student = ops.cast(y_pred, "float32") / temperature
    teacher = ops.cast(ops.stop_gradient(teacher), "float32") / temperature
    return temperature**2 * softmax_divergence(teacher, student)


@register
class SelfDistillation(LabelledLoss):
    """A loss, and the divergence from the widest prefix's output, which teaches and does not learn.

    L_m = loss(y, z_m) + weight * T^2 * KL(softmax(z_d / T) || softmax(z_m / T))

    For one prefix inside `MatryoshkaLoss`, which hands it the output of the full width d. Gradients
    do not reach the teacher; at the full width itself value and gradient of the divergence are 0.
    Outputs are logits of classes, or of a row's similarities to the batch, as
    `MatryoshkaSimilarity` gives: then a prefix learns the order of the full width's neighbours.

    Args:
        loss: what the prefix would be trained with alone, as for `MatryoshkaLoss`; None for the
            divergence alone.
        weight: float of at least 0. Default 1.0.
        temperature: float above 0, T. Default 1.0.
        reduction: over the batch, as in every Keras loss. Default "sum_over_batch_size". Set it on
            `MatryoshkaLoss`.
        name: default "self_distillation".
        dtype: dtype of the computation. Default None, `keras.config.floatx()`.

    Call arguments:
        y_true: what `loss` takes; not read where that is None.
        y_pred: (batch, ..., units), one prefix.

    Raises:
        ValueError: a number out of range, an inner loss that `MatryoshkaLoss` would refuse, a call
            outside of it, or a single unit, whose softmax is always 1.

    Example:

    >>> from mrl_keras.losses import MatryoshkaLoss, SelfDistillation
    >>> loss = MatryoshkaLoss(SelfDistillation(None))
    >>> nested = np.log(np.array([[[1.0, 1.0], [3.0, 1.0]]], "float32"))  # prefixes 1/2 and 3/4
    >>> round(float(loss(None, nested)), 4)  # 3/4 log(3/2) + 1/4 log(1/2), and 0
    0.1308

    Source: the teacher is detached as in sentence-transformers; arXiv 1503.02531 for the loss.
    """

    reads_teacher = True

    def __init__(
        self,
        loss,
        weight=1.0,
        temperature=1.0,
        reduction="sum_over_batch_size",
        name="self_distillation",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.loss = None if loss is None else as_inner_loss(loss)
        self.weight = checked_number(weight, "`weight`", least=0.0)
        self.temperature = checked_number(temperature, "`temperature`", above=0.0)

    def call(self, y_true, y_pred, teacher=None):
        if teacher is None:
            raise ValueError(
                "SelfDistillation learns from the widest prefix, which it gets from "
                "MatryoshkaLoss(SelfDistillation(...)). Received one prefix alone, of shape "
                f"{tuple(y_pred.shape)}."
            )
        if y_pred.shape[-1] == 1:
            raise ValueError(
                "SelfDistillation compares softmaxes over the units of a prefix. Received a single "
                f"unit: {tuple(y_pred.shape)}. For pairs use rows of similarities, as "
                "MatryoshkaSimilarity gives."
            )
        divergence = self.weight * distillation(y_pred, teacher, self.temperature)
        if self.loss is None:
            return divergence
        own = call_inner(self.loss, y_true, y_pred, teacher)
        return own + ops.cast(divergence, own.dtype)

    @property
    def _reads_labels(self):
        return self.loss is not None and getattr(self.loss, "_reads_labels", True)

    @property
    def _label_kind(self):
        return None if self.loss is None else label_kind(self.loss)

    def get_config(self):
        return {
            **super().get_config(),
            "loss": None if self.loss is None else keras.losses.serialize(self.loss),
            "weight": self.weight,
            "temperature": self.temperature,
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**deserialize_argument(config, "loss", keras.losses.deserialize))
