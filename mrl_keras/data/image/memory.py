"""Labelled images in memory: handwritten digits and pairs of them, or any TFDS set."""

from __future__ import annotations

import dataclasses

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.data.image.digit_pairs import NUMBERS, digit_pairs
from mrl_keras.data.image.sets import class_names, corrupt_images, image_set
from mrl_keras.data.tfds_sets import first_examples

SPLITS = ("train", "validation", "test")
PAIRS_OF_A_NUMBER = {"train": 40, "validation": 10, "test": 20}
"""How many pairs of digits "digit_pairs" has of each of the numbers 00 to 99."""


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """One split.

    Attributes:
        images: uint8 (examples, height, width, channels), raw pixel values.
        labels: int64 (examples,), from 0 to classes - 1.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """A labelled image set with disjoint train, validation and test splits.

    Attributes:
        name: str, the name it was loaded by.
        train, validation, test: `LabelledImages`.
        class_names: tuple of str, one for each class.
        max_value: int, the largest pixel value the format allows (16 or 255).
    """

    name: str
    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    max_value: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.train.images.shape[1:]


def load_images(
    name: str = "digits",
    data_dir: str | None = None,
    image_size: int | None = None,
    max_examples: int | None = None,
    validation_fraction: float = 0.15,
    seed: int = 0,
) -> ImageDataset:
    """Load an image classification set into memory.

    Args:
        name: "digits" for scikit-learn's bundled 8 x 8 handwritten digits (1,797 real
            images, no download; a quarter becomes the test split); "digit_pairs" for two of
            them side by side, the numbers 00 to 99: 40 training, 10 validation and 20 test
            pairs of each, made by `mrl_keras.data.digit_pairs` of that split's digits alone;
            or the name of any TFDS image classification set, such as "cifar10" or "mnist".
            TFDS sets are downloaded when `data_dir` does not hold them yet. Default "digits".
        data_dir: folder of TFDS. Default None, the environment's TFDS_DATA_DIR or TFDS's
            own default.
        image_size: height and width in pixels to resize TFDS's images to. Default None, kept
            as they are; needed where a set's images differ in size.
        max_examples: at most so many examples of each TFDS split, or of each split of
            "digit_pairs", 100 at least. Default None, all.
        validation_fraction: part of the training split (of single digits for "digit_pairs") to
            hold out for validation, in (0, 1), drawn evenly over the classes. Default 0.15.
        seed: of the splits and pairs. Default 0.

    Returns:
        `ImageDataset`.

    Raises:
        ValueError: an unknown data set, one without images or labels, images of differing
            size without `image_size`, digits with it, a fraction outside (0, 1) or with too few
            digits for the pairs, or fewer than 100 pairs.
        ImportError: scikit-learn or tensorflow-datasets is missing.

    Example:

    >>> from mrl_keras.data import load_images
    >>> digits = load_images("digits")
    >>> digits.image_shape, len(digits.class_names)
    ((8, 8, 1), 10)
    """
    if not 0.0 < validation_fraction < 1.0:
        raise ValueError(
            f"`validation_fraction` must lie between 0 and 1. Received {validation_fraction!r}."
        )
    if image_size is not None:
        image_size = whole_number(image_size, "`image_size`")
    if max_examples is not None:
        max_examples = whole_number(max_examples, "`max_examples`")
    bundled = name in ("digits", "digit_pairs")
    if bundled and image_size is not None:
        raise ValueError(
            f"`image_size` is for TFDS sets; {name!r} keeps its pixels. Leave it out. "
            f"Received {image_size}."
        )
    if bundled:
        train, test, names, max_value = _load_digits(seed)
    else:
        train, test, names = _load_tfds(name, data_dir, image_size, max_examples)
        max_value = 255
    train, validation = _stratified_split(train, validation_fraction, seed)
    found = ImageDataset(name, train, validation, test, names, max_value)
    return _paired(found, max_examples, seed) if name == "digit_pairs" else found


def _paired(digits, max_examples, seed):
    """The numbers 00 to 99 of a set of digits, split by split."""
    if max_examples is not None and max_examples < len(NUMBERS):
        raise ValueError(
            f"`max_examples` must be at least {len(NUMBERS)} for 'digit_pairs', a pair of each "
            f"number. Received {max_examples}."
        )
    splits = {}
    for place, (split, per_class) in enumerate(PAIRS_OF_A_NUMBER.items()):
        if max_examples is not None:
            per_class = min(per_class, max_examples // len(NUMBERS))
        of = getattr(digits, split)
        rarest = int(np.bincount(of.labels).min())
        if per_class > rarest**2:
            raise ValueError(
                f"The {split} split needs {per_class} pairs of each number, and {rarest} images "
                f"of its rarest digit give {rarest**2}. Choose another `validation_fraction`, or "
                "fewer `max_examples`."
            )
        images, numbers, _ = digit_pairs(of.images, of.labels, per_class, (seed, place))
        splits[split] = LabelledImages(images, numbers)
    return dataclasses.replace(digits, class_names=NUMBERS, **splits)


def _load_digits(seed):
    datasets = _sklearn("datasets")
    digits = datasets.load_digits()
    everything = LabelledImages(
        digits.images[..., np.newaxis].astype("uint8"), digits.target.astype("int64")
    )
    train, test = _stratified_split(everything, 0.25, seed)
    return train, test, tuple(str(name) for name in digits.target_names), 16


def _stratified_split(data, fraction, seed):
    """(rest, held out): `fraction` of each class is held out."""
    selection = _sklearn("model_selection")
    try:
        rest, held_out = selection.train_test_split(
            np.arange(len(data)), test_size=fraction, random_state=seed, stratify=data.labels
        )
    except ValueError as error:
        raise ValueError(
            f"Cannot hold out {fraction:.0%} of {len(data)} examples evenly over the classes: "
            f"{error} Use more examples."
        ) from error
    return tuple(
        LabelledImages(data.images[rows], data.labels[rows])
        for rows in (np.sort(rest), np.sort(held_out))
    )


def _load_tfds(name, data_dir, image_size, max_examples):
    builder = image_set(name, data_dir, image_shape_needed=image_size is None)
    available = builder.info.splits
    test_split = next((split for split in ("test", "validation") if split in available), None)
    if "train" not in available or test_split is None:
        raise ValueError(
            f"The TFDS set {name!r} needs the splits 'train' and 'test' (or 'validation'). "
            f"It has {sorted(available)}."
        )
    train, test = (
        read_split(builder, split, image_size, max_examples) for split in ("train", test_split)
    )
    return train, test, class_names(builder)


def read_split(builder, split, image_size=None, max_examples=None):
    """One split of a TFDS image set, decoded into memory.

    Args:
        builder: the prepared set, see `image_set`.
        split: str.
        image_size: height and width in pixels to resize to. Default None, kept.
        max_examples: at most so many examples. Default None, all.

    Returns:
        `LabelledImages`.

    Raises:
        ValueError: no such split, an empty one, an image that can't be decoded, or a label out of
            range.
    """
    import tensorflow as tf

    def prepare(example):
        image = example["image"]
        if image_size is not None:
            image = tf.image.resize(image, (image_size, image_size), antialias=True)
            image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
        return image, example["label"]

    wanted = first_examples(builder, split, max_examples)
    dataset = builder.as_dataset(split=wanted, shuffle_files=False)
    dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(1024)
    try:
        images, labels = zip(*dataset.prefetch(2).as_numpy_iterator(), strict=True)
    except tf.errors.InvalidArgumentError as error:
        name, reason = next(corrupt_images(builder, wanted), ("an image", error.message))
        raise ValueError(
            f"Corrupt image in the split {split!r} of {builder.info.name!r}: {name} ({reason}). "
            f"Prepare the set in {builder.data_dir} again."
        ) from error
    labels = np.concatenate(labels).astype("int64")
    check_label_range(labels, len(class_names(builder)), f"the split {split!r}")
    return LabelledImages(np.concatenate(images), labels)


def check_label_range(labels, classes, where):
    """Refuse labels outside 0 ... classes - 1; `where` names their place in the error."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise ValueError(
            f"Labels must lie between 0 and {classes - 1}, for {classes} classes. Example "
            f"{wrong[0]} of {where} has {labels[wrong[0]]}; {len(wrong)} are out of range."
        )


def _sklearn(module):
    try:
        import importlib

        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ImportError('This needs scikit-learn: pip install "mrl_keras[data]"') from error
