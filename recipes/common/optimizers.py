"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import math

import keras
from keras import ops

from mrl_keras.checks import whole_number
from mrl_keras.distribution import clip_over_replicas

SCHEDULES = ("constant", "linear", "cosine", "triangular")
START_OF_TRIANGLE = 1e-4
"""FFCV's first learning rate, as a part of the peak."""


@keras.saving.register_keras_serializable(package="mrl_keras_recipes")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up to `learning_rate`, then one of four ways down.

    After the warm-up, at t = (step - warmup_steps) / (steps - warmup_steps) in [0, 1]:
    "constant" stays; "linear" and "triangular" go to 0 as 1 - t; "cosine" as
    (1 + cos(pi t)) / 2. The warm-up begins at 0, and "triangular"'s at 1e-4 of the peak: that is
    the schedule of FFCV's ImageNet recipe, which the paper's ResNet50 follows (Appendix C).

    Args:
        name: "constant", "linear", "cosine" or "triangular".
        learning_rate: float, the peak.
        steps: int, of the whole run.
        warmup_steps: int, below `steps`. Default 0.
    """

    def __init__(self, name, learning_rate, steps, warmup_steps=0):
        super().__init__()
        if name not in SCHEDULES:
            raise ValueError(
                f"`optimizer.schedule` must be one of {', '.join(SCHEDULES)}. Received {name!r}."
            )
        self.name = name
        self.learning_rate = _number(learning_rate, "learning_rate", above=0.0)
        self.steps = whole_number(steps, "`steps`")
        self.warmup_steps = whole_number(warmup_steps, "`optimizer.warmup_steps`", least=0)
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"`optimizer.warmup_steps` must be below `steps`, {self.steps}. "
                f"Received {self.warmup_steps}."
            )

    def __call__(self, step):
        step = ops.cast(step, "float32")
        t = ops.clip((step - self.warmup_steps) / (self.steps - self.warmup_steps), 0.0, 1.0)
        if self.name == "constant":
            part = ops.ones_like(t)
        elif self.name == "cosine":
            part = 0.5 * (1.0 + ops.cos(math.pi * t))
        else:
            part = 1.0 - t
        if self.warmup_steps:
            first = START_OF_TRIANGLE if self.name == "triangular" else 0.0
            rising = first + (1.0 - first) * step / self.warmup_steps
            part = ops.where(step < self.warmup_steps, rising, part)
        return self.learning_rate * part

    def get_config(self):
        return {
            "name": self.name,
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
        }


@keras.saving.register_keras_serializable(package="mrl_keras_recipes")
class MomentumSGD(keras.optimizers.SGD):
    """SGD whose weight decay is an L2 term of the gradient, as in PyTorch and FFCV.

    g <- g + l2 * w for kernels (variables of two axes or more), then momentum: unlike Keras's own
    `weight_decay`, which is applied beside the momentum and so decays less by 1 / (1 - momentum).

    Args:
        learning_rate: float or schedule. Default 0.01.
        momentum: float. Default 0.9.
        l2: float, the factor of w. Default 0.0.
        **kwargs: of `keras.optimizers.SGD`.
    """

    def __init__(self, learning_rate=0.01, momentum=0.9, l2=0.0, **kwargs):
        super().__init__(learning_rate, momentum, **kwargs)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        if self.l2 and is_decayed(variable):
            gradient = ops.add(ops.cast(gradient, variable.dtype), self.l2 * variable)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "l2": self.l2}


def is_decayed(variable) -> bool:
    """Whether weight decay applies: to kernels and tables, not to biases, scales and offsets."""
    return len(variable.shape) >= 2


# What each optimizer may be given beside the common keys, with its defaults.
OPTIONS = {
    "sgd": {"momentum": 0.9, "nesterov": False},
    "adam": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    "adamw": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    "adafactor": {"beta_2_decay": -0.8, "clip_threshold": 1.0},
}
COMMON = {
    "schedule": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "clip_norm": 0.0,
}


def optimizer(config, variables):
    """The optimizer of a config.

    Args:
        config: the whole config. `config.optimizer` has `name` ("sgd", "adam", "adamw" or
            "adafactor"), `learning_rate`, and optionally `schedule`, `warmup_steps`,
            `weight_decay` (of variables with two axes or more; for "sgd" an L2 term of the
            gradient, for the others decoupled and multiplied by the learning rate), `clip_norm`
            (of the whole gradient; 0 is off) and the optimizer's own: `momentum`, `nesterov`;
            `beta_1`, `beta_2`, `epsilon`; `beta_2_decay`, `clip_threshold`. `config.steps` and
            `config.gradient_accumulation` count batches: with an accumulation of n, every n-th
            batch updates the weights, with the mean of n gradients.
        variables: the trainable variables, to tell which are decayed.

    Raises:
        ValueError: an unknown name or key, or a value out of range.
    """
    given = dict(config.optimizer)
    name = given.pop("name", None)
    if name not in OPTIONS:
        raise ValueError(
            f"`optimizer.name` must be one of {', '.join(OPTIONS)}. Received {name!r}."
        )
    known = {**COMMON, **OPTIONS[name]}
    unknown = sorted(set(given) - set(known) - {"learning_rate"})
    if unknown or "learning_rate" not in given:
        raise ValueError(
            f"`optimizer` {name!r} needs learning_rate, and may have {', '.join(sorted(known))}. "
            f"Received {', '.join(sorted(given)) or 'nothing'}."
        )
    values = {**known, **given}
    schedule = Schedule(
        values["schedule"], values["learning_rate"], config.steps, values["warmup_steps"]
    )
    options = {key: values[key] for key in OPTIONS[name]}
    decay = _number(values["weight_decay"], "weight_decay")
    clip = _number(values["clip_norm"], "clip_norm")
    if clip:
        options["global_clipnorm"] = clip
    accumulation = whole_number(config.gradient_accumulation, "`gradient_accumulation`")
    if accumulation > 1:
        options["gradient_accumulation_steps"] = accumulation
    made = _made(name, schedule, decay, options, variables)
    return clip_over_replicas(made) if clip else made


def _made(name, schedule, decay, options, variables):
    if name == "sgd":
        return MomentumSGD(schedule, l2=decay, **options)
    if name == "adafactor":
        options["relative_step"] = False  # the schedule decides, not Adafactor's own 1 / sqrt(t)
    classes = {"adam": "Adam", "adamw": "AdamW", "adafactor": "Adafactor"}
    if decay or name == "adamw":  # AdamW wants a number, the others take 0 for a decay too
        options["weight_decay"] = decay
    made = getattr(keras.optimizers, classes[name])(schedule, **options)
    made.exclude_from_weight_decay(var_list=[v for v in variables if not is_decayed(v)])
    return made


def _number(value, what, above=None):
    """`value` as a finite float of at least 0, or more than `above`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0 and (above is None or number > above)):
        wanted = "at least 0" if above is None else f"above {above:g}"
        raise ValueError(f"`optimizer.{what}` must be a number {wanted}. Received {value!r}.")
    return number
