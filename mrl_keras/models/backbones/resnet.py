"""ResNet50 as the paper trains it, in plain Keras."""

import keras
import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.registry import register

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_DEVIATION = (58.395, 57.12, 57.375)


@register
class Blur(keras.layers.Layer):
    """A fixed 3 x 3 binomial filter on each channel, before a convolution with stride.

    Without it a convolution with stride aliases.

    Args:
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        (batch, height, width, channels).

    Output shape:
        the same.

    Example:

    >>> import numpy as np
    >>> from mrl_keras.models.backbones.resnet import Blur
    >>> float(Blur()(np.ones((1, 5, 5, 2), "float32"))[0, 2, 2, 0])
    1.0

    Source: arXiv 1904.11486.
    """

    def build(self, input_shape):
        line = np.array([1.0, 2.0, 1.0]) / 4.0
        kernel = np.outer(line, line)[:, :, None, None]
        self._kernel = np.repeat(kernel, input_shape[-1], axis=2).astype("float32")
        self.built = True

    def call(self, inputs):
        kernel = keras.ops.cast(self._kernel, inputs.dtype)
        return keras.ops.depthwise_conv(inputs, kernel, strides=1, padding="same")

    def compute_output_shape(self, input_shape):
        return input_shape


def resnet(
    image_shape=(None, None, 3),
    blocks=(3, 4, 6, 3),
    filters=(64, 128, 256, 512),
    blur_pool=False,
    synchronized=False,
):
    """ResNet with bottleneck blocks, the stride in their 3 x 3 convolution; by default ResNet50.

    Args:
        image_shape: (height, width, channels) of the raw images, with three channels; None where
            it varies. Default (None, None, 3).
        blocks: ints, residual blocks of each stage. Default (3, 4, 6, 3).
        filters: ints, channels inside the blocks of each stage; four times as many come out.
            Default (64, 128, 256, 512).
        blur_pool: bool, blur before every convolution with stride but the first one of all.
            Default False.
        synchronized: bool, batch statistics over all replicas. Default False.

    Returns:
        `keras.Model`: raw images (batch, height, width, 3), 0 to 255, -> the mean over the image
        of the last stage (batch, d), with d four times the last of `filters`: 2048. Its layers
        are named "stem_conv", "stage2_block0_conv1", ..., "stage5_block2_conv3" (stages as conv2
        to conv5 of the ResNet paper: torchvision's layer4.2 is "stage5_block2"), with "_bn"
        behind for their batch normalisations, and "stage2_block0_shortcut", ...

    Raises:
        ValueError: numbers out of range, or not as many `blocks` as `filters`.

    Example:

    >>> from mrl_keras.models.backbones.resnet import resnet
    >>> resnet(blocks=(1, 1), filters=(4, 8)).output_shape
    (None, 32)

    Source: arXiv 1512.03385; the place of the stride as in torchvision and FFCV's recipe, after
    which the paper trains (Appendix C).
    """
    blocks = [whole_number(n, "Each of `blocks`") for n in blocks]
    filters = [whole_number(n, "Each of `filters`") for n in filters]
    if len(blocks) != len(filters) or not blocks:
        raise ValueError(
            "`blocks` and `filters` must have one number for each stage. "
            f"Received {blocks} and {filters}."
        )
    if image_shape[-1] != 3:
        raise ValueError(f"`image_shape` must have three channels. Received {image_shape}.")
    build = _Builder(blur_pool, synchronized)
    images = keras.Input(image_shape, name="images")
    variance = [deviation**2 for deviation in IMAGENET_DEVIATION]
    x = keras.layers.Normalization(mean=IMAGENET_MEAN, variance=variance)(images)
    x = build.activated(build.convolution(x, "stem_conv", filters[0], 7, 2))
    x = keras.layers.ZeroPadding2D(1)(x)  # zero never exceeds what ReLU gives
    x = keras.layers.MaxPooling2D(3, 2)(x)
    for stage, (count, channels) in enumerate(zip(blocks, filters, strict=True)):
        for block in range(count):
            name = f"stage{stage + 2}_block{block}"
            x = build.block(x, name, channels, 2 if stage and not block else 1, new=not block)
    x = keras.layers.GlobalAveragePooling2D(name="embedding")(x)
    return keras.Model(images, x, name="resnet")


class _Builder:
    def __init__(self, blur_pool, synchronized):
        self.blur_pool, self.synchronized = blur_pool, synchronized

    def convolution(self, x, name, channels, size, strides=1):
        """Convolution `name`, padded alike on both sides, and batch normalisation `name`_bn."""
        if self.blur_pool and strides > 1 and x.shape[-1] >= 16:
            x = Blur()(x)
        if size > 1:
            x = keras.layers.ZeroPadding2D(size // 2)(x)
        initializer = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
        x = keras.layers.Conv2D(
            channels,
            size,
            strides=strides,
            use_bias=False,
            kernel_initializer=initializer,
            name=name,
        )(x)
        return keras.layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, synchronized=self.synchronized, name=f"{name}_bn"
        )(x)

    @staticmethod
    def activated(x):
        return keras.layers.ReLU()(x)

    def block(self, x, name, channels, strides, new):
        shortcut = self.convolution(x, f"{name}_shortcut", 4 * channels, 1, strides) if new else x
        x = self.activated(self.convolution(x, f"{name}_conv1", channels, 1))
        x = self.activated(self.convolution(x, f"{name}_conv2", channels, 3, strides))
        x = self.convolution(x, f"{name}_conv3", 4 * channels, 1)
        return self.activated(keras.layers.Add()([x, shortcut]))
