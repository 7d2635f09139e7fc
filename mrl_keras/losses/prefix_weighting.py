"""Weights of the prefixes that follow their losses: what all methods share."""

import json

import keras
import numpy as np
from keras import ops
from keras.src.saving.serialization_lib import (
    get_shared_object,
    record_object_after_deserialization,
)

from mrl_keras.checks import checked_number
from mrl_keras.masks import get_keras_mask, joined_masks
from mrl_keras.nesting import NestingDims
from mrl_keras.recording import check_kept
from mrl_keras.replicas import gather_rows


def batch_means(losses, output_mask=None, sample_weight=None):
    """The mean loss of each prefix over the batch of all replicas: sum(w l) / sum(w).

    Args:
        losses: one tensor (batch, ...) for each prefix, with a Keras mask or without.
        output_mask: None, or the mask of the model's output.
        sample_weight: None, or a tensor (batch, ...) of at most that rank.

    Returns:
        float32 tensor (prefixes,), without gradient; NaN where no weight is above 0.
    """
    sums, counts = [], []
    for loss in losses:
        value = ops.cast(ops.stop_gradient(loss), "float32")
        weight = _weight_like(value, joined_masks(get_keras_mask(loss), output_mask), sample_weight)
        # A value that does not count may be anything, also NaN.
        sums.append(ops.sum(ops.where(ops.equal(weight, 0.0), 0.0, ops.multiply(value, weight))))
        counts.append(ops.sum(weight))
    of_all = gather_rows(ops.expand_dims(ops.stack([ops.stack(sums), ops.stack(counts)]), 0))
    sums, counts = ops.unstack(ops.sum(of_all, axis=0))
    return ops.where(ops.equal(counts, 0.0), float("nan"), sums / ops.where(counts == 0, 1, counts))


def _weight_like(value, mask, sample_weight):
    """What each of `value` counts, a float32 tensor of its shape."""
    weight = ops.ones_like(value)
    for part in (mask, sample_weight):
        if part is None:
            continue
        part = ops.cast(part, "float32")
        if len(part.shape) == len(value.shape) + 1 and part.shape[-1] == 1:
            part = ops.squeeze(part, -1)
        while len(part.shape) < len(value.shape):
            part = ops.expand_dims(part, -1)
        weight = ops.multiply(weight, part)
    return weight


class PrefixWeighting(keras.metrics.Metric):
    """Weights c_m of Eq. 1 that follow the losses of the prefixes while a model trains.

    A subclass has the method `step`, from the prefix losses of a batch to weights, and makes its
    variables in `initial_state`. This class makes of any result

    c = uniform + (1 - uniform) * M * w / sum(w)

    with M prefixes, so that the weights sum to M as in Eq. 1 with ones, and none is below
    `uniform`. Losses below `floor` count as `floor`. A batch with a loss that is not finite leaves
    weights and variables as they are, as do `evaluate` and calls of which no gradient is recorded;
    they weigh by the last weights.

    It is a Keras metric, whose values are the weights of the last batch, "c_d8" and so on: pass it
    to `MatryoshkaLoss` as `relative_importance` and to `compile` in `metrics` too. So `fit` logs
    them, and on JAX keeps them (on TensorFlow and torch they adapt also without). `.keras` files
    and `mrl_keras.distribution.Checkpoints` hold its variables. Under `tf.distribute` make it in
    the strategy's scope: the losses are those of all replicas, and the weights are equal on all.
    With gradient accumulation the weights adapt at each batch. Two weightings of one model need
    names of their own.

    Args:
        nesting_dims: `NestingDims` or list of ints, the prefixes.
        uniform: float in [0, 1], the least weight. Default 0.1.
        floor: float above 0, the least loss. Default 1e-6.
        name: default None, that of the class.
        dtype: of the logged weights; variables are float32. Default None, `keras.config.floatx()`.

    Raises:
        ValueError: a number out of range; on JAX, a training step that does not keep the variables.

    Example:

    >>> from mrl_keras.losses import PrefixWeighting
    >>> class Largest(PrefixWeighting):
    ...     "The prefix with the largest loss counts."
    ...     def step(self, losses, state):
    ...         return ops.cast(losses == ops.max(losses), "float32"), state
    >>> weighting = Largest([8, 16], uniform=0.5)
    >>> ops.convert_to_numpy(weighting.weigh(np.array([3.0, 1.0], "float32"), True)).tolist()
    [1.5, 0.5]
    >>> {name: float(value) for name, value in weighting.result().items()}
    {'c_d8': 1.5, 'c_d16': 0.5}

    Source: arXiv 2205.13147, Section 6, the first direction of future work.
    """

    def __init__(self, nesting_dims, uniform=0.1, floor=1e-6, name=None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.nesting_dims = NestingDims(nesting_dims)
        self.uniform = checked_number(uniform, "`uniform`", least=0.0, most=1.0)
        self.floor = checked_number(floor, "`floor`", above=0.0)
        initial = {"weights": np.ones(len(self.nesting_dims)), **self.initial_state()}
        # Mirrored, and written alike by all replicas; a metric's own are summed over them.
        self._state = {
            name: keras.Variable(
                np.asarray(value, "float32"), trainable=False, aggregation="mean", name=name
            )
            for name, value in initial.items()
        }

    def initial_state(self):
        """{name: array} of the variables that `step` keeps. Default none."""
        return {}

    def step(self, losses, state):
        """The weights for a batch, up to a factor, and the state after it.

        Args:
            losses: float32 tensor (prefixes,), each at least `floor`.
            state: {name: tensor} of the variables of `initial_state`.

        Returns:
            (float32 tensor (prefixes,), none negative; {name: tensor}).
        """
        raise NotImplementedError

    def weigh(self, losses, adapting):
        """The weights for a batch; adapts the variables where that is wanted.

        Args:
            losses: float32 tensor (prefixes,), without gradient.
            adapting: bool or bool tensor.

        Returns:
            float32 tensor (prefixes,).
        """
        now = {name: ops.convert_to_tensor(variable) for name, variable in self._state.items()}
        if adapting is False:
            return now["weights"]
        check_kept(self.variables, f"the weighting {self.name!r}")
        losses = ops.cast(losses, "float32")
        finite = ops.isfinite(losses)
        adapting = ops.logical_and(adapting, ops.all(finite))
        losses = ops.maximum(ops.where(finite, losses, 1.0), self.floor)
        own = {name: value for name, value in now.items() if name != "weights"}
        weights, after = self.step(losses, own)
        shares = ops.divide(weights, ops.sum(weights))
        weights = self.uniform + (1.0 - self.uniform) * len(self.nesting_dims) * shares
        after = {"weights": weights, **after}
        for name, variable in self._state.items():
            after[name] = ops.where(adapting, after[name], now[name])
            variable.assign(after[name])
        return after["weights"]

    def update_state(self, *args, **kwargs):
        """Nothing: the loss adapts the weights."""

    def reset_state(self):
        """Nothing: `fit` resets its metrics before each epoch, and the weights go on."""

    def result(self):
        """{"c_d8": the weight of the prefix 8, ...}."""
        weights = ops.cast(ops.convert_to_tensor(self._state["weights"]), self.dtype)
        return {
            f"c_d{dim}": one
            for dim, one in zip(self.nesting_dims, ops.unstack(weights), strict=True)
        }

    def save_own_variables(self, store):
        """Puts the variables into a `.keras` file."""
        for name, variable in self._state.items():
            store[name] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store):
        """Takes the variables from a `.keras` file."""
        for name, variable in self._state.items():
            variable.assign(np.asarray(store[name]))

    def get_config(self):
        return {
            **super().get_config(),
            "nesting_dims": list(self.nesting_dims),
            "uniform": self.uniform,
            "floor": self.floor,
        }

    @classmethod
    def from_config(cls, config):
        # Keras forgets in a nested config that the loss and the metrics of a model share this.
        key = json.dumps([cls.__name__, config], sort_keys=True)
        found = get_shared_object(key) or cls(**config)
        record_object_after_deserialization(found, key)
        return found
