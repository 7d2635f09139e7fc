"""Similarities of every prefix of two sets of embeddings, and their temperature."""

import math
import numbers

import keras
import numpy as np
from keras import ops

from mrl_keras.layers.matryoshka_dense import split_blocks
from mrl_keras.layers.prefix_normalization import accumulation_dtype, inverse_prefix_norms
from mrl_keras.nesting import NestingDims
from mrl_keras.registry import register

LARGEST_INVERSE_TEMPERATURE = 100.0


def outer_scaled(x, row_scale, column_scale):
    """x[i, j] * row_scale[i] * column_scale[j], with a gradient that is cheap on CPUs.

    Args:
        x: tensor (n, m).
        row_scale: tensor (n, 1).
        column_scale: tensor (1, m).

    Returns:
        Tensor (n, m).
    """

    @ops.custom_gradient
    def scaled(x, row_scale, column_scale):
        output = ops.multiply(x, ops.multiply(row_scale, column_scale))

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            # d/d row_scale[i] = sum_j upstream * output / row_scale[i]: one product serves
            # both scales. Where a scale is 0 its row or column is a zero prefix, which
            # has no gradient.
            product = ops.multiply(upstream, output)
            rows, columns = (ops.sum(product, axis=axis, keepdims=True) for axis in (1, 0))
            return (
                ops.multiply(upstream, ops.multiply(row_scale, column_scale)),
                ops.divide_no_nan(rows, row_scale),
                ops.divide_no_nan(columns, column_scale),
            )

        return output, gradient

    return scaled(x, row_scale, column_scale)


def nested_similarity(query, document, dims, inverse_temperatures, normalize=True):
    """Similarities of every prefix; each dimension's product is computed once.

    With normalisation, S_m[i, j] = cos(query[i, :m], document[j, :m]) / T_m: the running
    sum of the blocks' products, scaled by the inverse norms of row i and column j.

    Args:
        query: float32 or float64 tensor (n, d).
        document: tensor (m, d) of the same dtype.
        dims: NestingDims that end at d.
        inverse_temperatures: one float or scalar tensor 1 / T_m for each prefix.
        normalize: bool, cosines of the prefixes rather than inner products. Default True.

    Returns:
        A list with one tensor (n, m) for each prefix.
    """
    rows = split_blocks(query, dims)
    # Transposing the documents once, here, spares the gradient a transpose of (n, m) for
    # each prefix: the blocks' gradients are upstream @ column.T and row.T @ upstream.
    columns = split_blocks(ops.transpose(document), dims, axis=0)
    if normalize:
        row_scales = inverse_prefix_norms(rows, axis=1)
        column_scales = inverse_prefix_norms(columns, axis=0)
    running, similarities = None, []
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        product = ops.matmul(row, column)
        running = product if running is None else ops.add(running, product)
        inverse = inverse_temperatures[i]
        if normalize:
            row_scale = ops.multiply(row_scales[i], inverse)
            similarities.append(outer_scaled(running, row_scale, column_scales[i]))
        else:
            similarities.append(ops.multiply(running, inverse))
    return similarities


@register
class ClipByValue(keras.constraints.Constraint):
    """Keeps a weight between two values.

    Args:
        min_value: float, the smallest value.
        max_value: float, the largest value.
    """

    def __init__(self, min_value, max_value):
        self.min_value = float(min_value)
        self.max_value = float(max_value)

    def __call__(self, w):
        return ops.clip(w, self.min_value, self.max_value)

    def get_config(self):
        return {"min_value": self.min_value, "max_value": self.max_value}


class EmbeddingPairLayer(keras.layers.Layer):
    """The base of layers that compare two sets of embeddings at every trained prefix.

    A subclass says in `_needs` which inputs it takes.

    Args:
        nesting_dims: `NestingDims` or list of ints that ends at the width of the inputs.
        **kwargs: `name`, `dtype`, `trainable`.
    """

    def __init__(self, nesting_dims, **kwargs):
        super().__init__(**kwargs)
        self.nesting_dims = NestingDims(nesting_dims)
        # Do not autocast: `call` widens half precision before products are summed.
        self.autocast = False

    def build(self, input_shape):
        self._check_shapes(input_shape)
        self.built = True

    def _widened(self, inputs):
        """Both inputs in float32 at least."""
        dtype = accumulation_dtype(self.compute_dtype)
        return [ops.cast(x, dtype) for x in inputs]

    def compute_output_spec(self, inputs):
        shape = self.compute_output_shape([x.shape for x in inputs])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def _fit_together(self, first, second):
        """Whether two shapes (rows, d) may be compared."""
        return True

    def _check_shapes(self, shapes):
        width = self.nesting_dims.width
        pair = isinstance(shapes, (list, tuple)) and len(shapes) == 2
        pair = pair and all(isinstance(one, (list, tuple)) and len(one) == 2 for one in shapes)
        if not (pair and all(one[1] == width for one in shapes) and self._fit_together(*shapes)):
            raise ValueError(
                f"{type(self).__name__} needs {self._needs.format(width=width)}, the width at "
                f"which `nesting_dims` {list(self.nesting_dims)} end. Received shapes {shapes}; "
                "change the embeddings or the dims."
            )
        return shapes

    def get_config(self):
        return {**super().get_config(), "nesting_dims": list(self.nesting_dims)}


@register
class MatryoshkaSimilarity(EmbeddingPairLayer):
    """Similarities of all queries with all documents at every trained prefix.

    S[i, p, j] = cos(query[i, :m], document[j, :m]) / T, with m the p-th prefix size of
    `nesting_dims`: each prefix L2-normalised by itself (zero vectors have cosine 0 with
    everything). With `normalize=False` the cosine is replaced by the inner product. Each
    dimension's product is computed once, in float32 also under mixed precision.

    For contrastive training with in-batch negatives compile it with
    `MatryoshkaLoss(SymmetricContrastive())`.

    Args:
        nesting_dims: `NestingDims` or list of ints that ends at the width of the inputs.
        normalize: bool, cosines rather than inner products. Default True.
        temperature: float above 0, or with `per_prefix_temperature` a sequence with one
            for each prefix. Default 1.0. For a learnable one this is the initial value,
            from 0.01 to 100.
        learnable_temperature: bool. Default False. When True the layer has a weight,
            log(1 / T), kept between log(1 / 100) and log(100) by a constraint, so that
            logits can neither overflow nor vanish.
        per_prefix_temperature: bool, a temperature for each prefix rather than one for
            all. Default False.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        A list [query, document] of (n, d) and (m, d), with d the last of `nesting_dims`.

    Output shape:
        (n, prefixes, m), of the compute dtype. Under mixed precision, logits with a small
        temperature want `dtype="float32"`, like any output layer.

    Raises:
        ValueError: invalid `nesting_dims` or `temperature`, or inputs other than two
            tensors of width d.

    Example:

    >>> from mrl_keras.layers import MatryoshkaSimilarity
    >>> pairs = np.eye(4, dtype="float32"), np.eye(4, dtype="float32")
    >>> logits = MatryoshkaSimilarity([2, 4], temperature=0.5)(list(pairs))
    >>> keras.ops.convert_to_numpy(logits)[3].tolist()  # zero at the first prefix
    [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0]]

    Source: arXiv 2205.13147, Section 3 (contrastive learning with normalised prefixes, as
    in ALIGN); the clamp of the temperature is CLIP's (arXiv 2103.00020, Section 2.5).
    """

    _needs = "a list [query, document] of shapes (n, {width}) and (m, {width})"

    def __init__(
        self,
        nesting_dims,
        normalize=True,
        temperature=1.0,
        learnable_temperature=False,
        per_prefix_temperature=False,
        **kwargs,
    ):
        super().__init__(nesting_dims, **kwargs)
        self.normalize = bool(normalize)
        self.learnable_temperature = bool(learnable_temperature)
        self.per_prefix_temperature = bool(per_prefix_temperature)
        count = len(self.nesting_dims)
        self.temperature = _checked_temperature(temperature, count, self.per_prefix_temperature)
        if self.learnable_temperature:
            _check_learnable(self.temperature)

    def build(self, input_shape):
        self.log_inverse_temperature = None
        if self.learnable_temperature:
            limit = math.log(LARGEST_INVERSE_TEMPERATURE)
            start = -np.log(np.array(self.temperature))
            self.log_inverse_temperature = self.add_weight(
                name="log_inverse_temperature",
                shape=start.shape,
                initializer=lambda shape, dtype: ops.cast(start, dtype),
                constraint=ClipByValue(-limit, limit),
            )
        super().build(input_shape)

    def call(self, inputs):
        similarities = self.prefix_similarities(*inputs)
        return ops.cast(ops.stack(similarities, axis=1), self.compute_dtype)

    def prefix_similarities(self, query, document):
        """The list of (n, m) similarities, one for each prefix, in float32 at least.

        Raises:
            ValueError: symbolic tensors, outside of the layer's own call.
        """
        if isinstance(query, keras.KerasTensor) or isinstance(document, keras.KerasTensor):
            raise ValueError(
                "`prefix_similarities` of symbolic tensors would hold the temperature as a "
                f"constant. Received {query!r} and {document!r}: call the layer, "
                "`layer([query, document])`, and take a prefix from axis 1."
            )
        query, document = self._widened([query, document])
        inverse = self._inverse_temperatures(accumulation_dtype(self.compute_dtype))
        return nested_similarity(query, document, self.nesting_dims, inverse, self.normalize)

    def _inverse_temperatures(self, dtype):
        """One float or scalar tensor 1 / T for each prefix."""
        count = len(self.nesting_dims)
        if self.learnable_temperature:
            inverse = ops.exp(ops.cast(self.log_inverse_temperature, dtype))
            return ops.unstack(inverse) if self.per_prefix_temperature else [inverse] * count
        if self.per_prefix_temperature:
            return [1.0 / one for one in self.temperature]
        return [1.0 / self.temperature] * count

    def compute_output_shape(self, input_shape):
        query, document = self._check_shapes(input_shape)
        return (query[0], len(self.nesting_dims), document[0])

    def get_config(self):
        temperature = self.temperature
        return {
            **super().get_config(),
            "normalize": self.normalize,
            "temperature": list(temperature) if self.per_prefix_temperature else temperature,
            "learnable_temperature": self.learnable_temperature,
            "per_prefix_temperature": self.per_prefix_temperature,
        }


def _checked_temperature(temperature, count, per_prefix):
    """A float, or with `per_prefix` a tuple of `count` floats, all finite and above zero."""
    if not per_prefix:
        return _positive(temperature)
    values = np.atleast_1d(np.asarray(temperature, dtype=object)).tolist()
    if np.ndim(temperature) == 0:
        values = values * count
    if len(values) != count:
        raise ValueError(
            f"`temperature` must hold one number for each of the {count} prefixes. "
            f"Received {len(values)}: {values}."
        )
    return tuple(_positive(one) for one in values)


def _positive(temperature):
    is_number = isinstance(temperature, numbers.Real) and not isinstance(temperature, bool)
    if not is_number or not 0.0 < temperature < math.inf:
        raise ValueError(
            "`temperature` must be a finite number above 0, or with "
            "`per_prefix_temperature=True` a sequence of one for each prefix. "
            f"Received {temperature!r}."
        )
    return float(temperature)


def _check_learnable(temperature):
    low, high = 1.0 / LARGEST_INVERSE_TEMPERATURE, LARGEST_INVERSE_TEMPERATURE
    if not all(low <= value <= high for value in np.atleast_1d(temperature)):
        raise ValueError(
            f"A learnable `temperature` must start between {low} and {high}. "
            f"Received {temperature!r}."
        )
