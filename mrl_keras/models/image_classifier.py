"""Image classifiers: a backbone that ends in an embedding, and a head over its prefixes."""

import keras

from mrl_keras.layers import MatryoshkaDense
from mrl_keras.models.pooling import pooled
from mrl_keras.nesting import NestingDims


def image_classifier(backbone, units, nesting_dims, efficient=False, pooling=None, output=None):
    """A classifier over nested prefixes of the backbone's embedding (Section 3).

    Args:
        backbone: `keras.Model`, images -> embedding (batch, d), or what `pooling` makes one.
        units: int, the number of classes.
        nesting_dims: `NestingDims` or list of ints. When it ends at d, this is MRL (or
            MRL-E with `efficient`). When it is one dim below d, it is the fixed feature
            baseline FF-k: the classifier reads the first k components only, so only these
            are trained to classify.
        efficient: bool, MRL-E. Default False.
        pooling: "mean" or "cls" for a backbone that ends in vectors of patches, such as KerasHub's
            ViT. Default None, which takes the mean of a feature map.
        output: str, which of several outputs of the backbone. Default None, the only one.

    Returns:
        `keras.Model`: images -> logits (batch, prefixes, units), with a layer named "head".

    Raises:
        ValueError: the backbone's output is no embedding (batch, d), also by `pooling`, or the dims
            don't fit d.

    Example:

    >>> from mrl_keras.models import image_classifier, small_convnet
    >>> backbone = small_convnet((8, 8, 1), width=64)
    >>> image_classifier(backbone, 10, [8, 16, 32, 64]).output_shape
    (None, 4, 10)
    >>> image_classifier(backbone, 10, [8]).output_shape
    (None, 1, 10)
    """
    name = backbone.name
    backbone = pooled(backbone, pooling, output)
    width = backbone.output_shape[-1]
    dims = NestingDims(nesting_dims)
    fixed_feature = len(dims) == 1
    if dims.width > width or not fixed_feature:
        dims = NestingDims(dims, width=width)
    embedding = backbone.output
    features = embedding[:, : dims.width] if dims.width < width else embedding
    logits = MatryoshkaDense(units, dims, efficient=efficient, name="head")(features)
    return keras.Model(backbone.input, logits, name=f"{name}_classifier")
