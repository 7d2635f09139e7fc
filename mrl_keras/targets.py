"""Targets of their own for the prefixes: coarse classes for narrow ones, fine classes for wide."""

from collections.abc import Mapping

from keras import ops

from mrl_keras.nesting import NestingDims


def stack_targets(targets, nesting_dims, axis=1):
    """The targets of all prefixes as one tensor, as `fit` takes it.

    `fit` refuses a dict of targets for a model of one output; this is the same as one tensor.

    Args:
        targets: dict from each trained prefix to its targets, all of one shape: integer labels
            (batch,), or dense targets (batch, units).
        nesting_dims: `NestingDims` or list of ints, the prefixes.
        axis: int, where the prefixes go. Default 1, right for outputs (batch, prefixes, units);
            for outputs with more leading axes it is their axis of prefixes.

    Returns:
        Tensor (batch, prefixes) or (batch, prefixes, units).

    Raises:
        ValueError: a prefix without targets, a dim that is no prefix, or shapes that differ.

    Example:

    >>> fine = np.array([0, 1, 2, 3])
    >>> targets = stack_targets({8: fine // 2, 16: fine // 2, 32: fine}, [8, 16, 32])
    >>> keras_array = ops.convert_to_numpy(targets)
    >>> keras_array[3].tolist()
    [1, 1, 3]
    """
    dims = NestingDims(nesting_dims)
    if not isinstance(targets, Mapping):
        raise ValueError(f"`targets` must be a dict from dims to targets. Received {targets!r}.")
    if set(targets) != set(dims):
        lacking = [dim for dim in dims if dim not in targets]
        unknown = [dim for dim in targets if dim not in dims]
        raise ValueError(
            f"`targets` must hold targets for each of the trained prefixes {list(dims)}. Received "
            f"{list(targets)}: it lacks {lacking}, and {unknown} are no prefixes."
        )
    found = [ops.convert_to_tensor(targets[dim]) for dim in dims]
    shapes = [tuple(one.shape) for one in found]
    if len(set(shapes)) > 1:
        raise ValueError(
            "`targets` of all prefixes must have one shape. Received "
            f"{dict(zip(dims, shapes, strict=True))}."
        )
    return ops.stack(found, axis=axis)


def target_axis(y_pred_shape):
    """The axis of the prefixes in stacked targets, for nested outputs of a shape."""
    return len(y_pred_shape) - 2


def own_target(targets, position, y_pred_shape):
    """One prefix's part of stacked targets.

    Args:
        targets: tensor (batch, ..., prefixes), or (batch, ..., prefixes, units).
        position: int, which prefix.
        y_pred_shape: shape of the nested outputs, (batch, ..., prefixes, units).

    Raises:
        ValueError: another number of prefixes.
    """
    axis, prefixes = target_axis(y_pred_shape), y_pred_shape[-2]
    shape = tuple(targets.shape)
    if len(shape) <= axis or (None not in (shape[axis], prefixes) and shape[axis] != prefixes):
        raise ValueError(
            f"With a target for each prefix y_true has the {prefixes} prefixes on axis {axis}. "
            f"Received y_true {shape} and y_pred {tuple(y_pred_shape)}; `stack_targets` makes it."
        )
    return targets[(slice(None),) * axis + (position,)]
