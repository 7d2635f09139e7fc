"""TFDS's image-text sets by name, read into memory."""

from __future__ import annotations

import dataclasses

import numpy as np

from mrl_keras import lazy_tensorflow as tf
from mrl_keras.data.image.augmentation import centre_crop
from mrl_keras.data.tfds_sets import check_split, first_examples, import_tfds, tfds_set


@dataclasses.dataclass(frozen=True)
class CaptionedImages:
    """One split.

    Attributes:
        images: uint8 (examples, height, width, channels), raw pixel values.
        captions: tuple with a tuple of str for each image, at least one.
    """

    images: np.ndarray
    captions: tuple[tuple[str, ...], ...]

    def __len__(self):
        return len(self.captions)


def caption_set(name, captions="captions", data_dir=None, image_shape_needed=False):
    """The TFDS builder of a prepared image-text set.

    A set that is not there is downloaded and prepared, as TFDS does.

    Args:
        name: str, of TFDS, with version or config if wanted: "coco_captions".
        captions: str, the feature with one text or a sequence of texts; a part of a feature
            after "/", such as "captions/text" of coco_captions. Default "captions".
        data_dir: folder of TFDS. Default None, the environment's TFDS_DATA_DIR or TFDS's own
            default.
        image_shape_needed: bool, refuse a set whose images differ in size. Default False.

    Returns:
        `tfds.core.DatasetBuilder`, prepared.

    Raises:
        ValueError: an unknown name, a set without images or these captions, or one that is
            missing and can't be prepared.
        ImportError: tensorflow-datasets is missing.
    """

    def check(builder):
        features = builder.info.features
        info = features.get_tensor_info()
        for part in captions.split("/"):
            info = info.get(part) if isinstance(info, dict) else None
        is_text = info is not None and not isinstance(info, dict) and len(info.shape) < 2
        if "image" not in features or not is_text or tf.as_dtype(info.tf_dtype) != tf.string:
            raise ValueError(
                f"The TFDS set {name!r} is no image-text set: it needs the features 'image' and "
                f"{captions!r} (a text, or a sequence of texts). It has {sorted(features)}."
            )
        if image_shape_needed and None in features["image"].shape[:2]:
            raise ValueError(
                f"The images of {name!r} differ in size {features['image'].shape}. Stream them, "
                "or give `image_size`."
            )

    known = "the name of a TFDS set with captions, such as 'coco_captions'"
    return tfds_set(name, data_dir, "image-text set", check, known)


def captions_of(example, captions):
    """The captions of a TFDS example, strings (captions,)."""
    for part in captions.split("/"):
        example = example[part]
    return tf.reshape(example, (-1,))


def read_captioned(
    builder, split, captions="captions", image_size=None, crop=1.0, max_examples=None
):
    """One split of an image-text set, decoded into memory.

    Args:
        builder: the prepared set, see `caption_set`.
        split: str.
        captions: str, as for `caption_set`. Default "captions".
        image_size: int, height and width in pixels of the resized central square. Default None,
            kept as they are.
        crop: side of that square over the image's shorter side. Default 1.0.
        max_examples: at most so many examples. Default None, all.

    Returns:
        `CaptionedImages`.

    Raises:
        ValueError: no such split, an empty one, an image that can't be decoded, or one without
            captions.
    """
    wanted = first_examples(builder, split, max_examples)

    def prepare(example):
        image = example["image"]
        if image_size is not None:
            image = tf.cast(tf.round(centre_crop(image, image_size, crop)), tf.uint8)
        return image, captions_of(example, captions)

    dataset = builder.as_dataset(split=wanted, shuffle_files=False)
    dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
    images, texts = [], []
    try:
        for image, found in dataset.as_numpy_iterator():
            images.append(image)
            texts.append(tuple(text.decode() for text in found))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"A caption of example {len(images) - 1} in the split {split!r} of "
            f"{builder.info.name!r} is not UTF-8 ({error}). Prepare the set in {builder.data_dir} "
            "again."
        ) from error
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"Corrupt image in the split {split!r} of {builder.info.name!r}: example "
            f"{len(images)} ({error.message.splitlines()[0][:200]}). Prepare the set in "
            f"{builder.data_dir} again."
        ) from error
    without = [row for row, found in enumerate(texts) if not found]
    if without:
        raise ValueError(
            f"Every image needs a caption. In the split {split!r} of {builder.info.name!r} "
            f"{len(without)} have none, such as example {without[0]}."
        )
    return CaptionedImages(np.stack(images), tuple(texts))


def caption_texts(builder, split, captions="captions"):
    """All captions of a split, without decoding an image: what a vocabulary is learned from.

    Args:
        builder, split, captions: as for `read_captioned`.

    Returns:
        `tf.data.Dataset` of strings ().
    """
    check_split(builder, split)
    tfds = import_tfds()
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    return dataset.flat_map(
        lambda example: tf.data.Dataset.from_tensor_slices(captions_of(example, captions))
    )
