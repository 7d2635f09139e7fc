"""The cosine of each pair of embeddings at every prefix."""

from keras import ops

from mrl_keras.layers.matryoshka_dense import split_blocks
from mrl_keras.layers.matryoshka_similarity import EmbeddingPairLayer
from mrl_keras.layers.prefix_normalization import inverse_prefix_norms
from mrl_keras.registry import register_as


def nested_cosine(first, second, dims):
    """cos(first[i, :m], second[i, :m]); each dimension's product is computed once.

    Args:
        first: float32 or float64 tensor (n, d).
        second: tensor (n, d) of the same dtype.
        dims: NestingDims that end at d.

    Returns:
        A list with one tensor (n, 1) for each prefix; 0 where a prefix is zero.
    """
    norms = [inverse_prefix_norms(split_blocks(one, dims)) for one in (first, second)]
    products = nested_product(first, second, dims)
    return [
        ops.multiply(product, ops.multiply(one, two))
        for product, one, two in zip(products, *norms, strict=True)
    ]


def nested_product(first, second, dims):
    """Inner products in place of the cosines of `nested_cosine`."""
    running, products = 0.0, []
    for row, other in zip(split_blocks(first, dims), split_blocks(second, dims), strict=True):
        running = ops.add(running, ops.sum(ops.multiply(row, other), axis=-1, keepdims=True))
        products.append(running)
    return products


@register_as("MatryoshkaCosine")
class MatryoshkaPairwiseCosine(EmbeddingPairLayer):
    """The cosine of each pair of embeddings at every trained prefix.

    output[i, p, 0] = cos(first[i, :m], second[i, :m]) for the p-th prefix size m: the diagonal of
    what `MatryoshkaSimilarity` gives, for pairs with a score each. Train it with `CoSENT`, or with
    any Keras loss of one number, inside `MatryoshkaLoss`.

    Args:
        nesting_dims: `NestingDims` or list of ints that ends at d.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        A list of two tensors (n, d).

    Output shape:
        (n, prefixes, 1).

    Raises:
        ValueError: invalid `nesting_dims`, or inputs other than two tensors of one shape
            and of the width d.

    Example:

    >>> import keras
    >>> from mrl_keras.layers import MatryoshkaPairwiseCosine
    >>> first, second = np.array([[1.0, 0.0]], "float32"), np.array([[3.0, 4.0]], "float32")
    >>> cosines = keras.ops.convert_to_numpy(MatryoshkaPairwiseCosine([1, 2])([first, second]))
    >>> cosines.astype("float64").round(3).tolist()
    [[[1.0], [0.6]]]

    Source: arXiv 2205.13147, Section 3 (normalised prefixes).
    """

    _needs = "a list of two tensors (n, {width})"

    def call(self, inputs):
        cosines = nested_cosine(*self._widened(inputs), self.nesting_dims)
        return ops.cast(ops.stack(cosines, axis=1), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        first, _ = self._check_shapes(input_shape)
        return (first[0], len(self.nesting_dims), 1)

    def _fit_together(self, first, second):
        return None in (first[0], second[0]) or first[0] == second[0]
