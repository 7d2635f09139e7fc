"""TFDS's sets by name, their splits and record files, with one clear error for each mistake."""

from __future__ import annotations

import os
from collections.abc import Callable

from mrl_keras.checks import whole_number
from mrl_keras.files import as_path, is_remote


def tfds_set(name, data_dir, kind: str, check: Callable, known: str):
    """The TFDS builder of a prepared set.

    A set that is not there is downloaded and prepared, as TFDS does.

    Args:
        name: str, of TFDS, with version or config if wanted.
        data_dir: folder of TFDS, local or on gs://, s3:// or az://; None is the environment's
            TFDS_DATA_DIR or TFDS's own default.
        kind: what is wanted, for errors: "image classification set".
        check: function of the builder that raises a ValueError where it is another kind of set.
        known: names that would do, for errors.

    Raises:
        ValueError: an unknown name, what `check` raises, or a set that is missing and can't be
            prepared.
        OSError: a remote folder that can't be read.
        ImportError: tensorflow-datasets is missing.
    """
    tfds = import_tfds()
    folder = as_path(data_dir or os.environ.get("TFDS_DATA_DIR", ""), "`data_dir`")
    if is_remote(folder) and not folder.startswith(("gs://", "s3://", "az://")):
        raise ValueError(
            f"TFDS reads local folders, gs://, s3:// and az://. Received `data_dir` {folder!r}."
        )
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except RuntimeError as error:  # TFDS makes it of gfile's errors
        if not is_remote(folder):
            raise
        raise OSError(
            f"TFDS can't read {name!r} in {folder} ({str(error).splitlines()[0][:300]}). Check "
            "`data_dir`, the network and the right to read there."
        ) from error
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
        raise ValueError(
            f"No {kind} is named {name!r}, neither in TFDS nor prepared in "
            f"{folder or 'the default folder of TFDS'}. Use {known}."
        ) from error
    check(builder)
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


def check_split(builder, split):
    """Refuse a split that the set lacks or that is empty; also one that TFDS adds or slices.

    Raises:
        ValueError: no such split, or an empty one.
    """
    name, splits = builder.info.name, builder.info.splits
    try:
        examples = splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"The set {name!r} has no split {split!r}. It has {sorted(splits)}."
        ) from error
    if examples == 0:
        raise ValueError(
            f"The split {split!r} of {name!r} in {builder.data_dir} is empty. Prepare it again."
        )


def first_examples(builder, split, most=None):
    """`split` as TFDS reads it, cut to at most `most` examples; a shorter split is whole.

    Raises:
        ValueError: no such split, an empty one, or a number below 1.
    """
    check_split(builder, split)
    there = builder.info.splits[split].num_examples
    if most is None or whole_number(most, "`max_examples`") >= there:
        return split
    return f"{split}[:{most}]"


def stored_examples(builder, split, start=0, undecoded=()):
    """A split's examples in the order of the files, each with TFDS's own id of it.

    Args:
        builder: a prepared set.
        split: str; also "train+test" or "train[:100]".
        start: int, examples to pass over. Default 0.
        undecoded: names of features that stay as they are stored, such as ("image",). Default ().

    Returns:
        `tf.data.Dataset` of dicts: the set's features and "tfds_id", which names the file and the
        place in it.

    Raises:
        ValueError: no such split, or an empty one.
    """
    check_split(builder, split)
    tfds = import_tfds()
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        read_config=tfds.ReadConfig(add_tfds_id=True),
        decoders={name: tfds.decode.SkipDecoding() for name in undecoded} or None,
    )
    return dataset.skip(start) if start else dataset


def record_files(builder, split):
    """(paths, numbers of records) of a split's files.

    Raises:
        ValueError: no such split, an empty one, or files of another format than tfrecord.
    """
    check_split(builder, split)
    info = builder.info.splits[split]
    kind = builder.info.file_format.value
    if kind != "tfrecord":
        raise ValueError(
            f"{builder.info.name!r} is prepared as {kind}; these pipelines read tfrecord. Prepare "
            "it with `tfds build --file_format=tfrecord`."
        )
    return [str(path) for path in info.filepaths], list(info.shard_lengths)


def file_records(name):
    """A dataset of (file, place in the file, record) of one file."""
    import tensorflow as tf

    records = tf.data.TFRecordDataset(name).enumerate()
    return records.map(lambda row, record: (name, row, record))


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
