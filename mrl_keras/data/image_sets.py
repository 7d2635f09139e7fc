"""TFDS's image classification sets: found by name, checked, prepared, with one clear error each."""

from __future__ import annotations

import os


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
    tfds = import_tfds()
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
        looked = data_dir or os.environ.get("TFDS_DATA_DIR") or "TFDS's default folder"
        raise ValueError(
            f"No image classification set is named {name!r}, neither in TFDS nor prepared in "
            f"{looked}. Use 'digits' or the name of a TFDS set such as 'cifar10' or 'mnist'."
        ) from error
    features = dict(builder.info.features.items())
    label = features.get("label")
    if "image" not in features or not isinstance(label, tfds.features.ClassLabel):
        raise ValueError(
            f"The TFDS set {name!r} is no image classification set: it needs the features 'image' "
            f"and 'label' (a ClassLabel). It has {sorted(features)}."
        )
    if image_shape_needed and None in features["image"].shape[:2]:
        raise ValueError(
            f"The images of {name!r} differ in size {features['image'].shape}. Give `image_size`."
        )
    _prepare(builder, name)
    return builder


def _prepare(builder, name):
    if builder.is_prepared():
        return
    try:
        builder.download_and_prepare()
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"The data set {name!r} is not in {builder.data_dir}, and could not be downloaded "
            f"({type(error).__name__}: {reason[0][:200]}). Prepare it with `tfds build {name} "
            f"--data_dir=FOLDER` and set TFDS_DATA_DIR=FOLDER; sets with a licence need their "
            f"archives in FOLDER/downloads/manual first."
        ) from error


def checked_split(builder, split):
    """`split` if the set has it and it is not empty.

    Raises:
        ValueError: no such split, or an empty one.
    """
    name, splits = builder.info.name, builder.info.splits
    if split not in splits:
        raise ValueError(f"The set {name!r} has no split {split!r}. It has {sorted(splits)}.")
    if splits[split].num_examples == 0:
        raise ValueError(
            f"The split {split!r} of {name!r} in {builder.data_dir} is empty. Prepare it again."
        )
    return split


def class_names(builder):
    """Names of the classes of a TFDS `builder`, a tuple of str."""
    return tuple(builder.info.features["label"].names)


def import_tfds():
    """TensorFlow Datasets, quietly."""
    # TFDS prints absl warnings on import unless the cloud probe is told to be quiet.
    os.environ.setdefault("NO_GCE_CHECK", "true")
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            'This needs tensorflow-datasets: pip install "mrl_keras[data]"'
        ) from error
    return tfds


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
