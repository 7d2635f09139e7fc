"""The prefixes of a config and their weights, for any task."""

from __future__ import annotations

from mrl_keras import NestingDims


def chosen_dims(config, width):
    """M of a config: its `nesting_dims`, or halves of the width down to its `smallest_dim`.

    Raises:
        ValueError: dims that don't fit the width.
    """
    if len(config.nesting_dims):
        return NestingDims(config.nesting_dims, width=width)
    return NestingDims.halving(width, config.smallest_dim)


def importance(config, dims):
    """The weights c_m of `config.relative_importance`, one for each of `dims`; None for ones."""
    weights = relative_importance(config.relative_importance)
    return dims.relative_importance(weights) if weights else None


def relative_importance(text):
    """{dim: weight} of a text such as "8:2,16:1.5"."""
    weights = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        try:
            dim, weight = part.split(":")
            weights[int(dim)] = float(weight)
        except ValueError:
            raise ValueError(
                '`relative_importance` must list dims and weights such as "8:2,16:1.5". '
                f"Received {text!r}."
            ) from None
    return weights
