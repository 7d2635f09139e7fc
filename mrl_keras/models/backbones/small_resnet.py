"""A residual network for small images that trains in minutes on a CPU."""

import keras

from mrl_keras.checks import whole_number


def small_resnet(
    image_shape,
    width,
    max_value=255,
    filters=(32, 64, 128),
    blocks=1,
    stem_strides=1,
    projection=True,
):
    """A small residual network for small images, such as 32 x 32 pixels.

    A 3 x 3 stem, then one stage for each of `filters`: from the second stage on a 3 x 3
    convolution of stride 2 changes resolution and channels, then `blocks` residual blocks of
    two 3 x 3 convolutions follow. Every convolution has batch normalisation; the last one of
    a block starts at zero, so that the block starts as the identity. Global average pooling
    and, with `projection`, a linear map give the embedding.

    Args:
        image_shape: (height, width, channels) of the raw images.
        width: int, the embedding width d.
        max_value: the largest raw pixel value; the model maps 0 ... `max_value` to -2 ... 2, so
            that it takes raw images. Default 255.
        filters: channels of each stage. Default (32, 64, 128).
        blocks: int, residual blocks in each stage, or one int for each stage; 0 leaves a stage
            with its stem or stride alone. Default 1.
        stem_strides: int, 1 or 2; 2 computes everything at half the resolution. Default 1.
        projection: whether a linear map follows the pooling. False takes the pooled channels
            themselves as the embedding, as the paper does with ResNet50's. Default True.

    Returns:
        `keras.Model`: raw images (batch, height, width, channels) -> (batch, d). Its layers are
        named "stem_conv", "stage2_block0_conv1", "stage3_down", ..., "embedding", with "_bn"
        behind for their batch normalisations.

    Raises:
        ValueError: a number out of range, no stage, other than one number of blocks for each, or
            without a projection another width than the last of `filters`.

    Example:

    >>> from mrl_keras.models.backbones.small_resnet import small_resnet
    >>> small_resnet((32, 32, 3), width=64).output_shape
    (None, 64)

    Source: arXiv 1512.03385; the zero start arXiv 1706.02677, Section 5.1.
    """
    width = whole_number(width, "`width`")
    filters = [whole_number(n, "Each of `filters`") for n in filters]
    if not filters:
        raise ValueError("`filters` must hold at least one stage. Received none.")
    blocks = [blocks] * len(filters) if not isinstance(blocks, (list, tuple)) else list(blocks)
    blocks = [whole_number(n, "`blocks`", least=0) for n in blocks]
    if len(blocks) != len(filters):
        raise ValueError(
            f"`blocks` must be one int, or one for each of the {len(filters)} stages. "
            f"Received {blocks}."
        )
    if stem_strides not in (1, 2):
        raise ValueError(f"`stem_strides` must be 1 or 2. Received {stem_strides!r}.")
    if not projection and width != filters[-1]:
        raise ValueError(
            f"Without `projection` the embedding has the last of `filters`, {filters[-1]} dims. "
            f"Received width {width}."
        )
    images = keras.Input(image_shape, name="images")
    x = keras.layers.Rescaling(4.0 / max_value, offset=-2.0)(images)
    x = _activated(_convolution(x, "stem_conv", filters[0], strides=stem_strides))
    for stage, channels in enumerate(filters):
        name = f"stage{stage + 2}"
        if stage:
            x = _activated(_convolution(x, f"{name}_down", channels, strides=2))
        for block in range(blocks[stage]):
            branch = _activated(_convolution(x, f"{name}_block{block}_conv1", channels))
            branch = _convolution(
                branch, f"{name}_block{block}_conv2", channels, gamma_initializer="zeros"
            )
            x = _activated(keras.layers.Add()([x, branch]))
    x = keras.layers.GlobalAveragePooling2D(name=None if projection else "embedding")(x)
    if projection:
        x = keras.layers.Dense(width, name="embedding")(x)
    return keras.Model(images, x, name="small_resnet")


def _convolution(x, name, channels, strides=1, gamma_initializer="ones"):
    x = keras.layers.Conv2D(
        channels,
        3,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    return keras.layers.BatchNormalization(
        momentum=0.9, gamma_initializer=gamma_initializer, name=f"{name}_bn"
    )(x)


def _activated(x):
    return keras.layers.ReLU()(x)
