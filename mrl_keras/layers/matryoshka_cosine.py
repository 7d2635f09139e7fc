"""The cosine of each pair of embeddings at every prefix."""

import keras
from keras import ops

from mrl_keras.layers.matryoshka_dense import split_blocks
from mrl_keras.layers.prefix_normalization import accumulation_dtype, inverse_prefix_norms
from mrl_keras.nesting import NestingDims
from mrl_keras.registry import register


def nested_cosine(first, second, dims):
    """cos(first[i, :m], second[i, :m]); each dimension's product is computed once.

    Args:
        first: float32 or float64 tensor (n, d).
        second: tensor (n, d) of the same dtype.
        dims: NestingDims that end at d.

    Returns:
        A list with one tensor (n, 1) for each prefix; 0 where a prefix is zero.
    """
    rows, others = split_blocks(first, dims), split_blocks(second, dims)
    scales = zip(inverse_prefix_norms(rows), inverse_prefix_norms(others), strict=True)
    running, cosines = 0.0, []
    for row, other, (one, two) in zip(rows, others, scales, strict=True):
        running = ops.add(running, ops.sum(ops.multiply(row, other), axis=-1, keepdims=True))
        cosines.append(ops.multiply(running, ops.multiply(one, two)))
    return cosines


@register
class MatryoshkaCosine(keras.layers.Layer):
    """The cosine of each pair of embeddings at every trained prefix.

    output[i, p, 0] = cos(first[i, :m], second[i, :m]) for the p-th prefix size m: the diagonal of
    what `MatryoshkaSimilarity` gives, for pairs with a score of their own. Any Keras loss of one
    number fits, within `MatryoshkaLoss`.

    Args:
        nesting_dims: `NestingDims` or list of ints that ends at d.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        A list of two tensors (n, d).

    Output shape:
        (n, prefixes, 1).

    Raises:
        ValueError: invalid `nesting_dims`, or inputs that are no pair of tensors of one shape
            and of the width d.

    Example:

    >>> from mrl_keras.layers import MatryoshkaCosine
    >>> first, second = np.array([[1.0, 0.0]], "float32"), np.array([[3.0, 4.0]], "float32")
    >>> cosines = keras.ops.convert_to_numpy(MatryoshkaCosine([1, 2])([first, second]))
    >>> cosines.astype("float64").round(3).tolist()
    [[[1.0], [0.6]]]

    Source: arXiv 2205.13147, Section 3 (normalised prefixes).
    """

    def __init__(self, nesting_dims, **kwargs):
        super().__init__(**kwargs)
        self.nesting_dims = NestingDims(nesting_dims)
        # Half precision inputs are widened here, before their products are summed.
        self.autocast = False

    def build(self, input_shape):
        self._check_shapes(input_shape)
        self.built = True

    def call(self, inputs):
        dtype = accumulation_dtype(self.compute_dtype)
        first, second = (ops.cast(x, dtype) for x in inputs)
        cosines = nested_cosine(first, second, self.nesting_dims)
        return ops.cast(ops.stack(cosines, axis=1), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        first, _ = self._check_shapes(input_shape)
        return (first[0], len(self.nesting_dims), 1)

    def compute_output_spec(self, inputs):
        shape = self.compute_output_shape([x.shape for x in inputs])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def _check_shapes(self, shapes):
        width = self.nesting_dims.width
        pair = isinstance(shapes, (list, tuple)) and len(shapes) == 2
        if pair:
            pair = all(isinstance(one, (list, tuple)) and len(one) == 2 for one in shapes)
        rows = {one[0] for one in shapes} - {None} if pair else ()
        if not pair or len(rows) > 1 or any(one[1] != width for one in shapes):
            raise ValueError(
                f"MatryoshkaCosine needs a list of two tensors (n, {width}), the width at which "
                f"`nesting_dims` {list(self.nesting_dims)} end. Received shapes {shapes}; change "
                "the embeddings or the dims."
            )
        return shapes

    def get_config(self):
        return {**super().get_config(), "nesting_dims": list(self.nesting_dims)}
