"""The embeddings of all replicas, for losses whose negatives are the whole batch."""

import keras

from mrl_keras.registry import register
from mrl_keras.replicas import gather_rows


@register
class GatheredBatch(keras.layers.Layer):
    """The embeddings of all replicas, in the order of the replicas.

    Under `tf.distribute` each replica gets the rows of the global batch, and their gradient
    flows back to the replicas that own them. On one replica, and outside of training, the layer
    changes nothing. Gather the documents, not the queries, and train with
    `SymmetricContrastive("gathered")`.

    Args:
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        (rows, d). Where the number of rows is not static, replicas may have different ones.

    Output shape:
        (rows of all replicas, d).

    Example:

    >>> from mrl_keras.layers import GatheredBatch
    >>> GatheredBatch()(np.ones((2, 3), "float32")).shape
    TensorShape([2, 3])

    Source: arXiv 2102.05918, Section 4.1: ALIGN's negatives come from the batches of all cores.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def call(self, inputs):
        return gather_rows(inputs)

    def compute_output_shape(self, input_shape):
        return (None, *input_shape[1:])
