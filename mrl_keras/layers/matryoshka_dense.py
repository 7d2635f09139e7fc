"""The classification head over nested prefixes: MRL and MRL-E."""

import itertools

import keras
from keras import ops

from mrl_keras.checks import whole_number
from mrl_keras.layers.adaptable_kernels import AdaptableKernels
from mrl_keras.nesting import NestingDims
from mrl_keras.registry import register
from mrl_keras.sharing import HeldBySiblings


def split_blocks(x, dims, axis=-1):
    """Cut `axis` of `x` at the block edges of `dims`; the first j blocks together are prefix j.

    Splitting once, where each part has one reader, keeps the gradient a single
    concatenation instead of one zero-padded tensor for each prefix.
    """
    if len(dims) == 1:
        return [x]
    return ops.split(x, list(dims[:-1]), axis=axis)


def efficient_prefix_logits(x, kernel, bias, dims):
    """MRL-E logits of every prefix; each dimension's product is computed once.

    z_m = x[..., :m] @ kernel[:m] + bias, as z_m = z_(previous m) + one block's product.

    Args:
        x: tensor (..., d).
        kernel: tensor (d, units).
        bias: tensor (units,) or None.
        dims: NestingDims that end at d.

    Returns:
        A list with one tensor (..., units) for each prefix.
    """
    running, logits = bias, []
    blocks = zip(split_blocks(x, dims), split_blocks(kernel, dims, axis=0), strict=True)
    for x_block, kernel_block in blocks:
        product = ops.matmul(x_block, kernel_block)
        running = product if running is None else ops.add(running, product)
        logits.append(running)
    return logits


def separate_prefix_logits(x, kernels, biases, dims):
    """MRL logits of every prefix: z_m = x[..., :m] @ kernels[m] + biases[m].

    Args:
        x: tensor (..., d).
        kernels: one tensor (m, units) for each prefix.
        biases: one tensor (units,) for each prefix, or None.
        dims: NestingDims that end at d.

    Returns:
        A list with one tensor (..., units) for each prefix.
    """
    x_blocks, logits = split_blocks(x, dims), []
    for i, kernel in enumerate(kernels):
        prefix = x_blocks[0] if i == 0 else ops.concatenate(x_blocks[: i + 1], axis=-1)
        product = ops.matmul(prefix, kernel)
        logits.append(product if biases is None else ops.add(product, biases[i]))
    return logits


@register
class MatryoshkaDense(HeldBySiblings, AdaptableKernels, keras.layers.Layer):
    """Linear classifiers on every trained prefix of an embedding, as one layer.

    With prefix sizes m in M (Eq. 1):

    - MRL (`efficient=False`): logits_m = x[..., :m] @ W_m + b_m, one kernel and one bias
      for each prefix;
    - MRL-E (`efficient=True`): logits_m = x[..., :m] @ W[:m] + b, one kernel whose first
      rows serve the smaller prefixes and one bias shared by all (weight-tying). Each
      dimension's product is computed once, so all prefixes cost about one dense layer.

    Args:
        units: positive int, the number of classes (or outputs).
        nesting_dims: `NestingDims` or list of ints that ends at the width of the input.
        efficient: bool, MRL-E instead of MRL. Default False.
        use_bias: bool. Default True.
        activation: Keras activation on the stacked logits. Default None, plain logits.
        kernel_initializer: default "glorot_uniform". For MRL each kernel is drawn with
            its own fan-in m.
        bias_initializer: default "zeros".
        kernel_regularizer, bias_regularizer: applied to each kernel and bias. Default None.
        activity_regularizer: applied to the output. Default None.
        kernel_constraint, bias_constraint: applied to each kernel and bias. Default None.
        **kwargs: `name`, `dtype`, `trainable`, and `lora_rank`, `lora_alpha` and
            `quantization_config` as of `keras.layers.Dense`.

    `quantize("int8")`, the dtype policies "int8_from_float32" and the like, and `enable_lora` work
    as for `keras.layers.Dense`: each kernel has its own scales and its own LoRA matrices. MRL-E's
    prefixes share both, and its inputs are quantised block by block, so that each prefix is still
    the one before and one block's product.

    Input shape:
        (batch, ..., d) with d the last of `nesting_dims`. Masks pass through.

    Call arguments:
        inputs: (batch, ..., d).
        dim: int, one prefix instead of all, as in `prefix_logits`; once the layer is built the
            inputs may be truncated, (batch, ..., w) with w at least `dim`. Default None, all
            trained prefixes. A model that ends in `layer(embedding, dim=8)` shares the layer's
            weights, so it follows their training.

    Output shape:
        (batch, ..., prefixes, units); for (batch, d) the prefixes are on axis 1. With `dim`
        (batch, ..., units).

    Raises:
        ValueError: invalid `units` or `nesting_dims`, an input whose width is not d, or a `dim`
            that this layer cannot evaluate.

    Example:

    >>> import numpy as np
    >>> from mrl_keras import MatryoshkaDense
    >>> layer = MatryoshkaDense(units=10, nesting_dims=[4, 8, 16])
    >>> layer(np.ones((2, 16), "float32")).shape[1:] == (3, 10)
    True
    >>> layer(np.ones((2, 16), "float32"), dim=8).shape[1:] == (10,)
    True

    Source: arXiv 2205.13147, Section 3, Algorithms 1 and 2 (Appendix A).
    """

    def __init__(
        self,
        units,
        nesting_dims,
        efficient=False,
        use_bias=True,
        activation=None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.units = whole_number(units, "`units`")
        self.nesting_dims = NestingDims(nesting_dims)
        self.efficient = bool(efficient)
        self.use_bias = bool(use_bias)
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.supports_masking = True

    def build(self, input_shape):
        self._check_width(input_shape)
        sizes = [self.nesting_dims.width] if self.efficient else self.nesting_dims
        suffixes = [""] if self.efficient else [f"_{dim}" for dim in self.nesting_dims]

        def make(name, shape):
            return self.add_weight(
                name=name,
                shape=shape,
                initializer=_own_seed(self.kernel_initializer),
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
            )

        names = [f"kernel{suffix}" for suffix in suffixes]
        self._add_kernels(names, [(size, self.units) for size in sizes], make)
        if self.use_bias:
            self.biases = [
                self.add_weight(
                    name=f"bias{suffix}",
                    shape=(self.units,),
                    initializer=_own_seed(self.bias_initializer),
                    regularizer=self.bias_regularizer,
                    constraint=self.bias_constraint,
                )
                for suffix in suffixes
            ]
        self._end_build()

    def call(self, inputs, dim=None):
        if dim is not None:
            return self.activation(self._one_prefix(inputs, dim))
        self._check_width(inputs.shape)
        kernels = [self._kernel(place, self.compute_dtype) for place in range(len(self._kernels))]
        if self.efficient:
            bias = self.biases[0] if self.use_bias else None
            logits = efficient_prefix_logits(inputs, kernels[0], bias, self.nesting_dims)
        else:
            logits = separate_prefix_logits(inputs, kernels, self.biases, self.nesting_dims)
        return self.activation(ops.stack(logits, axis=-2))

    def _int8_call(self, inputs, dim=None):
        if dim is not None:
            return self.activation(self._one_prefix(inputs, dim))
        self._check_width(inputs.shape)
        logits = []
        for start, stop in itertools.pairwise((0, *self.nesting_dims)):
            if self.efficient and start:
                block = self.block_logits(inputs[..., start:stop], start, stop)
                logits.append(ops.add(logits[-1], block))
            else:
                logits.append(self._one_prefix(inputs, stop))
        return self.activation(ops.stack(logits, axis=-2))

    def prefix_logits(self, x, dim):
        """The logits of one prefix alone, without computing the others.

        Args:
            x: tensor (..., w) with w at least `dim`, so a truncated embedding is enough. For a
                symbolic tensor of a functional model this is `layer(x, dim=dim)`, which follows
                the layer's weights; with an activation it is refused.
            dim: int. A trained prefix; for MRL-E any int from 1 to d, trained or
                interpolated (Section 4.1).

        Returns:
            Tensor (..., units), before the activation.

        Raises:
            ValueError: the layer is not built, `x` is narrower than `dim`, `dim` is not a
                prefix that this layer can evaluate, or `x` is symbolic and the layer has an
                activation.
        """
        if not self.built:
            raise ValueError("Call or build the layer before asking for `prefix_logits`.")
        if isinstance(x, keras.KerasTensor):
            if self.activation is not keras.activations.linear:
                raise ValueError(
                    "`prefix_logits` of a symbolic tensor would hold the weights as constants. "
                    f"Received {x!r}: call the layer, `layer(x, dim={dim})`, which applies its "
                    "activation, or leave the layer's `activation` None."
                )
            return self(x, dim=dim)
        return self._one_prefix(ops.convert_to_tensor(x), dim)

    def _one_prefix(self, x, dim):
        """The logits of the prefix `dim`, from the built layer's weights."""
        position = self._checked_prefix(x.shape, dim)
        x = ops.cast(x, self.compute_dtype)
        edges = [0, dim]
        if self.efficient and self.quantization_mode:
            edges[1:1] = [edge for edge in self.nesting_dims if edge < dim]
        logits = ops.cast(self.biases[position], self.compute_dtype) if self.use_bias else None
        for start, stop in itertools.pairwise(edges):
            product = self._times(x[..., start:stop], position, start, stop)
            logits = product if logits is None else ops.add(logits, product)
        return logits

    def block_logits(self, x, start, stop):
        """What the dims from `start` to `stop` add to the logits, for MRL-E.

        So `prefix_logits(x, stop)` is `prefix_logits(x, start)` plus this, and a cascade that
        goes on to a wider prefix multiplies the new dims alone.

        Args:
            x: tensor (..., stop - start), those dims of the embedding.
            start: int, where the block starts; 0 is the first block, which brings the bias.
            stop: int above `start`, at most d.

        Returns:
            Tensor (..., units), before the activation.

        Raises:
            ValueError: the layer is not MRL-E or not built, or `x` is not the block's width.
        """
        _check_not_symbolic(x, "block_logits")
        if not (self.efficient and self.built):
            raise ValueError(
                "`block_logits` needs a built layer with efficient=True: only MRL-E's prefixes "
                "share a kernel. Received a layer with "
                f"efficient={self.efficient} and built={self.built}."
            )
        start, stop = whole_number(start, "`start`", least=0), whole_number(stop, "`stop`")
        if not start < stop <= self.width or x.shape[-1] != stop - start:
            raise ValueError(
                f"A block must lie between 0 and {self.width}, and `x` must be as wide as it. "
                f"Received the block from {start} to {stop} and shape {tuple(x.shape)}."
            )
        x = ops.cast(ops.convert_to_tensor(x), self.compute_dtype)
        logits = self._times(x, 0, start, stop)
        if start == 0 and self.use_bias:
            logits = ops.add(logits, ops.cast(self.biases[0], self.compute_dtype))
        return logits

    def _checked_prefix(self, shape, dim):
        """`_prefix_position(dim)`, for an input of this shape."""
        position = self._prefix_position(dim)
        if shape[-1] is not None and shape[-1] < dim:
            raise ValueError(
                f"`x` must have at least `dim` = {dim} components on its last axis. "
                f"Received shape {tuple(shape)}."
            )
        return position

    def _prefix_position(self, dim):
        """Which of `kernels` and `biases` serves the prefix `dim`."""
        if not self.efficient:
            return self.nesting_dims.index(dim)
        if whole_number(dim, "`dim`") > self.width:
            raise ValueError(f"`dim` must be an int from 1 to {self.width}. Received {dim}.")
        return 0

    @property
    def width(self):
        """The embedding width d that the layer takes."""
        return self.nesting_dims.width

    def compute_output_shape(self, input_shape, dim=None):
        if dim is not None:
            self._checked_prefix(input_shape, dim)
            return (*input_shape[:-1], self.units)
        self._check_width(input_shape)
        return (*input_shape[:-1], len(self.nesting_dims), self.units)

    def compute_output_spec(self, inputs, dim=None):
        shape = self.compute_output_shape(inputs.shape, dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def _check_width(self, input_shape):
        if len(input_shape) < 2 or input_shape[-1] != self.width:
            raise ValueError(
                f"MatryoshkaDense needs inputs (batch, ..., {self.width}), the width at which "
                f"`nesting_dims` {list(self.nesting_dims)} end. "
                f"Received shape {tuple(input_shape)}; change the embedding or the dims."
            )

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "nesting_dims": list(self.nesting_dims),
            "efficient": self.efficient,
            "use_bias": self.use_bias,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }


def _check_not_symbolic(x, method):
    if isinstance(x, keras.KerasTensor):
        raise ValueError(
            f"`{method}` of a symbolic tensor would hold the layer's weights as constants. "
            f"Received {x!r}: call the layer itself in a functional model, as in "
            "`layer(x, dim=8)`."
        )


def _own_seed(initializer):
    """A copy of `initializer`: one random initializer draws the same numbers at every call."""
    clone = getattr(initializer, "clone", None)
    return clone() if clone else initializer
