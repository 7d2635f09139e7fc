"""TFDS's image classification sets by name, their classes and corrupt images."""

from __future__ import annotations

from mrl_keras.data.tfds_sets import import_tfds, tfds_set


def image_set(name, data_dir=None, image_shape_needed=False):
    """The TFDS builder of a prepared image classification set.

    A set that is not there is downloaded and prepared, as TFDS does.

    Args:
        name: str, of TFDS, with version or config if wanted: "cifar10", "imagenet2012:5.1.0".
        data_dir: folder of TFDS. Default None, the environment's TFDS_DATA_DIR or TFDS's own
            default.
        image_shape_needed: bool, refuse a set whose images differ in size. Default False.

    Returns:
        `tfds.core.DatasetBuilder`, prepared.

    Raises:
        ValueError: an unknown name, a set without images or labels, or one that is missing and
            can't be prepared.
        ImportError: tensorflow-datasets is missing.
    """

    def check(builder):
        features = dict(builder.info.features.items())
        label = features.get("label")
        if "image" not in features or not isinstance(label, tfds.features.ClassLabel):
            raise ValueError(
                f"The TFDS set {name!r} is no image classification set: it needs the features "
                f"'image' and 'label' (a ClassLabel). It has {sorted(features)}."
            )
        if image_shape_needed and None in features["image"].shape[:2]:
            raise ValueError(
                f"The images of {name!r} differ in size {features['image'].shape}. Give "
                "`image_size`."
            )

    tfds = import_tfds()
    known = "'digits', 'digit_pairs' or the name of a TFDS set such as 'cifar10' or 'mnist'"
    return tfds_set(name, data_dir, "image classification set", check, known)


def class_names(builder):
    """Names of the classes of a TFDS `builder`, a tuple of str."""
    return tuple(builder.info.features["label"].names)


def corrupt_images(builder, split):
    """Reads a whole split and yields what can't be decoded.

    Args:
        builder: a prepared TFDS image set.
        split: str.

    Yields:
        (id, text): TFDS's id of an example, which names its file and its place in it, and the
        decoder's error.
    """
    import tensorflow as tf

    tfds = import_tfds()
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(add_tfds_id=True),
    )
    for example in dataset:
        try:
            tf.io.decode_image(example["image"], expand_animations=False)
        except tf.errors.InvalidArgumentError as error:
            reason = error.message.split("} }} ")[-1].split("}} ")[-1].split(" [Op:")[0]
            yield example["tfds_id"].numpy().decode(), reason
