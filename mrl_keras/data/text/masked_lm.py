"""Batches for masked language modelling, with masks drawn anew in every epoch.

Which tokens of a row are masked follows from (seed, epoch, row) alone: a restarted run, or
another worker, masks a row alike.
"""

from __future__ import annotations

import numpy as np

from mrl_keras import lazy_tensorflow as tf
from mrl_keras.checks import as_int, whole_number
from mrl_keras.data.sampling import Sampling, epochs_of_rows, prefetch_in_order, uniform
from mrl_keras.data.text.wordpiece import SpecialIds

KEPT_TOKEN, RANDOM_TOKEN = 0.1, 0.1
"""Of the chosen tokens, this part stays as it is and this part becomes a random piece."""


def token_rows(wordpiece, texts, packed=True):
    """Texts as rows of tokens, none cut off: "[CLS]", pieces, "[SEP]", "[PAD]" to a fixed length.

    Args:
        wordpiece: `Wordpiece`; its `length` is that of the rows.
        texts: list of str.
        packed: bool. True fills each row, over the ends of texts, with "[SEP]" between two; the
            last row is padded. False begins each text in a new row; long ones take several.
            Default True.

    Returns:
        int32 array (rows, length).

    Raises:
        ValueError: no text has a piece.

    Example:

    >>> from mrl_keras.data import SPECIAL_PIECES, Wordpiece
    >>> wordpiece = Wordpiece([*SPECIAL_PIECES, "a", "b"], length=5)
    >>> token_rows(wordpiece, ["a b a", "b"]).tolist()
    [[2, 5, 6, 5, 3], [2, 3, 6, 3, 3]]
    >>> token_rows(wordpiece, ["a b a", "b"], packed=False).tolist()
    [[2, 5, 6, 5, 3], [2, 6, 3, 0, 0]]
    """
    texts, room, special = list(texts), wordpiece.length - 2, wordpiece.special_ids
    pieces = []
    for first in range(0, len(texts), 4096):
        ragged = wordpiece.pieces(texts[first : first + 4096])
        pieces += np.split(ragged.flat_values.numpy(), ragged.row_splits.numpy()[1:-1])
    pieces = [row for row in pieces if len(row)]
    if not pieces:
        raise ValueError("The texts hold no word: there is nothing to train or evaluate on.")
    if packed:
        joined = [np.append(row, special.sep) for row in pieces]
        pieces = [np.concatenate(joined)]
    parts = [row[i : i + room] for row in pieces for i in range(0, len(row), room)]
    rows = np.full((len(parts), wordpiece.length), special.pad, "int32")
    rows[:, 0] = special.cls
    for row, part in zip(rows, parts, strict=True):
        row[1 : len(part) + 1] = part
        row[len(part) + 1] = special.sep
    return rows


def mask_tokens(words, seeds, vocabulary_size, positions, rate=0.15, special_ids=(0, 1, 2, 3, 4)):
    """Choose tokens of each row to be predicted, and hide most of them.

    Of the n pieces of a row, special ones not counted, min(max(round(rate n), 1), positions) are
    chosen; 80 percent of these become "[MASK]", 10 percent a random piece, 10 percent stay.

    Args:
        words: int32 (batch, length), length static.
        seeds: int64 (batch, words), such as (seed, epoch, row).
        vocabulary_size: int, pieces to draw random ones from.
        positions: int, the slots of each row.
        rate: float in (0, 1), the part of the pieces that is chosen. Default 0.15.
        special_ids: `SpecialIds`, such as `wordpiece.special_ids`. Default 0 to 4.

    Returns:
        (inputs, labels, weights): BERT's inputs, with "masked_lm_positions" and "masked_lm_ids",
        each int32 (batch, positions), as a dict; the labels once more; float32 (batch,
        positions), 1 for chosen tokens and 0 for empty slots.

    Source: arXiv 1810.04805, Section 3.1.
    """
    length, special = words.shape[1], SpecialIds(*special_ids)
    ordinary = np.setdiff1d(np.arange(vocabulary_size), special)
    if not 0.0 < rate < 1.0:
        raise ValueError(f"The mask's `rate` must lie between 0 and 1. Received {rate!r}.")
    positions = whole_number(positions, "`positions`")
    if positions > length - 2:
        raise ValueError(
            f"`positions` must not exceed the {length - 2} pieces of a row. Received {positions}."
        )
    maskable = tf.reduce_all([words != one for one in special], axis=0)
    chances = tf.where(maskable, _uniform_each(seeds, length, 0), -1.0)
    places = tf.math.top_k(chances, positions).indices
    pieces = tf.reduce_sum(tf.cast(maskable, tf.int32), axis=1)
    wanted = tf.cast(tf.round(rate * tf.cast(pieces, tf.float32)), tf.int32)
    chosen = tf.minimum(tf.clip_by_value(wanted, 1, positions), pieces)
    used = tf.sequence_mask(chosen, positions)
    places = tf.where(used, places, 0)
    original = tf.gather(words, places, batch_dims=1)
    kind = _uniform_each(seeds, positions, 1)
    drawn = _uniform_each(seeds, positions, 2) * len(ordinary)
    drawn = tf.gather(tf.constant(ordinary, tf.int32), tf.cast(drawn, tf.int32))
    hidden = tf.where(kind < RANDOM_TOKEN, drawn, special.mask)
    hidden = tf.where(kind < 1.0 - KEPT_TOKEN, hidden, original)
    # An empty slot writes what is there, the "[CLS]" at place 0.
    hidden = tf.where(used, hidden, original)
    rows = tf.broadcast_to(tf.range(tf.shape(words)[0])[:, None], tf.shape(places))
    changed = tf.tensor_scatter_nd_update(words, tf.stack([rows, places], axis=2), hidden)
    labels = tf.where(used, original, special.pad)
    inputs = {
        "input_word_ids": tf.ensure_shape(changed, words.shape),
        "input_mask": tf.cast(words != special.pad, tf.int32),
        "input_type_ids": tf.zeros_like(words),
        "masked_lm_positions": places,
        "masked_lm_ids": labels,
    }
    return inputs, labels, tf.cast(used, tf.float32)


def _uniform_each(seeds, count, draw):
    """(batch, count) numbers in [0, 1), each from its row's seed and its place."""
    batch = seeds.shape[0] or tf.shape(seeds)[0]
    places = tf.tile(tf.range(count, dtype=tf.int64), [batch])
    each = tf.concat([tf.repeat(seeds, count, axis=0), places[:, None]], axis=1)
    return tf.reshape(uniform(each, draw), (batch, count))


def masked_lm_batches(
    rows,
    batch_size,
    vocabulary_size,
    positions,
    rate=0.15,
    sampling=Sampling(),
    special_ids=(0, 1, 2, 3, 4),
):
    """Endless training batches from rows in memory, each row masked anew in each epoch.

    Every epoch goes through all rows in an order of its own. The batches of step s on all workers
    together are what one worker with the whole batch would read.

    Args:
        rows: int32 (rows, length), see `token_rows`.
        batch_size: int, rows of this worker's batches.
        vocabulary_size: int, pieces to draw random ones from.
        positions: int, the slots of each row for masked tokens.
        rate: float in (0, 1), the part of the pieces that is chosen. Default 0.15.
        sampling: `Sampling`. Default seed 0, one worker, from the first step.
        special_ids: `SpecialIds`, such as `wordpiece.special_ids`. Default 0 to 4.

    Returns:
        `tf.data.Dataset` of (inputs, labels, weights), see `mask_tokens`; all shapes are static.

    Raises:
        ValueError: no rows, or an argument out of range.

    Example:

    >>> rows = np.full((10, 8), 9, "int32")
    >>> inputs, labels, weights = next(iter(masked_lm_batches(rows, 4, 100, positions=2)))
    >>> inputs["input_word_ids"].shape, labels.shape, weights.numpy()[0].tolist()
    (TensorShape([4, 8]), TensorShape([4, 2]), [1.0, 0.0])
    """
    count, table = _checked_rows(rows)

    def read(drawn, seeds):
        words = tf.gather(table, drawn)
        return mask_tokens(words, seeds, vocabulary_size, positions, rate, special_ids)

    return epochs_of_rows(count, read, batch_size, sampling)


def masked_lm_evaluation(
    rows, batch_size, vocabulary_size, positions, rate=0.15, seed=0, special_ids=(0, 1, 2, 3, 4)
):
    """All rows once, in their order, with one fixed mask each.

    Args:
        rows: int32 (rows, length), see `token_rows`.
        batch_size: int. The last batch is filled with rows of weight 0, so that all shapes are
            static.
        vocabulary_size, positions: as for `masked_lm_batches`.
        rate: float in (0, 1), the part of the pieces that is chosen. Default 0.15.
        seed: int, of the masks. Default 0.
        special_ids: `SpecialIds`, such as `wordpiece.special_ids`. Default 0 to 4.

    Returns:
        A finite `tf.data.Dataset` of (inputs, labels, weights).

    Raises:
        ValueError: no rows, or an argument out of range.
    """
    count, table = _checked_rows(rows)
    batch_size = whole_number(batch_size, "`batch_size`")
    seed = as_int(seed, "`seed`")

    def read(step):
        numbers = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        inside = numbers < count
        numbers = tf.where(inside, numbers, 0)
        # No epoch of training has the number -1.
        words = [tf.fill([batch_size], tf.constant(word, tf.int64)) for word in (seed, -1)]
        seeds = tf.stack([*words, numbers], 1)
        inputs, labels, weights = mask_tokens(
            tf.gather(table, numbers), seeds, vocabulary_size, positions, rate, special_ids
        )
        return inputs, labels, weights * tf.cast(inside, tf.float32)[:, None]

    return prefetch_in_order(tf.data.Dataset.range(-(-count // batch_size)).map(read))


def masked_lm_stream(texts, wordpiece, positions, rate=0.15):
    """Training batches from batches of texts: each text is one row, cut off at the row's end.

    Args:
        texts: dataset of (texts (batch,), seeds int64 (batch, words)), see `streamed_texts`.
        wordpiece: `Wordpiece`.
        positions: int, the slots of each row for masked tokens.
        rate: float in (0, 1). Default 0.15.

    Returns:
        `tf.data.Dataset` of (inputs, labels, weights), see `mask_tokens`.
    """

    def read(batch, seeds):
        words = wordpiece(batch)["input_word_ids"]
        words = tf.ensure_shape(words, (batch.shape[0], wordpiece.length))
        size = len(wordpiece.vocabulary)
        return mask_tokens(words, seeds, size, positions, rate, wordpiece.special_ids)

    return prefetch_in_order(
        texts.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    )


def _checked_rows(rows):
    rows = np.asarray(rows)
    if rows.ndim != 2 or not len(rows) or rows.dtype.kind != "i":
        raise ValueError(
            "`rows` must be an int array (rows, length) of at least one row, such as `token_rows` "
            f"makes. Received {rows.dtype} of shape {rows.shape}."
        )
    return len(rows), tf.constant(rows, tf.int32)
