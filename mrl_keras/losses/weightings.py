"""Three ways from the losses of the prefixes to their weights."""

import numpy as np
from keras import ops

from mrl_keras.checks import checked_number
from mrl_keras.losses.prefix_weighting import PrefixWeighting
from mrl_keras.registry import register

# Adam's defaults, which FAMO's authors use for its logits.
FIRST, SECOND, TINY = 0.9, 0.999, 1e-8


def adaloss(losses, state, decay):
    """Weights w_m = 1 / running mean of L_m, and the state after the batch.

    Args:
        losses: tensor (prefixes,), above 0.
        state: {"mean": (prefixes,), "steps": ()}; the mean begins at 0 and is corrected for it.
        decay: float in [0, 1).

    Returns:
        (tensor (prefixes,), state).
    """
    mean = decay * state["mean"] + (1.0 - decay) * losses
    steps = state["steps"] + 1.0
    corrected = mean / (1.0 - ops.power(decay, steps))
    return 1.0 / corrected, {"mean": mean, "steps": steps}


def soft_optimal_uncertainty(losses, temperature):
    """Weights w = softmax(1 / (T L)) of losses (prefixes,), above 0."""
    return ops.softmax(1.0 / (temperature * losses))


def famo(losses, state, learning_rate, weight_decay):
    """FAMO's weights for a batch: softmax(x)_m / L_m, after a step of Adam on the logits x.

    The gradient of the logits is J' (log L before - log L now), J the Jacobian of softmax(x).

    Args:
        losses: tensor (prefixes,), above 0.
        state: {"logits", "first", "second", "before": (prefixes,), "steps": ()}.
        learning_rate, weight_decay: floats; the decay is added to the gradient.

    Returns:
        (tensor (prefixes,), state).
    """
    logits, steps = state["logits"], state["steps"]
    now = ops.log(losses)
    shares = ops.softmax(logits)
    change = state["before"] - now
    gradient = shares * (change - ops.sum(shares * change)) + weight_decay * logits
    first = FIRST * state["first"] + (1.0 - FIRST) * gradient
    second = SECOND * state["second"] + (1.0 - SECOND) * ops.square(gradient)
    # At step 0 nothing is known from before.
    begun = ops.cast(steps > 0.0, "float32")
    count = ops.maximum(steps, 1.0)
    step = (first / (1.0 - ops.power(FIRST, count))) / (
        ops.sqrt(second / (1.0 - ops.power(SECOND, count))) + TINY
    )
    after = {
        "logits": logits - begun * learning_rate * step,
        "first": begun * first,
        "second": begun * second,
        "before": now,
        "steps": steps + 1.0,
    }
    return ops.softmax(after["logits"]) / losses, after


@register
class AdaLoss(PrefixWeighting):
    """Weights inversely proportional to each prefix's mean loss: w_m = 1 / mean(L_m).

    The running mean is mean_t = decay * mean_(t-1) + (1 - decay) * L_t, corrected for its
    beginning at 0. Gradients are then those of sum over m of log E[L_m]: no prefix dominates
    because its loss is large. `PrefixWeighting` makes c of w, and says how to use it.

    Args:
        nesting_dims: `NestingDims` or list of ints, the prefixes.
        decay: float in [0, 1), of the running mean at each batch. Default 0.99.
        uniform: float in [0, 1], the least weight. Default 0.1.
        floor: float above 0, the least loss. Default 1e-6.
        name: default "adaloss".
        dtype: of the logged weights. Default None, `keras.config.floatx()`.

    Raises:
        ValueError: a number out of range.

    Example:

    >>> import keras
    >>> from mrl_keras import MatryoshkaDense, MatryoshkaLoss, per_prefix
    >>> from mrl_keras.losses import AdaLoss
    >>> model = keras.Sequential([keras.Input((4,)), MatryoshkaDense(3, [2, 4])])
    >>> crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> loss = MatryoshkaLoss(crossentropy, relative_importance=AdaLoss([2, 4]))
    >>> model.compile("sgd", loss, metrics=[*per_prefix(loss, [2, 4]), loss.relative_importance])
    >>> history = model.fit(np.eye(4), np.array([0, 1, 2, 0]), verbose=0).history
    >>> sorted(history)
    ['c_d2', 'c_d4', 'loss', 'loss_d2', 'loss_d4']

    Source: arXiv 1708.06832 (AAAI 2019), weights by the inverse of each loss's average. The
    exponential mean, its decay and the share of uniform weights are this package's choice.
    """

    def __init__(
        self, nesting_dims, decay=0.99, uniform=0.1, floor=1e-6, name="adaloss", dtype=None
    ):
        self.decay = checked_number(decay, "`decay`", least=0.0, most=1.0 - 1e-9)
        super().__init__(nesting_dims, uniform, floor, name, dtype)

    def initial_state(self):
        return {"mean": np.zeros(len(self.nesting_dims)), "steps": 0.0}

    def step(self, losses, state):
        return adaloss(losses, state, self.decay)

    def get_config(self):
        return {**super().get_config(), "decay": self.decay}


@register
class SoftOptimalUncertainty(PrefixWeighting):
    """UW-SO: weights by a softmax of the inverse losses, w = softmax(1 / (T L)).

    1 / L_m is the weight that uncertainty weighting would learn for L_m; the softmax keeps a loss
    near 0 from an endless weight. Each batch weighs by its own losses; nothing is remembered.
    `PrefixWeighting` makes c of w, and says how to use it.

    Args:
        nesting_dims: `NestingDims` or list of ints, the prefixes.
        temperature: float above 0, T, in units of 1 / loss: small values follow the losses, large
            ones weigh alike. It is to be tuned. Default 1.0.
        uniform: float in [0, 1], the least weight. Default 0.1.
        floor: float above 0, the least loss. Default 1e-6.
        name: default "uw_so".
        dtype: of the logged weights. Default None, `keras.config.floatx()`.

    Raises:
        ValueError: a number out of range.

    Example:

    >>> from mrl_keras.losses import SoftOptimalUncertainty
    >>> weighting = SoftOptimalUncertainty([8, 16], uniform=0.0)
    >>> weights = weighting.weigh(np.array([1.0, 0.5], "float32"), adapting=True)
    >>> ops.convert_to_numpy(weights).round(3).tolist()  # 2 softmax([1, 2])
    [0.5379999876022339, 1.4620000123977661]

    Source: arXiv 2408.07985 (GCPR 2024). The paper's weights sum to 1, here to the number of
    prefixes; the share of uniform weights is this package's choice, 0 is the paper's.
    """

    def __init__(
        self, nesting_dims, temperature=1.0, uniform=0.1, floor=1e-6, name="uw_so", dtype=None
    ):
        self.temperature = checked_number(temperature, "`temperature`", above=0.0)
        super().__init__(nesting_dims, uniform, floor, name, dtype)

    def step(self, losses, state):
        return soft_optimal_uncertainty(losses, self.temperature), state

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}


@register
class FAMO(PrefixWeighting):
    """FAMO: weights under which the losses of all prefixes fall at the same rate.

    w_m = softmax(x)_m / L_m, and after each batch Adam moves the logits x along
    -J' (log L_before - log L_now), J the Jacobian of the softmax: the weight of a loss that fell by
    more than the others, in the logarithm, goes down. Gradients are those of
    sum_m softmax(x)_m log L_m, up to a factor.

    The paper compares the losses of one batch before and after a step, which takes a second forward
    pass. Here they are those of a batch and of the next one. What a batch's difficulty adds to all
    log losses alike cancels in J', whose columns sum to 0; the rest is noise that Adam averages.
    `PrefixWeighting` makes c of w, and says how to use it.

    Args:
        nesting_dims: `NestingDims` or list of ints, the prefixes.
        learning_rate: float above 0, of Adam on the logits. Default 0.025.
        weight_decay: float of at least 0, added to the logits' gradient. Default 0.001.
        uniform: float in [0, 1], the least weight. Default 0.1.
        floor: float above 0, the least loss. Default 1e-6.
        name: default "famo".
        dtype: of the logged weights. Default None, `keras.config.floatx()`.

    Raises:
        ValueError: a number out of range.

    Example:

    >>> from mrl_keras.losses import FAMO
    >>> weighting = FAMO([8, 16], uniform=0.0)
    >>> first = weighting.weigh(np.array([1.0, 1.0], "float32"), adapting=True)
    >>> second = weighting.weigh(np.array([0.5, 1.0], "float32"), adapting=True)
    >>> ops.convert_to_numpy(first).tolist(), bool(second[0] < 2 * 2 / 3)
    ([1.0, 1.0], True)

    Source: arXiv 2306.03792 (NeurIPS 2023), Algorithm 2 and the authors' code, with lowest losses
    of 0. The losses of the next batch and the share of uniform weights are this package's choice.
    """

    def __init__(
        self,
        nesting_dims,
        learning_rate=0.025,
        weight_decay=0.001,
        uniform=0.1,
        floor=1e-6,
        name="famo",
        dtype=None,
    ):
        self.learning_rate = checked_number(learning_rate, "`learning_rate`", above=0.0)
        self.weight_decay = checked_number(weight_decay, "`weight_decay`", least=0.0)
        super().__init__(nesting_dims, uniform, floor, name, dtype)

    def initial_state(self):
        each = np.zeros(len(self.nesting_dims))
        return {"logits": each, "first": each, "second": each, "before": each, "steps": 0.0}

    def step(self, losses, state):
        return famo(losses, state, self.learning_rate, self.weight_decay)

    def get_config(self):
        return {
            **super().get_config(),
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
        }
