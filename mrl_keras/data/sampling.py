"""The order in which training reads examples: seeded, sharded over workers, from any step on.

What an example becomes is up to the caller's `read`: a labelled image, an image with one of its
captions, a text. Random numbers come from an integer hash of the example's own seed and not from
a generator with a state, so that an example is changed alike whichever worker reads it, in
whichever batch, before or after a restart.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mrl_keras import lazy_tensorflow as tf
from mrl_keras.checks import as_int, whole_number
from mrl_keras.data.tfds_sets import file_records, record_files


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which examples a worker reads, in which order, and from which step on.

    The same sampling of the same data gives the same batches, bit for bit.

    Attributes:
        seed: int, of order, augmentation and masks. Default 0.
        shard_index: int, this worker's number, from 0. Default 0.
        shard_count: int, the number of workers. Default 1.
        start_step: int, the step of the first batch: a restarted run reads what the uninterrupted
            one would have read. Default 0.

    Raises:
        ValueError: a value out of range.

    Example:

    >>> Sampling(seed=3).at(start_step=100)
    Sampling(seed=3, shard_index=0, shard_count=1, start_step=100)
    """

    seed: int = 0
    shard_index: int = 0
    shard_count: int = 1
    start_step: int = 0

    def __post_init__(self):
        count = whole_number(self.shard_count, "`shard_count`")
        index = whole_number(self.shard_index, "`shard_index`", least=0)
        if index >= count:
            raise ValueError(
                f"`shard_index` must be below the count {count} of shards. Received {index}."
            )
        step = whole_number(self.start_step, "`start_step`", least=0)
        checked = {"shard_index": index, "shard_count": count, "start_step": step}
        for name, value in {"seed": as_int(self.seed, "`seed`"), **checked}.items():
            object.__setattr__(self, name, value)

    def at(self, start_step):
        """The same sampling from another step on."""
        return dataclasses.replace(self, start_step=start_step)


# The constants of SplitMix64 (Steele, Lea and Flood 2014): an increment and two multipliers.
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def random_bits(seeds, draw):
    """64 random bits for each example, from its seed and the number of the draw.

    Args:
        seeds: int64 (batch, words), such as (seed, epoch, index).
        draw: int, which of an example's random numbers this is.

    Returns:
        uint64 (batch,).
    """
    seeds = tf.cast(seeds, tf.uint64)
    bits = _mixed(tf.fill(tf.shape(seeds)[:1], tf.constant(draw + 1, tf.uint64)))
    for word in tf.unstack(seeds, axis=1):
        bits = _mixed(bits + tf.constant(_GOLDEN, tf.uint64) + word)
    return bits


def _mixed(bits):
    bits = _folded(bits, 30) * tf.constant(_FIRST, tf.uint64)
    bits = _folded(bits, 27) * tf.constant(_SECOND, tf.uint64)
    return _folded(bits, 31)


def _folded(bits, places):
    return tf.bitwise.bitwise_xor(bits, _shifted(bits, places))


def _shifted(bits, places):
    return tf.bitwise.right_shift(bits, tf.constant(places, tf.uint64))


def uniform(seeds, draw):
    """One number in [0, 1) for each example, from its seed and the number of the draw.

    Args:
        seeds: int64 (batch, words), such as (seed, epoch, index).
        draw: int, which of an example's random numbers this is.

    Returns:
        float32 (batch,).

    Example:

    >>> numbers = uniform(tf.constant([[0, 0, 1], [0, 0, 1], [0, 0, 2]], tf.int64), draw=0)
    >>> bool(numbers[0] == numbers[1]), bool(numbers[0] == numbers[2])
    (True, False)
    """
    # 24 bits are what a float32 below one can hold.
    return tf.cast(_shifted(random_bits(seeds, draw), 40), tf.float32) / 2.0**24


def shuffle_indices(indices, seeds, count):
    """Which of `count` items comes at each place of a random order that the seed decides.

    Nothing is stored: reading can begin anywhere in the order.

    Args:
        indices: int64 (batch,), each below `count`.
        seeds: int64 (batch, words), such as (seed, epoch); one seed is one order.
        count: int.

    Returns:
        int64 (batch,).

    Example:

    >>> order = shuffle_indices(tf.range(5, dtype=tf.int64), tf.ones((5, 2), tf.int64), 5)
    >>> sorted(order.numpy().tolist())
    [0, 1, 2, 3, 4]
    """
    # The public tf.random.experimental.index_shuffle takes one seed for all indices only, and
    # does 4 rounds, where the orders of neighbouring seeds still have a correlation of 0.7.
    keys = [tf.cast(_shifted(random_bits(seeds, word), 33), tf.int64) for word in range(3)]
    return tf.raw_ops.RandomIndexShuffle(
        index=indices,
        seed=tf.stack(keys, axis=1),
        max_index=tf.constant(count - 1, tf.int64),
        rounds=16,
    )


def epochs_of_rows(count, read, batch_size, sampling=Sampling()):
    """Endless batches of what `read` makes of drawn rows.

    Every epoch goes through all rows in an order of its own. Batches run on over the end of an
    epoch, so that all have `batch_size` rows and no row is left out. The batches of step s on all
    workers together are what one worker with the whole batch would read.

    Args:
        count: int, the number of rows.
        read: function of rows int64 (batch,) and of each row's seed of this epoch, int64
            (batch, 3), that gives a batch.
        batch_size: int, rows of this worker's batches.
        sampling: `Sampling`. Default seed 0, one worker, from the first step.

    Returns:
        `tf.data.Dataset`.

    Raises:
        ValueError: a `batch_size` below 1.
    """
    batch_size = whole_number(batch_size, "`batch_size`")
    seed = tf.fill([batch_size], tf.constant(sampling.seed, tf.int64))

    def batch(step):
        first = (step * sampling.shard_count + sampling.shard_index) * batch_size
        places = first + tf.range(batch_size, dtype=tf.int64)
        epoch = places // count
        rows = shuffle_indices(places % count, tf.stack([seed, epoch], 1), count)
        return read(rows, tf.stack([seed, epoch, rows], 1))

    steps = tf.data.Dataset.range(sampling.start_step, np.iinfo("int64").max)
    # Two calls keep their order and leave the other threads to the training step.
    return prefetch_in_order(steps.map(batch, num_parallel_calls=2, deterministic=True))


def epochs_of_records(
    builder,
    split,
    read,
    batch_size,
    sampling=Sampling(),
    shuffle_buffer=8192,
    files_at_once=16,
):
    """Endless batches of what `read` makes of drawn records of TFDS's files.

    Every epoch reads this worker's files in an order of its own, `files_at_once` in turns,
    through a shuffle buffer. A worker reads every n-th file, or every n-th record where there
    are fewer files than workers. To begin in the middle it passes over the undecoded records of
    the current epoch only.

    Args:
        builder: the prepared TFDS set.
        split: str.
        read: function of the step, of the record's seed of this epoch, int64 (1, 4), and of
            (file, place in the file, record), that gives one example.
        batch_size: int, rows of this worker's batches.
        sampling: `Sampling`. Default seed 0, one worker, from the first step.
        shuffle_buffer: int, undecoded records to draw from. Default 8192.
        files_at_once: int, files that are read in turns. Default 16.

    Returns:
        `tf.data.Dataset`.

    Raises:
        ValueError: no such split, an empty one, or files of another format.
    """
    batch_size = whole_number(batch_size, "`batch_size`")
    seed, index, workers = sampling.seed, sampling.shard_index, sampling.shard_count
    files, lengths = record_files(builder, split)
    by_file = len(files) >= workers
    if by_file:
        files, lengths = files[index::workers], lengths[index::workers]
        length = sum(lengths)
    else:
        length = len(range(index, sum(lengths), workers))
    if length == 0:
        raise ValueError(f"The split {split!r} holds no example for worker {index}.")
    first_epoch, behind = divmod(sampling.start_step * batch_size, length)

    def epoch_records(epoch):
        order = shuffle_indices(
            tf.range(len(files), dtype=tf.int64),
            tf.repeat([[tf.constant(seed, tf.int64), epoch]], len(files), axis=0),
            len(files),
        )
        names = tf.data.Dataset.from_tensor_slices(tf.gather(tf.constant(files), order))
        records = names.interleave(file_records, files_at_once)
        if not by_file:
            records = records.shard(workers, index)
        words = tf.constant([[seed]], tf.int64), tf.reshape(epoch, (1, 1))
        draw = tf.cast(random_bits(tf.concat(words, 1), 0)[0] // 2, tf.int64)
        return (
            _shuffled_records(records, shuffle_buffer, draw)
            .enumerate()
            .map(lambda place, record: (epoch, place, record))
        )

    def example(number, drawn):
        epoch, place, record = drawn
        words = [seed, epoch, place, index]
        seeds = tf.stack([tf.cast(word, tf.int64) for word in words])[None]
        return read(sampling.start_step + number // batch_size, seeds, *record)

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo("int64").max)
    # Only the first epoch has records that an earlier run has used; they stay undecoded.
    begun = tf.data.Dataset.from_tensors(tf.constant(first_epoch, tf.int64))
    begun = begun.flat_map(lambda epoch: epoch_records(epoch).skip(behind))
    records = begun.concatenate(epochs.skip(1).flat_map(epoch_records)).enumerate()
    examples = records.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return prefetch_in_order(examples.batch(batch_size, drop_remainder=True))


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


def prefetch_in_order(dataset):
    """`dataset` in its order, read ahead, and not cut into shards again by a strategy."""
    options = tf.data.Options()
    options.deterministic = True
    # The shards are cut here, and by file where the files allow; a strategy must not cut again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)
