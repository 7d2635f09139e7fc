"""One Keras metric for each prefix, made from one specification."""

import re

import keras

from mrl_keras.masks import get_keras_mask, joined_masks, masked_weights, prefix_mask, with_mask
from mrl_keras.nesting import NestingDims
from mrl_keras.registry import deserialize_argument, register
from mrl_keras.targets import own_target

_TOP_K = re.compile(r"top_?(\d+)$")


@register
class PrefixMetric(keras.metrics.Metric):
    """A Keras metric that sees one prefix of a nested output.

    Usually made by `per_prefix`, which makes one for each prefix.

    Args:
        metric: a Keras `Metric` instance for outputs (batch, ..., units), of which a
            fresh copy is kept.
        nesting_dims: the prefixes on axis -2 of the output.
        dim: the trained prefix to measure.
        own_targets: bool, whether `y_true` holds targets for each prefix, see `stack_targets`.
            Default False.
        name: default None, `f"{metric.name}_d{dim}"`.
        dtype: default None, that of `metric`.

    Call arguments:
        y_true: what `metric` takes; with `own_targets` that of all prefixes.
        y_pred: (batch, ..., prefixes, units).
        sample_weight: optional, passed on to `metric`.

    Raises:
        ValueError: `metric` is not a Keras metric, `dim` is not in `nesting_dims`, or the
            output has another number of prefixes.

    Example:

    >>> import keras
    >>> from mrl_keras.metrics import PrefixMetric
    >>> metric = PrefixMetric(keras.metrics.SparseCategoricalAccuracy(), [2, 4], dim=4)
    >>> metric.name
    'sparse_categorical_accuracy_d4'
    >>> metric.update_state([1, 0], [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    >>> float(metric.result())
    1.0
    """

    def __init__(self, metric, nesting_dims, dim, own_targets=False, name=None, dtype=None):
        if not isinstance(metric, keras.metrics.Metric):
            raise ValueError(f"`metric` must be a keras.metrics.Metric. Received {metric!r}.")
        super().__init__(name=name or f"{metric.name}_d{dim}", dtype=dtype or metric.dtype)
        # A copy, since a metric shared by two prefixes would mix their states.
        own = {"dtype": dtype} if dtype is not None else {}
        self.metric = type(metric).from_config({**metric.get_config(), **own})
        if hasattr(metric, "_direction"):  # what callbacks of mode "auto" read
            self._direction = self.metric._direction = metric._direction
        self.nesting_dims = NestingDims(nesting_dims)
        self.dim = int(self.nesting_dims[self.nesting_dims.index(dim)])
        self.own_targets = bool(own_targets)

    def update_state(self, y_true, y_pred, sample_weight=None):
        position = self.nesting_dims.index(self.dim)
        mask = prefix_mask(y_pred, position)
        y_pred = keras.ops.convert_to_tensor(y_pred)
        shape = tuple(y_pred.shape)
        if len(shape) < 3 or shape[-2] not in (None, len(self.nesting_dims)):
            raise ValueError(
                f"The metric {self.name!r} needs outputs (batch, ..., prefixes, units) with the "
                f"{len(self.nesting_dims)} prefixes {list(self.nesting_dims)} on axis -2. "
                f"Received shape {shape}."
            )
        if self.own_targets and y_true is not None:
            y_true = own_target(keras.ops.convert_to_tensor(y_true), position, shape)
        more = {"teacher": y_pred[..., -1, :]} if getattr(self.metric, "reads_teacher", 0) else {}
        one_prefix = with_mask(y_pred[..., position, :], mask)
        return self.metric.update_state(y_true, one_prefix, sample_weight=sample_weight, **more)

    def result(self):
        return self.metric.result()

    def reset_state(self):
        self.metric.reset_state()

    def get_config(self):
        return {
            **super().get_config(),
            "metric": keras.metrics.serialize(self.metric),
            "nesting_dims": list(self.nesting_dims),
            "dim": self.dim,
            "own_targets": self.own_targets,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**deserialize_argument(config, "metric", keras.metrics.deserialize))


def per_prefix(specification, nesting_dims, own_targets=False):
    """One metric for each prefix, for `model.compile(metrics=...)`.

    Args:
        specification: what to measure at each prefix, or a list of such:

            - a string name of a Keras metric or loss, such as
              "sparse_categorical_accuracy";
            - "top5" or "top_5" (any k): top-k accuracy for integer labels;
            - a Keras `Metric` instance, copied for each prefix;
            - a Keras `Loss` instance or a `MatryoshkaLoss`, whose (inner) loss is then
              logged as its mean for each prefix: with `PrefixLosses` that prefix's own.
        nesting_dims: `NestingDims` or list of ints, the prefixes of the output.
        own_targets: bool, whether `y_true` holds targets for each prefix, see `stack_targets`.
            Default False; `MatryoshkaLoss(PrefixLosses(..., own_targets=True))` says so itself.

    Returns:
        A list of `PrefixMetric`, prefixes in order, whose logged names end in `_d` and
        the dim: "sparse_categorical_accuracy_d8", "top5_d8", "loss_d8".

    Raises:
        ValueError: an unknown name, "accuracy" (whose meaning Keras takes from shapes
            that are nested here), or something that is neither metric nor loss.

    Example:

    >>> from mrl_keras.metrics import per_prefix
    >>> [metric.name for metric in per_prefix("top5", [8, 16])]
    ['top5_d8', 'top5_d16']
    """
    dims = NestingDims(nesting_dims)
    if isinstance(specification, (list, tuple)):
        return [metric for one in specification for metric in per_prefix(one, dims, own_targets)]
    if isinstance(specification, keras.losses.Loss):
        # What is inside a `MatryoshkaLoss`: a loss, or `PrefixLosses`.
        nested = hasattr(specification, "relative_importance")
        inner = specification.loss if nested else specification
        own_targets = own_targets or getattr(inner, "own_targets", False)
        losses = [inner.of(i) if hasattr(inner, "of") else inner for i in range(len(dims))]
        templates = [MeanLoss(loss) for loss in losses]
    else:
        templates = [_as_metric(specification)] * len(dims)
    return [
        PrefixMetric(template, dims, dim, own_targets)
        for template, dim in zip(templates, dims, strict=True)
    ]


def _as_metric(specification):
    """A Keras metric from a name or a metric."""
    if isinstance(specification, keras.metrics.Metric):
        return specification
    if isinstance(specification, str):
        return _named_metric(specification)
    raise ValueError(
        "Each metric must be a name, a keras.metrics.Metric or a keras.losses.Loss. "
        f"Received {specification!r} of type {type(specification).__name__}."
    )


def _named_metric(name):
    if match := _TOP_K.match(name):
        return keras.metrics.SparseTopKCategoricalAccuracy(k=int(match[1]), name=name)
    if name in ("accuracy", "acc", "crossentropy", "ce"):
        raise ValueError(
            f'Keras guesses the meaning of "{name}" from the shapes of a plain output. Name the '
            'one you want, for example "sparse_categorical_accuracy" for integer labels.'
        )
    found = keras.metrics.get(name)
    if isinstance(found, keras.metrics.Metric):
        return found
    return keras.metrics.MeanMetricWrapper(found, name=name)


@register
class MeanLoss(keras.metrics.Mean):
    """The mean of a Keras loss over the samples seen, as a metric.

    Args:
        loss: a Keras `Loss` instance or loss function for outputs (batch, ..., units).
        name: default "loss".
        dtype: default None, `keras.config.floatx()`.

    Example:

    >>> import keras
    >>> from mrl_keras.metrics.prefix_metric import MeanLoss
    >>> metric = MeanLoss(keras.losses.MeanSquaredError())
    >>> metric.update_state([[0.0], [0.0]], [[1.0], [3.0]])
    >>> float(metric.result())
    5.0
    """

    def __init__(self, loss, name="loss", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.loss = loss
        self._direction = "down"

    @property
    def reads_teacher(self):
        """Whether `update_state` needs the widest prefix's output as `teacher`."""
        return getattr(self.loss, "reads_teacher", False)

    def update_state(self, y_true, y_pred, sample_weight=None, **teacher):
        inner = self.loss.call if isinstance(self.loss, keras.losses.Loss) else self.loss
        mask = get_keras_mask(y_pred)
        y_pred = keras.ops.convert_to_tensor(y_pred)
        y_true = None if y_true is None else keras.ops.convert_to_tensor(y_true)
        values = inner(y_true, y_pred, **teacher)
        mask = joined_masks(mask, get_keras_mask(values))
        sample_weight = masked_weights(sample_weight, mask, self.dtype)
        return super().update_state(values, sample_weight=sample_weight)

    def get_config(self):
        return {**super().get_config(), "loss": keras.losses.serialize(self.loss)}

    @classmethod
    def from_config(cls, config):
        return cls(**deserialize_argument(config, "loss", keras.losses.deserialize))
