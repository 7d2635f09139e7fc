"""tf.data pipelines of labelled images: seeded, sharded over workers, resumable at a step.

Two readers with the same promises. `array_batches` holds small sets in memory and jumps to any
step at once. `streamed_batches` reads TFDS's files record by record; to begin in the middle it
passes over the undecoded records of the current epoch only. Both give the same batches for the
same seed, and what a restarted run reads is what the uninterrupted one would have read.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mrl_keras.checks import whole_number
from mrl_keras.data.image.augmentation import (
    centre_crop,
    decode_image,
    pad_crop_flip,
    random_bits,
    random_resized_crop,
)
from mrl_keras.data.image.records import file_records, parsed, record_files
from mrl_keras.data.image.sets import class_names
from mrl_keras.data.sampling import epochs_of_records, epochs_of_rows, ready
from mrl_keras.data.tfds_sets import checked_split

DTYPES = ("uint8", "float32", "bfloat16")
AUGMENTATIONS = ("pad_crop_flip", None)


def array_batches(
    images,
    batch_size,
    seed=0,
    augment="pad_crop_flip",
    shard=(0, 1),
    start_step=0,
    dtype="uint8",
):
    """Endless training batches from images in memory.

    Every epoch goes through all examples in an order of its own. Batches run on over the end
    of an epoch, so that all have `batch_size` rows and no example is left out. The batches of
    step s on all workers together are what one worker with the whole batch would read.

    Args:
        images: `LabelledImages`, or any object with arrays `images` (examples, height, width,
            channels) and `labels` (examples,).
        batch_size: int, rows of this worker's batches.
        seed: int, of order and augmentation. Default 0.
        augment: "pad_crop_flip" (CIFAR-10's) or None. Default "pad_crop_flip".
        shard: (index, count) of this worker. Default (0, 1).
        start_step: int, the step of the first batch. Default 0.
        dtype: of the images: "uint8", "float32" or "bfloat16", which holds 0 to 255 exactly.
            Default "uint8".

    Returns:
        `tf.data.Dataset` of (images (batch, height, width, channels), labels int64 (batch,)).

    Raises:
        ValueError: no examples, or an argument out of range.

    Example:

    >>> import numpy as np
    >>> from mrl_keras.data import LabelledImages, array_batches
    >>> data = LabelledImages(np.zeros((10, 8, 8, 3), "uint8"), np.arange(10))
    >>> images, labels = next(iter(array_batches(data, batch_size=4)))
    >>> images.shape, labels.shape
    (TensorShape([4, 8, 8, 3]), TensorShape([4]))
    """
    count = len(images.labels)
    if count == 0:
        raise ValueError("There are no examples to train on: the split is empty.")
    check_augmentation(augment)
    dtype, pixels = checked_dtype(dtype), tf.constant(images.images)
    labels = tf.constant(np.asarray(images.labels, "int64"))

    def read(rows, seeds):
        batch = tf.gather(pixels, rows)
        if augment:
            batch = pad_crop_flip(batch, seeds)
        return tf.cast(batch, dtype), tf.gather(labels, rows)

    return epochs_of_rows(count, read, batch_size, seed, shard, start_step)


def streamed_batches(
    builder,
    split,
    batch_size,
    resolution,
    seed=0,
    shard=(0, 1),
    start_step=0,
    dtype="uint8",
    shuffle_buffer=8192,
    files_at_once=16,
):
    """Endless training batches from TFDS's files: random resized crop and flip.

    Every epoch reads this worker's files in an order of its own, `files_at_once` in turns,
    through a shuffle buffer. A worker reads every n-th file, or every n-th record where there
    are fewer files than workers.

    Args:
        builder: the prepared set, see `image_sets.image_set`.
        split: str.
        batch_size: int, rows of this worker's batches.
        resolution: int, pixels; or a list of (first step, pixels), as `resolution_stages` gives
            it. The shapes are static where one resolution is left from `start_step` on.
        seed: int, of order and augmentation. Default 0.
        shard: (index, count) of this worker. Default (0, 1).
        start_step: int, the step of the first batch. Default 0.
        dtype: of the images: "uint8" (rounded), "float32" or "bfloat16". Default "uint8".
        shuffle_buffer: int, undecoded records to draw from. Default 8192.
        files_at_once: int. Default 16.

    Returns:
        `tf.data.Dataset` of (images (batch, pixels, pixels, 3), labels int64 (batch,)).

    Raises:
        ValueError: no such split, an empty one, files of another format, or an argument out of
            range. While reading, `clear_image_errors` makes such of corrupt images and labels.
    """
    dtype, classes = checked_dtype(dtype), len(class_names(builder))
    stages = remaining_stages(resolution, whole_number(start_step, "`start_step`", 0))

    def read(step, seeds, name, row, record):
        encoded, label = parsed(builder, record, name, row, classes)
        return crop_at(stages, step, encoded, seeds, dtype), label

    options = {"shuffle_buffer": shuffle_buffer, "files_at_once": files_at_once}
    return epochs_of_records(builder, split, read, batch_size, seed, shard, start_step, **options)


def crop_at(stages, step, encoded, seeds, dtype):
    """A random resized crop (pixels, pixels, 3) of an encoded image, in the step's resolution.

    Args:
        stages: list of (first step, pixels).
        step: scalar int64.
        encoded: scalar string.
        seeds: int64 (1, words).
        dtype: str, of the result.
    """
    image_seed = tf.bitcast(random_bits(seeds, 0)[0], tf.int32)
    image = random_resized_crop(encoded, image_seed, _resolution_at(stages, step))
    return _pixels(image, dtype)


def evaluation_batches(
    source,
    batch_size,
    split=None,
    resolution=None,
    crop=0.875,
    dtype="uint8",
    drop_remainder=False,
):
    """All examples once, in their order, without augmentation.

    Args:
        source: `LabelledImages`, or the builder of a prepared TFDS set.
        batch_size: int.
        split: str, of a TFDS set.
        resolution: int, pixels of the central square's side after resizing; needed for a TFDS
            set. Default None, as they are.
        crop: side of the central square over the image's shorter side. Default 0.875, which is
            224 / 256.
        dtype: "uint8", "float32" or "bfloat16". Default "uint8".
        drop_remainder: bool, leave out the last examples where they fill no batch, for static
            shapes. Default False.

    Returns:
        `tf.data.Dataset` of (images, labels int64).

    Raises:
        ValueError: no such split, an empty one, or an argument out of range.
    """
    batch_size, dtype = whole_number(batch_size, "`batch_size`"), checked_dtype(dtype)
    if hasattr(source, "labels"):
        if len(source.labels) == 0:
            raise ValueError("There are no examples to evaluate: the split is empty.")
        arrays = source.images, np.asarray(source.labels, "int64")
        dataset = tf.data.Dataset.from_tensor_slices(arrays)
        if resolution is None:
            dataset = dataset.batch(batch_size, drop_remainder)
            return ready(dataset.map(lambda image, label: (tf.cast(image, dtype), label)))
    else:
        size, classes = whole_number(resolution, "`resolution`"), len(class_names(source))
        files, _ = record_files(source, checked_split(source, split))
        records = tf.data.Dataset.from_tensor_slices(files).flat_map(file_records)

        def read(name, row, record):
            encoded, label = parsed(source, record, name, row, classes)
            return decode_image(encoded), label

        dataset = records.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    size = whole_number(resolution, "`resolution`")
    dataset = dataset.map(
        lambda image, label: (_pixels(centre_crop(image, size, crop), dtype), label),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return ready(dataset.batch(batch_size, drop_remainder))


def check_augmentation(augment):
    """Refuses what is no augmentation of images in memory."""
    if augment not in AUGMENTATIONS:
        raise ValueError(f"`augment` must be one of {AUGMENTATIONS}. Received {augment!r}.")


def checked_dtype(dtype):
    """`dtype` if images can have it."""
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {DTYPES}. Received {dtype!r}.")
    return dtype


def _pixels(image, dtype):
    return tf.cast(tf.round(image) if dtype == "uint8" else image, dtype)


def remaining_stages(resolution, start_step):
    """The stages from `start_step` on, as (first step, pixels)."""
    if isinstance(resolution, int):
        resolution = [(0, resolution)]
    stages = [(int(first), whole_number(size, "`resolution`")) for first, size in resolution]
    passed = [stage for stage in stages if stage[0] <= start_step]
    return passed[-1:] + stages[len(passed) :]


def _resolution_at(stages, step):
    """The pixels at a step: an int where there is one stage left, else a scalar tensor."""
    if len(stages) == 1:
        return stages[0][1]
    firsts, sizes = (tf.constant(values) for values in zip(*stages, strict=True))
    passed = tf.reduce_sum(tf.cast(tf.cast(firsts, tf.int64) <= step, tf.int32))
    return tf.gather(sizes, passed - 1)
