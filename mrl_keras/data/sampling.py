"""The order in which training reads examples: seeded, sharded over workers, from any step on.

What an example becomes is up to the caller's `read`: a labelled image, an image with one of its
captions, a text.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mrl_keras.checks import as_int, whole_number
from mrl_keras.data.image.augmentation import random_bits, shuffled
from mrl_keras.data.image.records import file_records, record_files
from mrl_keras.data.tfds_sets import checked_split


def epochs_of_rows(count, read, batch_size, seed=0, shard=(0, 1), start_step=0):
    """Endless batches of what `read` makes of drawn rows: the order of `array_batches`.

    Args:
        count: int, the number of rows.
        read: function of rows int64 (batch,) and of each row's seed of this epoch, int64
            (batch, 3), that gives a batch.
        batch_size, seed, shard, start_step: see `array_batches`.

    Returns:
        `tf.data.Dataset`.
    """
    batch_size, start_step = _checked_position(batch_size, start_step)
    index, workers = _checked_shard(shard)
    seed = tf.fill([batch_size], tf.constant(as_int(seed, "`seed`"), tf.int64))

    def batch(step):
        first = (step * workers + index) * batch_size
        positions = first + tf.range(batch_size, dtype=tf.int64)
        epoch = positions // count
        rows = shuffled(positions % count, tf.stack([seed, epoch], 1), count)
        return read(rows, tf.stack([seed, epoch, rows], 1))

    steps = tf.data.Dataset.range(start_step, np.iinfo("int64").max)
    # Two calls keep their order and leave the other threads to the training step.
    return ready(steps.map(batch, num_parallel_calls=2, deterministic=True))


def epochs_of_records(
    builder,
    split,
    read,
    batch_size,
    seed=0,
    shard=(0, 1),
    start_step=0,
    shuffle_buffer=8192,
    files_at_once=16,
):
    """Endless batches of what `read` makes of drawn records: the order of `streamed_batches`.

    Args:
        read: function of the step, of the record's seed of this epoch, int64 (1, 4), and of
            (file, place in the file, record), that gives one example.
        builder, split, batch_size, seed, shard, start_step, shuffle_buffer, files_at_once: see
            `streamed_batches`.

    Returns:
        `tf.data.Dataset`.
    """
    batch_size, start_step = _checked_position(batch_size, start_step)
    shard, seed = _checked_shard(shard), as_int(seed, "`seed`")
    files, lengths = record_files(builder, checked_split(builder, split))
    by_file = len(files) >= shard[1]
    if by_file:
        files, lengths = files[shard[0] :: shard[1]], lengths[shard[0] :: shard[1]]
        length = sum(lengths)
    else:
        length = len(range(shard[0], sum(lengths), shard[1]))
    if length == 0:
        raise ValueError(f"The split {split!r} holds no example for worker {shard[0]}.")
    first_epoch, behind = divmod(start_step * batch_size, length)

    def epoch_records(epoch):
        order = shuffled(
            tf.range(len(files), dtype=tf.int64),
            tf.repeat([[tf.constant(seed, tf.int64), epoch]], len(files), axis=0),
            len(files),
        )
        names = tf.data.Dataset.from_tensor_slices(tf.gather(tf.constant(files), order))
        records = names.interleave(file_records, files_at_once)
        if not by_file:
            records = records.shard(shard[1], shard[0])
        words = tf.constant([[seed]], tf.int64), tf.reshape(epoch, (1, 1))
        draw = tf.cast(random_bits(tf.concat(words, 1), 0)[0] // 2, tf.int64)
        return (
            _shuffled_records(records, shuffle_buffer, draw)
            .enumerate()
            .map(lambda place, record: (epoch, place, record))
        )

    def example(number, drawn):
        epoch, place, record = drawn
        words = [seed, epoch, place, shard[0]]
        seeds = tf.stack([tf.cast(word, tf.int64) for word in words])[None]
        return read(start_step + number // batch_size, seeds, *record)

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo("int64").max)
    # Only the first epoch has records that an earlier run has used; they stay undecoded.
    begun = tf.data.Dataset.from_tensors(tf.constant(first_epoch, tf.int64))
    begun = begun.flat_map(lambda epoch: epoch_records(epoch).skip(behind))
    records = begun.concatenate(epochs.skip(1).flat_map(epoch_records)).enumerate()
    examples = records.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return ready(examples.batch(batch_size, drop_remainder=True))


def _shuffled_records(records, buffer_size, seed):
    """`records.shuffle` by a seed that is a tensor, whatever the global seed is.

    The method mixes the global seed in, and where that is 0 it compares the other with 0 in
    Python, which no graph can.
    """
    specs = tf.nest.flatten(records.element_spec)
    shuffled_variant = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(records),
        buffer_size=tf.constant(buffer_size, tf.int64),
        seed=seed,
        seed2=tf.constant(1, tf.int64),
        output_types=[spec.dtype for spec in specs],
        output_shapes=[spec.shape for spec in specs],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(shuffled_variant, records.element_spec)


def _checked_position(batch_size, start_step):
    return whole_number(batch_size, "`batch_size`"), whole_number(start_step, "`start_step`", 0)


def _checked_shard(shard):
    index, count = shard
    count = whole_number(count, "The count of `shard`")
    index = whole_number(index, "The index of `shard`", least=0)
    if index >= count:
        raise ValueError(f"The index of `shard` must be below the count {count}. Received {index}.")
    return index, count


def ready(dataset):
    """`dataset` in its order, read ahead, and not cut into shards again by a strategy."""
    options = tf.data.Options()
    options.deterministic = True
    # The shards are cut here, and by file where the files allow; a strategy must not cut again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)
