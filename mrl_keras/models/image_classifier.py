"""Image classifiers: a backbone that ends in an embedding, and a head over nested prefixes."""

import keras

from mrl_keras.checks import whole_number
from mrl_keras.layers import MatryoshkaDense
from mrl_keras.nesting import NestingDims


def small_convnet(image_shape, width, max_value=255, filters=(32, 64, 128)):
    """A small convolutional backbone for small images.

    Blocks of two 3 x 3 convolutions with batch normalisation and ReLU, each block but the
    last followed by 2 x 2 max pooling; then global average pooling and a linear map to the
    embedding, so that even a prefix of two dims can use both signs.

    Args:
        image_shape: (height, width, channels) of the raw images.
        width: int, the embedding width d.
        max_value: the largest raw pixel value; the model divides by it, so that it takes
            raw images. Default 255.
        filters: channels of each block. Default (32, 64, 128).

    Returns:
        `keras.Model`: raw images (batch, height, width, channels) -> (batch, d).

    Example:

    >>> from mrl_keras.models import small_convnet
    >>> small_convnet((8, 8, 1), width=64).output_shape
    (None, 64)
    """
    width = whole_number(width, "`width`")
    images = keras.Input(image_shape, name="images")
    x = keras.layers.Rescaling(1.0 / max_value)(images)
    for i, channels in enumerate(filters):
        x = _convolution(_convolution(x, channels), channels)
        if i < len(filters) - 1:
            x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    embedding = keras.layers.Dense(width, name="embedding")(x)
    return keras.Model(images, embedding, name="small_convnet")


def _convolution(x, channels):
    x = keras.layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
    return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))


def image_classifier(backbone, units, nesting_dims, efficient=False):
    """A classifier over nested prefixes of the backbone's embedding (Section 3).

    Args:
        backbone: `keras.Model`, images -> embedding (batch, d).
        units: int, the number of classes.
        nesting_dims: `NestingDims` or list of ints. When it ends at d, this is MRL (or
            MRL-E with `efficient`). When it is one dim below d, it is the fixed feature
            baseline FF-k: the classifier reads the first k components only, so only these
            are trained to classify.
        efficient: bool, MRL-E. Default False.

    Returns:
        `keras.Model`: images -> logits (batch, prefixes, units), with a layer named "head".

    Raises:
        ValueError: the backbone's output is no (batch, d), or the dims don't fit d.

    Example:

    >>> from mrl_keras.models import image_classifier, small_convnet
    >>> backbone = small_convnet((8, 8, 1), width=64)
    >>> image_classifier(backbone, 10, [8, 16, 32, 64]).output_shape
    (None, 4, 10)
    >>> image_classifier(backbone, 10, [8]).output_shape
    (None, 1, 10)
    """
    if len(backbone.output_shape) != 2 or backbone.output_shape[-1] is None:
        raise ValueError(
            "`backbone` must end in an embedding (batch, d). "
            f"Received output shape {backbone.output_shape}."
        )
    width = backbone.output_shape[-1]
    dims = NestingDims(nesting_dims)
    fixed_feature = len(dims) == 1
    if dims.width > width or not fixed_feature:
        dims = NestingDims(dims, width=width)
    embedding = backbone.output
    features = embedding[:, : dims.width] if dims.width < width else embedding
    logits = MatryoshkaDense(units, dims, efficient=efficient, name="head")(features)
    return keras.Model(backbone.input, logits, name=f"{backbone.name}_classifier")
