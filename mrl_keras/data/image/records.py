"""Records of TFDS's image sets, parsed and checked before any image is decoded."""

from __future__ import annotations

import contextlib

from mrl_keras import lazy_tensorflow as tf
from mrl_keras.data.tfds_sets import import_tfds


@contextlib.contextmanager
def explain_image_errors(what="the data set"):
    """A context that makes the errors of reading images ValueErrors of one line.

    Args:
        what: the data set's name for the text.

    Raises:
        ValueError: in place of TensorFlow's error where an image is corrupt, a label is out of
            range or a file is damaged.
    """
    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
        text = error.message
        for sign in ("Corrupt image", "Label out of range", "Image without captions"):
            if sign in text:
                line = text[text.index(sign) :].splitlines()[0].replace("] [", " ")
                raise ValueError(line.rstrip("]")) from error
        if isinstance(error, tf.errors.DataLossError):
            raise ValueError(f"A file of {what} is damaged: {text.splitlines()[0]}") from error
        if "Decode" in text or "Jpeg" in text or "JPEG" in text or "PNG" in text:
            raise ValueError(
                f"Corrupt image in {what}: {text.splitlines()[0][:300]}. "
                "`mrl_keras.data.corrupt_images(builder, split)` finds it."
            ) from error
        raise


def parse_labelled_image(builder, record, name, row, classes):
    """(encoded image, label) of a record; a wrong one raises before anything is decoded."""
    encoded, example, where = parse_image(builder, record, name, row)
    label = example["label"]
    text = ["Label out of range 0 to ", str(classes - 1), ": ", tf.strings.as_string(label)]
    wrong = tf.strings.join([*text, " in ", where])
    check = tf.debugging.Assert((label >= 0) & (label < classes), [wrong])
    with tf.control_dependencies([check] if check is not None else []):
        return encoded, tf.identity(label)


def parse_image(builder, record, name, row):
    """(encoded image, example, place) of a record; the image is checked, not decoded.

    Args:
        builder: of the set.
        record: scalar string.
        name, row: the record's file and its place in the file, for errors.

    Returns:
        Scalar string, the example's features with the image encoded, and "FILE, record ROW".
    """
    tfds = import_tfds()
    decoders = {"image": tfds.decode.SkipDecoding()}
    example = builder.info.features.deserialize_example(record, decoders=decoders)
    encoded = example["image"]
    where = tf.strings.join([name, ", record ", tf.strings.as_string(row)])
    known = tf.stack([tf.strings.substr(encoded, 0, len(sign)) == sign for sign in _SIGNATURES])
    corrupt = tf.strings.join(["Corrupt image, no JPEG, PNG, GIF or BMP file: ", where])
    check = tf.debugging.Assert(tf.reduce_any(known), [corrupt])
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(encoded), example, where


_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM")
