"""Random crops and flips of training images, decided by the example's own seed.

Keras's augmentation layers and `tf.image` draw from a generator with a state; here the crop and
flip of an example follow from (seed, epoch, index) alone, whichever worker reads it.
"""

from __future__ import annotations

from mrl_keras import lazy_tensorflow as tf
from mrl_keras.checks import whole_number
from mrl_keras.data.sampling import uniform


def pad_crop_flip(images, seeds, padding=4):
    """Shift each image by up to `padding` pixels, mirrored at its edges, and flip half of them.

    The same as padding by reflection, a random crop and a random left-right flip, the
    usual augmentation of CIFAR-10; done by one gather of rows and one of columns.

    Args:
        images: (batch, height, width, channels), any dtype.
        seeds: int64 (batch, 3), such as (seed, epoch, index).
        padding: int, at least 0 and below height and width. Default 4.

    Returns:
        Tensor of the shape and dtype of `images`.

    Example:

    >>> import tensorflow as tf
    >>> from mrl_keras.data.image.augmentation import pad_crop_flip
    >>> pad_crop_flip(tf.zeros((2, 8, 8, 3), tf.uint8), tf.zeros((2, 3), tf.int64)).shape
    TensorShape([2, 8, 8, 3])
    """
    padding = whole_number(padding, "`padding`", least=0)
    height, width = images.shape[1:3]
    if padding >= min(height, width):
        raise ValueError(
            f"`padding` must be below the images' height and width, {height} x {width}. "
            f"Received {padding}."
        )
    images = tf.gather(images, _reflected(height, padding, uniform(seeds, 0)), axis=1, batch_dims=1)
    columns = _reflected(width, padding, uniform(seeds, 1))
    flip = uniform(seeds, 2)[:, None] < 0.5
    columns = tf.where(flip, columns[:, ::-1], columns)
    # Columns of all rows at once: the axis of columns comes directly after the batch.
    return tf.transpose(
        tf.gather(tf.transpose(images, (0, 2, 1, 3)), columns, axis=1, batch_dims=1), (0, 2, 1, 3)
    )


def _reflected(size, padding, number):
    """int32 (batch, size): positions of a window that is shifted by -padding ... padding."""
    shift = tf.cast(number * (2 * padding + 1), tf.int32) - padding
    position = tf.abs(tf.range(size)[None] + shift[:, None])
    return tf.minimum(position, 2 * (size - 1) - position)


def random_resized_crop(encoded, seed, size, area=(0.25, 1.0), ratio=(3 / 4, 4 / 3)):
    """A random part of an encoded image, resized to a square, and flipped half of the time.

    Args:
        encoded: scalar string, a JPEG, PNG, GIF or BMP file. Of a JPEG only the part is decoded.
        seed: int32 or int64 (2,).
        size: int or scalar int tensor, height and width of the result in pixels.
        area: part of the image's area, (least, largest). Default (0.25, 1.0).
        ratio: width through height of the part, (least, largest). Default (3 / 4, 4 / 3).

    Returns:
        float32 (size, size, 3), pixel values 0 to 255.

    Source: arXiv 1409.4842, Section 6; the area of FFCV's recipe is (0.25, 1).
    """
    is_jpeg = tf.io.is_jpeg(encoded)
    shape = tf.cond(
        is_jpeg,
        lambda: tf.io.extract_jpeg_shape(encoded),
        lambda: tf.shape(decode_image(encoded)),
    )
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.stack([shape[0], shape[1], 3]),
        bounding_boxes=tf.zeros((1, 0, 4)),
        seed=seed,
        min_object_covered=0.0,
        area_range=area,
        aspect_ratio_range=ratio,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    top, left, _ = tf.unstack(begin)
    height, width, _ = tf.unstack(extent)
    part = _decoded_part(encoded, is_jpeg, top, left, height, width)
    image = tf.image.resize(part, (size, size), antialias=True)
    flip = tf.random.stateless_uniform((), tf.random.experimental.stateless_fold_in(seed, 1)) < 0.5
    image = tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)
    side = size if isinstance(size, int) else None
    return tf.clip_by_value(tf.ensure_shape(image, (side, side, 3)), 0.0, 255.0)


def _decoded_part(encoded, is_jpeg, top, left, height, width):
    window = tf.stack([top, left, height, width])
    return tf.cond(
        is_jpeg,
        lambda: tf.image.decode_and_crop_jpeg(encoded, window, channels=3),
        lambda: decode_image(encoded)[top : top + height, left : left + width],
    )


def decode_image(encoded):
    """uint8 (height, width, 3) of a JPEG, PNG, GIF (its first frame) or BMP file."""
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3))


def centre_crop(image, size, fraction=0.875):
    """The central square of an image, resized.

    Args:
        image: (height, width, channels).
        size: int, height and width of the result in pixels.
        fraction: side of the square over the image's shorter side, in (0, 1]. Default 0.875,
            the usual 224 / 256.

    Returns:
        float32 (size, size, channels), pixel values as in `image`.
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"`fraction` must be in (0, 1]. Received {fraction!r}.")
    shape = tf.shape(image)
    shorter = tf.cast(tf.minimum(shape[0], shape[1]), tf.float32)
    side = tf.maximum(tf.cast(tf.round(shorter * fraction), tf.int32), 1)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    square = image[top : top + side, left : left + side]
    resized = tf.image.resize(square, (size, size), antialias=True)
    return tf.clip_by_value(tf.ensure_shape(resized, (size, size, image.shape[2])), 0.0, 255.0)


def resolution_stages(steps, smallest, largest, ramp=(0.725, 0.85), multiple=32):
    """At which step training goes on to which resolution.

    The resolution rises linearly from `smallest` to `largest` over the part `ramp` of the
    training, rounded to `multiple`.

    Args:
        steps: int, of the whole training.
        smallest, largest: ints, pixels.
        ramp: (begin, end) as parts of the training. Default (0.725, 0.85), epochs 29 to 34 of
            40.
        multiple: int, pixels; 1 changes the shape most often. Default 32.

    Returns:
        List of (first step, pixels), ascending; the first step of the first is 0.

    Raises:
        ValueError: a number out of range.

    Example:

    >>> from mrl_keras.data.image.augmentation import resolution_stages
    >>> resolution_stages(40_000, 160, 192)
    [(0, 160), (31500, 192)]

    Source: Appendix C, after FFCV's ImageNet recipe of 40 epochs.
    """
    steps, multiple = whole_number(steps, "`steps`"), whole_number(multiple, "`multiple`")
    smallest = whole_number(smallest, "`smallest`")
    largest = whole_number(largest, "`largest`", least=smallest)
    begin, end = ramp
    if not 0.0 <= begin <= end <= 1.0:
        raise ValueError(f"`ramp` must ascend within [0, 1]. Received {tuple(ramp)}.")
    stages = [(0, smallest)]
    # Half of a multiple before a resolution is where the rounded ramp reaches it.
    for pixels in range(smallest + multiple, largest, multiple):
        stages.append((_reached(pixels - multiple / 2, steps, smallest, largest, ramp), pixels))
    if largest > smallest:
        middle = (stages[-1][1] + largest) / 2
        stages.append((_reached(middle, steps, smallest, largest, ramp), largest))
    # Of stages that begin at one step the last one counts.
    return list(dict(stages).items())


def _reached(pixels, steps, smallest, largest, ramp):
    part = (pixels - smallest) / (largest - smallest)
    return round(steps * (ramp[0] + part * (ramp[1] - ramp[0])))
