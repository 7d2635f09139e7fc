"""tf.data pipelines of labelled images: seeded, sharded over workers, resumable at a step.

`array_batches` holds a small set in memory and begins at any step at once; `streamed_batches`
reads TFDS's files record by record. A restarted run reads what the uninterrupted one would have
read.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mrl_keras import lazy_tensorflow as tf
from mrl_keras.checks import whole_number
from mrl_keras.data.image.augmentation import (
    centre_crop,
    decode_image,
    pad_crop_flip,
    random_resized_crop,
)
from mrl_keras.data.image.records import parse_labelled_image
from mrl_keras.data.image.sets import class_names
from mrl_keras.data.sampling import (
    Sampling,
    epochs_of_records,
    epochs_of_rows,
    prefetch_in_order,
    random_bits,
)
from mrl_keras.data.tfds_sets import file_records, record_files

DTYPES = ("uint8", "float32", "bfloat16")
AUGMENTATIONS = ("pad_crop_flip", None)


@dataclasses.dataclass(frozen=True)
class ImageStreamOptions:
    """How images are cut and how files are read, for `streamed_batches` and its like.

    Attributes:
        resolution: int, pixels; or a list of (first step, pixels), as `resolution_stages` gives
            it. Shapes are static where one resolution is left from the first step on.
        dtype: of the images: "uint8" (rounded), "float32" or "bfloat16". Default "uint8".
        shuffle_buffer: int, undecoded records to draw from. Default 8192.
        files_at_once: int, files that are read in turns. Default 16.

    Raises:
        ValueError: another dtype.
    """

    resolution: object
    dtype: str = "uint8"
    shuffle_buffer: int = 8192
    files_at_once: int = 16

    def __post_init__(self):
        check_dtype(self.dtype)

    @property
    def reading(self):
        """The arguments of `epochs_of_records`, a dict."""
        return {"shuffle_buffer": self.shuffle_buffer, "files_at_once": self.files_at_once}


def array_batches(images, batch_size, sampling=Sampling(), augment="pad_crop_flip", dtype="uint8"):
    """Endless training batches from images in memory.

    Every epoch goes through all examples in an order of its own. Batches run on over the end
    of an epoch, so that all have `batch_size` rows and no example is left out. The batches of
    step s on all workers together are what one worker with the whole batch would read.

    Args:
        images: `LabelledImages`, or any object with arrays `images` (examples, height, width,
            channels) and `labels` (examples,).
        batch_size: int, rows of this worker's batches.
        sampling: `Sampling`. Default seed 0, one worker, from the first step.
        augment: "pad_crop_flip" (CIFAR-10's) or None. Default "pad_crop_flip".
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
    check_dtype(dtype)
    pixels = tf.constant(images.images)
    labels = tf.constant(np.asarray(images.labels, "int64"))

    def read(rows, seeds):
        batch = tf.gather(pixels, rows)
        if augment:
            batch = pad_crop_flip(batch, seeds)
        return tf.cast(batch, dtype), tf.gather(labels, rows)

    return epochs_of_rows(count, read, batch_size, sampling)


def streamed_batches(builder, split, batch_size, options, sampling=Sampling()):
    """Endless training batches from TFDS's files: random resized crop and flip.

    Every epoch reads this worker's files in an order of its own, some in turns, through a
    shuffle buffer. A worker reads every n-th file, or every n-th record where there are fewer
    files than workers. To begin in the middle it passes over the undecoded records of the current
    epoch only.

    Args:
        builder: the prepared set, see `image_set`.
        split: str.
        batch_size: int, rows of this worker's batches.
        options: `ImageStreamOptions`.
        sampling: `Sampling`. Default seed 0, one worker, from the first step.

    Returns:
        `tf.data.Dataset` of (images (batch, pixels, pixels, 3), labels int64 (batch,)).

    Raises:
        ValueError: no such split, an empty one, files of another format, or an argument out of
            range. While reading, `explain_image_errors` makes such of corrupt images and labels.
    """
    classes, crop = len(class_names(builder)), Cropping(options, sampling.start_step)

    def read(step, seeds, name, row, record):
        encoded, label = parse_labelled_image(builder, record, name, row, classes)
        return crop(step, encoded, seeds), label

    return epochs_of_records(builder, split, read, batch_size, sampling, **options.reading)


class Cropping:
    """Random resized crops (pixels, pixels, 3) of encoded images, in each step's resolution.

    Args:
        options: `ImageStreamOptions`.
        start_step: int; earlier resolutions are left out.

    Call arguments:
        step: scalar int64.
        encoded: scalar string.
        seeds: int64 (1, words).
    """

    def __init__(self, options, start_step):
        self._stages = _remaining_stages(options.resolution, start_step)
        self._dtype = options.dtype

    def __call__(self, step, encoded, seeds):
        image_seed = tf.bitcast(random_bits(seeds, 0)[0], tf.int32)
        pixels = _resolution_at(self._stages, step)
        return _pixels(random_resized_crop(encoded, image_seed, pixels), self._dtype)


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
    batch_size = whole_number(batch_size, "`batch_size`")
    check_dtype(dtype)
    if hasattr(source, "labels"):
        if len(source.labels) == 0:
            raise ValueError("There are no examples to evaluate: the split is empty.")
        arrays = source.images, np.asarray(source.labels, "int64")
        dataset = tf.data.Dataset.from_tensor_slices(arrays)
        if resolution is None:
            dataset = dataset.batch(batch_size, drop_remainder)
            return prefetch_in_order(
                dataset.map(lambda image, label: (tf.cast(image, dtype), label))
            )
    else:
        size, classes = whole_number(resolution, "`resolution`"), len(class_names(source))
        files, _ = record_files(source, split)
        records = tf.data.Dataset.from_tensor_slices(files).flat_map(file_records)

        def read(name, row, record):
            encoded, label = parse_labelled_image(source, record, name, row, classes)
            return decode_image(encoded), label

        dataset = records.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    size = whole_number(resolution, "`resolution`")
    dataset = dataset.map(
        lambda image, label: (_pixels(centre_crop(image, size, crop), dtype), label),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return prefetch_in_order(dataset.batch(batch_size, drop_remainder))


def check_augmentation(augment):
    """Refuse an unknown augmentation of images in memory."""
    if augment not in AUGMENTATIONS:
        raise ValueError(f"`augment` must be one of {AUGMENTATIONS}. Received {augment!r}.")


def check_dtype(dtype):
    """Refuse a dtype that images can't have."""
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {DTYPES}. Received {dtype!r}.")


def _pixels(image, dtype):
    return tf.cast(tf.round(image) if dtype == "uint8" else image, dtype)


def _remaining_stages(resolution, start_step):
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
