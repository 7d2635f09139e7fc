"""Streams of windows of the documents of TFDS sets, for texts that exceed the memory."""

from __future__ import annotations

import dataclasses
import math

from mrl_keras import lazy_tensorflow as tf
from mrl_keras.checks import whole_number
from mrl_keras.data.sampling import Sampling, epochs_of_records, prefetch_in_order, uniform


@dataclasses.dataclass(frozen=True)
class TextSource:
    """One set of a joined stream.

    Attributes:
        builder: the prepared TFDS set, see `text_set`.
        split: str. Default "train".
        feature: str, the feature that is the text. Default "text".
        share: float, its part of the rows of each batch, relative to the other sets'. Default 1.0.
    """

    builder: object
    split: str = "train"
    feature: str = "text"
    share: float = 1.0


def streamed_texts(
    sources,
    batch_size,
    characters,
    sampling=Sampling(),
    shuffle_buffer=8192,
    files_at_once=16,
):
    """Endless batches of texts from TFDS's files: a window of each document, at a random place.

    Every pass over a set takes one window of each of its documents, in an order of its own; a
    document of fewer `characters` comes whole. A window does not begin inside a word. The sets
    are joined within each batch, whose rows they share. A restarted run passes over the undecoded
    records of the current pass only, and reads what the uninterrupted one would have read.

    Args:
        sources: list of `TextSource`.
        batch_size: int, rows of this worker's batches.
        characters: int, the longest window.
        sampling: `Sampling`. Default seed 0, one worker, from the first step.
        shuffle_buffer: int, records of a set to draw from. Default 8192.
        files_at_once: int, files of a set that are read in turns. Default 16.

    Returns:
        `tf.data.Dataset` of (texts (batch,), seeds int64 (batch, 5)): seeds name the window, for
        whatever else is drawn at random for it.

    Raises:
        ValueError: no such split, an empty one, a share without a row, or an argument out of
            range.
    """
    sources = list(sources)
    batch_size = whole_number(batch_size, "`batch_size`")
    characters = whole_number(characters, "`characters`")
    counts = rows_of_shares([source.share for source in sources], batch_size)

    def windows(number, source, rows):
        features = source.builder.info.features

        def read(step, seeds, name, row, record):
            text = features.deserialize_example(record)[source.feature]
            # The set's number in the seed, so that no two windows share one.
            seeds = tf.concat([seeds, tf.constant([[number]], tf.int64)], axis=1)
            return _window(text, seeds, characters), seeds[0]

        options = {"shuffle_buffer": shuffle_buffer, "files_at_once": files_at_once}
        return epochs_of_records(source.builder, source.split, read, rows, sampling, **options)

    streams = [
        windows(number, source, rows)
        for number, (source, rows) in enumerate(zip(sources, counts, strict=True))
    ]
    if len(streams) == 1:
        return streams[0]

    def joined(*parts):
        return tuple(tf.concat(part, axis=0) for part in zip(*parts, strict=True))

    return prefetch_in_order(tf.data.Dataset.zip(tuple(streams)).map(joined))


def rows_of_shares(shares, batch_size):
    """How many rows of a batch each set has: by largest remainders.

    Args:
        shares: positive floats, relative to each other.
        batch_size: int.

    Returns:
        List of ints that add up to `batch_size`.

    Raises:
        ValueError: no sets, a share that is not positive, or one without a row.

    Example:

    >>> rows_of_shares([0.75, 0.25], 10)
    [8, 2]
    """
    shares = [float(share) for share in shares]
    if not shares or not all(math.isfinite(share) and share > 0 for share in shares):
        raise ValueError(f"Each set needs a share above 0. Received {shares}.")
    exact = [batch_size * share / sum(shares) for share in shares]
    rows = [int(number) for number in exact]
    by_remainder = sorted(range(len(rows)), key=lambda i: rows[i] - exact[i])
    for i in by_remainder[: batch_size - sum(rows)]:
        rows[i] += 1
    if min(rows) == 0:
        raise ValueError(
            f"A batch of {batch_size} rows has none for the share {shares[rows.index(0)]} of "
            f"{shares}. Take a larger batch or other shares."
        )
    return rows


def _window(text, seeds, characters):
    length = tf.strings.length(text, unit="UTF8_CHAR")
    places = tf.cast(tf.maximum(length - characters + 1, 1), tf.float32)
    first = tf.cast(uniform(seeds, 0)[0] * places, tf.int32)
    part = tf.strings.substr(text, first, characters, unit="UTF8_CHAR")
    return tf.where(first > 0, tf.strings.regex_replace(part, r"^\S*\s+", ""), part)
