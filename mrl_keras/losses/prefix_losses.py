"""A loss for each prefix, and targets for each."""

from collections.abc import Mapping

import keras

from mrl_keras.losses.inner import as_inner_loss
from mrl_keras.nesting import NestingDims
from mrl_keras.registry import register


@register
class PrefixLosses:
    """What `MatryoshkaLoss` takes in place of one loss: a loss, and targets, for each prefix.

    loss = sum over m in M of c_m * L_m(y_m, z_m), where L_m and y_m may differ between prefixes.

    Args:
        nesting_dims: `NestingDims` or list of ints, the prefixes of the output.
        losses: dict from dims to losses, each a Keras `Loss` instance, a loss function or the
            name of one. Default None: no prefix has one of its own.
        default: the loss of the other prefixes. Default None: `losses` has one for each.
        own_targets: bool. True: `y_true` holds targets for each prefix, as `stack_targets` makes
            them from a dict, or in a direct call the dict itself. Default False: all prefixes
            have the same targets.

    Raises:
        ValueError: a dim that is no prefix, a prefix without a loss, or an inner loss that does not
            keep its default `reduction` and `dtype`.

    Example:

    >>> crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> losses = PrefixLosses([8, 16, 32], {8: "mse"}, default=crossentropy)
    >>> [getattr(losses.of(position), "__name__", "crossentropy") for position in range(3)]
    ['mean_squared_error', 'crossentropy', 'crossentropy']

    Source: arXiv 2205.13147, Section 6, the second direction of future work: other losses for
    other prefixes.
    """

    def __init__(self, nesting_dims, losses=None, default=None, own_targets=False):
        self.nesting_dims = NestingDims(nesting_dims)
        if losses is not None and not isinstance(losses, Mapping):
            raise ValueError(f"`losses` must be a dict from dims to losses. Received {losses!r}.")
        self.losses = {
            self.nesting_dims[self.nesting_dims.index(dim)]: as_inner_loss(loss)
            for dim, loss in (losses or {}).items()
        }
        self.default = None if default is None else as_inner_loss(default)
        self.own_targets = bool(own_targets)
        lacking = [dim for dim in self.nesting_dims if dim not in self.losses]
        if self.default is None and lacking:
            raise ValueError(
                f"Each prefix needs a loss. Received none for {lacking}: add them to `losses`, or "
                "give a `default`."
            )

    def of(self, position):
        """The loss of the prefix at a position of the prefix axis."""
        return self.losses.get(self.nesting_dims[position], self.default)

    def get_config(self):
        return {
            "nesting_dims": list(self.nesting_dims),
            "losses": {str(dim): keras.losses.serialize(loss) for dim, loss in self.losses.items()},
            "default": None if self.default is None else keras.losses.serialize(self.default),
            "own_targets": self.own_targets,
        }

    @classmethod
    def from_config(cls, config):
        def revived(loss):
            return keras.losses.deserialize(loss) if isinstance(loss, dict) else loss

        losses = {int(dim): revived(loss) for dim, loss in (config["losses"] or {}).items()}
        return cls(**{**config, "losses": losses, "default": revived(config["default"])})
