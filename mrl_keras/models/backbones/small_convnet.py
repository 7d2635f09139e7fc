"""A small convolutional network for small images."""

import keras

from mrl_keras.checks import whole_number


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
