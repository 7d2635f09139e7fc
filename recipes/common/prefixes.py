"""The prefixes of a config and their weights, for any task."""

from __future__ import annotations

from mrl_keras import FAMO, AdaLoss, NestingDims, SoftOptimalUncertainty

WEIGHTINGS = {"adaloss": AdaLoss, "uw_so": SoftOptimalUncertainty, "famo": FAMO}
"""The weights that adapt, by their names in configs."""


def chosen_dims(config, width):
    """M of a config: its `nesting_dims`, or halves of the width down to its `smallest_dim`.

    Raises:
        ValueError: dims that don't fit the width.
    """
    if len(config.nesting_dims):
        return NestingDims(config.nesting_dims, width=width)
    return NestingDims.halving(width, config.smallest_dim)


def importance(config, dims):
    """The weights c_m of `config.relative_importance`, one for each of `dims`; None for ones.

    A `PrefixWeighting` where the config names one, such as "adaloss", or "uw_so:temperature=0.5".

    Raises:
        ValueError: a text that is none of these, or an argument that the weighting does not take.
    """
    text = config.relative_importance
    if adapts(text):
        name, _, arguments = text.replace(" ", "").partition(":")
        try:
            pairs = (one.split("=") for one in filter(None, arguments.split(",")))
            return WEIGHTINGS[name](dims, **{key: float(value) for key, value in pairs})
        except (TypeError, ValueError) as error:
            raise ValueError(f"`relative_importance` {text!r} does not fit: {error}") from error
    weights = relative_importance(text)
    return dims.relative_importance(weights) if weights else None


def adapts(text):
    """Whether a text, such as "uw_so:temperature=0.5", is one of weights that adapt."""
    return text.partition(":")[0].strip() in WEIGHTINGS


def relative_importance(text):
    """{dim: weight} of a text such as "8:2,16:1.5"."""
    weights = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        try:
            dim, weight = part.split(":")
            weights[int(dim)] = float(weight)
        except ValueError:
            raise ValueError(
                '`relative_importance` must list dims and weights such as "8:2,16:1.5", or begin '
                f"with one of {', '.join(WEIGHTINGS)}. Received {text!r}."
            ) from None
    return weights
