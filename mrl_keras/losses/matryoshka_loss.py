"""The Matryoshka loss: one Keras loss on every prefix, weighted and summed (Eq. 1)."""

import warnings
from collections.abc import Mapping

import keras
from keras import ops

from mrl_keras.losses.inner import (
    as_inner_loss,
    call_inner,
    expects_probabilities,
    label_kind,
    name_of,
)
from mrl_keras.losses.labelled import LabelledLoss
from mrl_keras.losses.prefix_losses import PrefixLosses
from mrl_keras.losses.prefix_weighting import PrefixWeighting, batch_means
from mrl_keras.masks import get_keras_mask, joined_masks, with_mask
from mrl_keras.nesting import checked_relative_importance
from mrl_keras.recording import records_gradients
from mrl_keras.registry import deserialize_argument, register
from mrl_keras.targets import own_target, stack_targets, target_axis

PREFIX_REDUCTIONS = ("sum", "mean")


def weighted_prefix_sum(prefix_losses, relative_importance, prefix_reduction="sum"):
    """Combine the losses of the prefixes: sum_m c_m L_m, or that divided by sum_m c_m.

    Args:
        prefix_losses: one tensor for each prefix, all of one shape.
        relative_importance: one float c_m for each prefix, or a tensor (prefixes,).
        prefix_reduction: "sum" (Eq. 1) or "mean" (the weighted mean over prefixes).

    Returns:
        A tensor of the shape of one prefix's loss.
    """
    if not isinstance(relative_importance, (tuple, list)):
        weights = ops.cast(relative_importance, prefix_losses[0].dtype)
        total = sum(map(ops.multiply, prefix_losses, ops.unstack(weights)))
        return ops.divide(total, ops.sum(weights)) if prefix_reduction == "mean" else total
    total = None
    for weight, loss in zip(relative_importance, prefix_losses, strict=True):
        if weight != 0.0:
            term = loss if weight == 1.0 else ops.multiply(loss, weight)
            total = term if total is None else ops.add(total, term)
    return ops.divide(total, sum(relative_importance)) if prefix_reduction == "mean" else total


@register
class MatryoshkaLoss(LabelledLoss):
    """Any Keras loss on every prefix of a nested output: sum over m in M of c_m * L(y, y_m).

    Wraps the loss that the model would be trained with and plugs into `model.compile`.
    The inner loss sees the labels and one prefix's output at a time; this loss then does
    weighting, sample weights, masks and reduction once.

    Args:
        loss: a Keras `Loss` instance, a loss function `(y_true, y_pred) -> (batch, ...)`,
            or the string name of either; or `PrefixLosses`, a loss for each prefix. Label
            smoothing, `from_logits` and so on are arguments of that loss. String names take
            Keras's defaults, where crossentropies expect probabilities: pass an instance with
            `from_logits=True` for a plain `MatryoshkaDense` output. An eager call on outputs
            outside [0, 1] warns once.
        relative_importance: the weights c_m, one finite number >= 0 for each prefix, for
            example `dims.relative_importance({8: 2.0})`; or a `PrefixWeighting`, such as
            `AdaLoss`, whose weights follow the losses. Default None, all ones.
        prefix_reduction: "sum" (the default, Eq. 1) or "mean", which divides by the sum
            of the weights so that the learning rate need not change with the number of
            prefixes.
        reduction: over the batch, as in every Keras loss: "sum_over_batch_size" (the
            default), "sum", "mean", "mean_with_sample_weight" or None for one value for
            each sample. The inner loss must keep its defaults for `reduction` and
            `dtype`: they would not be used.
        name: default "matryoshka_loss".
        dtype: dtype of the computation. Default None, `keras.config.floatx()`.

    Call arguments:
        y_true: what the inner loss takes for one prefix: sparse labels (batch, ...) or
            dense targets (batch, ..., units). With `PrefixLosses(own_targets=True)` those of
            all prefixes: (batch, ..., prefixes) or (batch, ..., prefixes, units), or a dict from
            dims to targets.
        y_pred: (batch, ..., prefixes, units); the prefixes are on axis -2, which is axis 1
            for the output of `MatryoshkaDense` on (batch, d).

    Raises:
        ValueError: at construction for an unknown loss, bad weights or switches; at the
            call if the prefix axis is missing, its length differs from the number of
            weights, or the labels don't fit one prefix's output. The text names both
            shapes.

    Example:

    >>> import keras
    >>> from mrl_keras import MatryoshkaLoss
    >>> inner = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> loss = MatryoshkaLoss(inner, relative_importance=[2.0, 1.0])
    >>> round(float(loss([0, 1], keras.ops.zeros((2, 2, 4)))), 4)  # 3 * log(4)
    4.1589

    Source: arXiv 2205.13147, Section 3, Eq. 1; Table 27 for the weights.
    """

    def __init__(
        self,
        loss,
        relative_importance=None,
        prefix_reduction="sum",
        reduction="sum_over_batch_size",
        name="matryoshka_loss",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if prefix_reduction not in PREFIX_REDUCTIONS:
            raise ValueError(
                f"`prefix_reduction` must be one of {PREFIX_REDUCTIONS}. "
                f"Received {prefix_reduction!r}."
            )
        self.loss = loss if isinstance(loss, PrefixLosses) else as_inner_loss(loss)
        self.prefix_reduction = prefix_reduction
        self._checks_probabilities = any(map(expects_probabilities, self._inner_losses))
        self.relative_importance = relative_importance
        if relative_importance is not None and not self._adapts:
            count = len(_listed(relative_importance))
            self.relative_importance = checked_relative_importance(relative_importance, count)

    def __call__(self, y_true, y_pred, sample_weight=None):
        if isinstance(y_true, Mapping):
            if not self._own_targets:
                raise ValueError(
                    f"A dict of targets, here for {list(y_true)}, needs "
                    "`loss=PrefixLosses(..., own_targets=True)`."
                )
            axis = target_axis(y_pred.shape)
            y_true = stack_targets(y_true, self.loss.nesting_dims, axis)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true, y_pred, sample_weight=None):
        losses, mask = self.prefix_losses(y_true, y_pred), None
        if self._adapts:
            adapting = records_gradients(y_pred)
            means = adapting is not False and batch_means(
                losses, get_keras_mask(y_pred), sample_weight
            )
            weights = self.relative_importance.weigh(means, adapting)
        else:
            weights = self.relative_importance or (1.0,) * len(losses)
        if any(get_keras_mask(one) is not None for one in losses):
            mean = self.reduction in ("mean", "sum_over_batch_size")
            losses, mask = _under_one_mask(losses, get_keras_mask(y_pred), mean)
        return with_mask(weighted_prefix_sum(losses, weights, self.prefix_reduction), mask)

    def prefix_losses(self, y_true, y_pred):
        """The unweighted inner loss of each prefix, a list of tensors (batch, ...)."""
        y_pred = ops.convert_to_tensor(y_pred)
        y_true = None if y_true is None else ops.convert_to_tensor(y_true)
        shape = None if y_true is None else y_true.shape
        check_nested(shape, y_pred.shape, self._counts)
        if self._checks_probabilities:
            self._check_probabilities(y_pred)
        found = []
        for position, one in enumerate(ops.unstack(y_pred, axis=-2)):
            loss, target = self._inner_loss(position), y_true
            if self._own_targets and y_true is not None:
                target = own_target(y_true, position, y_pred.shape)
            check_labels(loss, None if target is None else target.shape, y_pred.shape)
            found.append(call_inner(loss, target, one, y_pred[..., -1, :]))
        return found

    def _inner_loss(self, position):
        return self.loss.of(position) if isinstance(self.loss, PrefixLosses) else self.loss

    @property
    def _inner_losses(self):
        count = len(self.loss.nesting_dims) if isinstance(self.loss, PrefixLosses) else 1
        return [self._inner_loss(position) for position in range(count)]

    @property
    def _counts(self):
        """{what has one value for each prefix: how many it has}, for errors."""
        found = {}
        if isinstance(self.loss, PrefixLosses):
            found["`loss` has {} losses"] = len(self.loss.nesting_dims)
        if self.relative_importance is not None:
            weights = self.relative_importance
            count = len(weights.nesting_dims if self._adapts else weights)
            found["`relative_importance` has {} weights"] = count
        return found

    @property
    def _own_targets(self):
        return isinstance(self.loss, PrefixLosses) and self.loss.own_targets

    @property
    def _adapts(self):
        return isinstance(self.relative_importance, PrefixWeighting)

    @property
    def _reads_weights(self):
        return self._adapts

    def _check_probabilities(self, y_pred):
        """Warn of logits, at the first call whose values are known."""
        outside = _outside_of_probabilities(y_pred)
        self._checks_probabilities = outside is None
        if outside:
            name = name_of(next(filter(expects_probabilities, self._inner_losses)))
            warnings.warn(
                f"{name} takes probabilities, and the outputs lie outside [0, 1]. For "
                "logits, as a plain MatryoshkaDense gives them, pass the loss as an instance with "
                "`from_logits=True`.",
                stacklevel=2,
            )

    def get_config(self):
        importance = self.relative_importance
        if self._adapts:
            importance = keras.saving.serialize_keras_object(importance)
        elif importance is not None:
            importance = list(importance)
        return {
            **super().get_config(),
            "loss": keras.losses.serialize(self.loss),
            "relative_importance": importance,
            "prefix_reduction": self.prefix_reduction,
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config):
        config = deserialize_argument(config, "loss", keras.losses.deserialize)
        revive = keras.saving.deserialize_keras_object
        return cls(**deserialize_argument(config, "relative_importance", revive))

    @property
    def _reads_labels(self):
        return any(getattr(one, "_reads_labels", True) for one in self._inner_losses)

    @property
    def _label_kind(self):
        kinds = {label_kind(one) for one in self._inner_losses}
        return kinds.pop() if len(kinds) == 1 else None


def _under_one_mask(losses, output_mask, mean):
    """The losses of the prefixes, each 0 where its own mask is false, and the union of the masks.

    Keras sums the values, or with `mean` divides them by how many the one mask leaves. So that
    each prefix is divided by the number of its own, its values are scaled by the ratio.

    Args:
        losses: one tensor (batch, ...) for each prefix, with a Keras mask or without.
        output_mask: None, or the mask of the model's output.
        mean: bool.
    """
    full = ops.ones_like(losses[0], dtype="bool")
    masks = [get_keras_mask(one) for one in losses]
    masks = [full if mask is None else ops.cast(mask, "bool") for mask in masks]
    union = masks[0]
    for mask in masks[1:]:
        union = ops.logical_or(union, mask)

    if output_mask is not None and len(output_mask.shape) != len(full.shape):
        output_mask = None

    def count(mask):
        return ops.sum(ops.cast(joined_masks(mask, output_mask), "float32"))

    scaled = []
    for loss, mask in zip(losses, masks, strict=True):
        value = ops.where(mask, loss, 0.0)
        if mean:
            ratio = ops.divide_no_nan(count(union), count(mask))
            value = ops.multiply(value, ops.cast(ratio, value.dtype))
        scaled.append(value)
    return scaled, union


def check_nested(y_true_shape, y_pred_shape, counts):
    """Raise a ValueError unless `y_pred` is nested, with as many prefixes as each of `counts`."""
    received = _received(y_true_shape, y_pred_shape)
    if len(y_pred_shape) < 3:
        raise ValueError(
            "A nested output has shape (batch, ..., prefixes, units), so at least 3 axes, but the "
            f"prefix axis (-2) is missing. {received} Is the model's last layer MatryoshkaDense or "
            "MatryoshkaSimilarity?"
        )
    for what, count in counts.items():
        if y_pred_shape[-2] not in (None, count):
            raise ValueError(
                f"{what.format(count)}, but the prefix axis (-2) of the output has "
                f"{y_pred_shape[-2]} prefixes. {received}"
            )


def check_labels(loss, y_true_shape, y_pred_shape):
    """Raise a ValueError unless the labels of a prefix fit its output."""
    if y_true_shape is None:
        return  # a loss that reads no labels
    kind = label_kind(loss)
    one = (*y_pred_shape[:-2], y_pred_shape[-1])
    fits = {
        "dense": _compatible(y_true_shape, one),
        "sparse": any(_compatible(y_true_shape, (*one[:-1], *end)) for end in ((), (1,))),
        None: True,
    }[kind]
    if not fits:
        wanted = f"{_text(one)}" if kind == "dense" else f"{_text(one[:-1])} integer labels"
        raise ValueError(
            f"The labels don't fit the output of one prefix, {_text(one)}: "
            f"{name_of(loss)} wants y_true {wanted}. {_received(y_true_shape, y_pred_shape)}"
        )


def _received(y_true_shape, y_pred_shape):
    given = None if y_true_shape is None else _text(y_true_shape)
    return f"Received y_pred {_text(y_pred_shape)} and y_true {given}."


def _outside_of_probabilities(y_pred):
    """Whether some outputs are no probabilities; None where values are known at run time only."""
    if isinstance(y_pred, keras.KerasTensor) or 0 in tuple(y_pred.shape):
        return None
    try:
        values = keras.ops.convert_to_numpy(keras.ops.cast(y_pred, "float32"))
    except Exception:  # a tensor of a graph, of another kind on each backend
        return None
    return bool(values.min() < -1e-3 or values.max() > 1.0 + 1e-3)


def _compatible(shape, wanted):
    return len(shape) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(shape, wanted, strict=True)
    )


def _listed(weights):
    try:
        return list(weights)
    except TypeError:
        raise ValueError(
            "`relative_importance` must be a sequence with one number for each prefix. "
            f"Received {weights!r}."
        ) from None


def _text(shape):
    return f"({', '.join('None' if n is None else str(n) for n in shape)})"
