"""L2-normalised prefixes: one prefix as a function, all of them as a layer."""

import keras
import numpy as np
from keras import ops

from mrl_keras.checks import whole_number
from mrl_keras.layers.matryoshka_dense import split_blocks
from mrl_keras.nesting import NestingDims
from mrl_keras.registry import register

# A prefix with a smaller norm counts as zero: its squared norm to the power -3/2, which
# the gradient needs, would leave the range of float32.
SMALLEST_NORM = 1e-12


def accumulation_dtype(dtype):
    """The dtype of norms and sums for inputs of `dtype`: float64 stays, all others float32."""
    return "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"


def inverse_norm(squared_norm):
    """1 / sqrt(squared_norm), and 0 with a zero gradient where the norm is (almost) zero."""
    nonzero = ops.greater(squared_norm, SMALLEST_NORM**2)
    # The inner `where` keeps the gradient of the branch not taken finite.
    return ops.where(nonzero, ops.rsqrt(ops.where(nonzero, squared_norm, 1.0)), 0.0)


def inverse_prefix_norms(blocks, axis=-1):
    """1 / the L2 norm of every prefix, from running sums of squares over the blocks.

    Args:
        blocks: the blocks of an embedding, cut along `axis`; the first j are prefix j.
        axis: the axis of the embedding's components.

    Returns:
        One tensor for each prefix, with 1 in place of `axis`; 0 for a zero prefix.
    """
    running, inverse = 0.0, []
    for block in blocks:
        running = ops.add(running, ops.sum(ops.square(block), axis=axis, keepdims=True))
        inverse.append(inverse_norm(running))
    return inverse


def normalize_prefix(x, dim):
    """One prefix, L2-normalised: x[..., :dim] / ||x[..., :dim]||_2.

    Args:
        x: float tensor (..., w) with w at least `dim`, so a truncated embedding is enough.
        dim: int, any prefix size, trained or not.

    Returns:
        Tensor (..., dim) of the dtype of `x`. The norm is taken in float32 at least. A
        prefix whose norm is below 1e-12 gives zeros, and a zero gradient.

    Raises:
        ValueError: `dim` is not a positive int, or `x` is narrower than `dim`.

    Example:

    >>> first = normalize_prefix(np.array([[3.0, 4.0, 12.0]], "float32"), dim=2)
    >>> [round(float(value), 4) for value in first[0]]
    [0.6, 0.8]

    Source: arXiv 2205.13147, Section 3 (normalised prefixes for retrieval).
    """
    x, dim = ops.convert_to_tensor(x), whole_number(dim, "`dim`")
    if x.shape[-1] is not None and x.shape[-1] < dim:
        raise ValueError(
            f"`x` must have at least `dim` = {dim} components on its last axis. "
            f"Received shape {tuple(x.shape)}."
        )
    prefix = ops.cast(x[..., :dim], accumulation_dtype(x.dtype))
    (scale,) = inverse_prefix_norms([prefix])
    return ops.cast(ops.multiply(prefix, scale), x.dtype)


@register
class PrefixNormalization(keras.layers.Layer):
    """L2-normalises each prefix by itself and stacks them, zero-padded to the full width.

    output[..., p, :m] = x[..., :m] / ||x[..., :m]||_2 and output[..., p, m:] = 0, for the
    p-th prefix size m of `nesting_dims`. The inner product of two outputs at one p is the
    cosine of the two prefixes. Prefixes whose norm is below 1e-12 give zeros, and zero
    gradients. Norms are running sums over blocks, in float32 also under mixed precision.

    Args:
        nesting_dims: `NestingDims` or list of ints that ends at the width of the input.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        (batch, ..., d) with d the last of `nesting_dims`. Masks pass through.

    Output shape:
        (batch, ..., prefixes, d); for (batch, d) the prefixes are on axis 1.

    Raises:
        ValueError: invalid `nesting_dims`, or an input whose width is not d.

    Example:

    >>> from mrl_keras.layers import PrefixNormalization
    >>> outputs = PrefixNormalization([2, 3])(np.array([[3.0, 4.0, 12.0]], "float32"))
    >>> (np.round(keras.ops.convert_to_numpy(outputs) * 65)).tolist()
    [[[39.0, 52.0, 0.0], [15.0, 20.0, 60.0]]]

    Source: arXiv 2205.13147, Section 3 (normalised prefixes for retrieval).
    """

    def __init__(self, nesting_dims, **kwargs):
        super().__init__(**kwargs)
        self.nesting_dims = NestingDims(nesting_dims)
        self.supports_masking = True
        # Do not autocast: `call` widens half precision before squares are summed.
        self.autocast = False

    def build(self, input_shape):
        self._check_width(input_shape)
        self.built = True

    def call(self, inputs):
        x = ops.cast(inputs, accumulation_dtype(self.compute_dtype))
        inverse = inverse_prefix_norms(split_blocks(x, self.nesting_dims))
        scales = ops.expand_dims(ops.concatenate(inverse, axis=-1), -1)
        inside = np.arange(self.nesting_dims.width) < np.array(self.nesting_dims)[:, None]
        outputs = ops.where(inside, ops.multiply(ops.expand_dims(x, -2), scales), 0.0)
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        self._check_width(input_shape)
        return (*input_shape[:-1], len(self.nesting_dims), input_shape[-1])

    def _check_width(self, input_shape):
        if len(input_shape) < 2 or input_shape[-1] != self.nesting_dims.width:
            raise ValueError(
                f"PrefixNormalization needs inputs (batch, ..., {self.nesting_dims.width}), the "
                f"width at which `nesting_dims` {list(self.nesting_dims)} end. "
                f"Received shape {tuple(input_shape)}; change the embedding or the dims."
            )

    def get_config(self):
        return {**super().get_config(), "nesting_dims": list(self.nesting_dims)}
