"""The masks that Keras hangs on tensors, for one prefix of a nested output and for several."""

from keras import ops
from keras.src.backend import get_keras_mask, set_keras_mask


def with_mask(tensor, mask):
    """`tensor` itself, with `mask` as its Keras mask unless that is None."""
    if mask is not None:
        set_keras_mask(tensor, mask)
    return tensor


def prefix_mask(nested, position):
    """The Keras mask of one prefix of `nested`, or None.

    Args:
        nested: tensor (batch, ..., prefixes, units), whose mask is (batch, ...) for all prefixes,
            or (batch, ..., prefixes).
        position: int, which prefix.
    """
    mask = get_keras_mask(nested)
    own = mask is not None and len(mask.shape) == len(nested.shape) - 1 > 1
    return mask[..., position] if own else mask


def joined_masks(*masks):
    """Where all masks are true, of those that are not None; None without any."""
    given = [ops.cast(mask, "bool") for mask in masks if mask is not None]
    joined = given[0] if given else None
    for mask in given[1:]:
        joined = ops.logical_and(joined, mask)
    return joined


def masked_weights(sample_weight, mask, dtype):
    """`sample_weight`, 0 where `mask` is false; None where both are None.

    Args:
        sample_weight: None, or a tensor (batch, ...) of at most the rank of `mask`, such as one
            weight for each sequence.
        mask: None, or a bool tensor (batch, ...).
        dtype: of the result.
    """
    if mask is None:
        return sample_weight
    mask = ops.cast(mask, dtype)
    if sample_weight is None:
        return mask
    weight = ops.convert_to_tensor(sample_weight, dtype=dtype)
    while len(weight.shape) < len(mask.shape):
        weight = ops.expand_dims(weight, -1)
    while len(mask.shape) < len(weight.shape):
        mask = ops.expand_dims(mask, -1)
    return ops.multiply(weight, mask)
