"""What the code of one replica asks of the others: its place among them, and their rows."""

import tensorflow as tf


def replica_position():
    """(index, count) of this replica: (0, 1) on one, and outside of `strategy.run`.

    The index is an int, or an int32 scalar tensor where there are several replicas.

    Example:

    >>> replica_position()
    (0, 1)
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return 0, 1
    return context.replica_id_in_sync_group, context.num_replicas_in_sync


def first_row(rows):
    """Where this replica's rows begin in the batch of all replicas: 0 on one.

    Args:
        rows: this replica's number of rows: an int, which is then that of every replica, or an
            int32 scalar tensor, which may differ between them.
    """
    index, replicas = replica_position()
    if replicas == 1 or isinstance(rows, int):
        return index * rows
    return tf.cumsum(_rows_of_all(rows, index, replicas), exclusive=True)[index]


def _rows_of_all(rows, index, replicas):
    """int32 (replicas,): how many rows each replica has."""
    mine = tf.one_hot(index, replicas) * tf.cast(rows, tf.float32)
    counts = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, mine)
    return tf.cast(counts, tf.int32)


def gather(values):
    """The rows of all replicas, in the order of the replicas, with their gradient.

    For losses whose negatives are all other examples of the global batch. Inside `strategy.run`,
    as in `fit`, each replica gets the same tensor. The gradient of a row is the sum of its
    gradients from all replicas' losses, as if one replica held the batch. Outside of
    `strategy.run`, or with one replica, the result is `values`.

    Where the number of rows is not static, as in a last batch, replicas may have different ones.

    Args:
        values: floating tensor (rows, ...).

    Returns:
        Tensor (rows of all replicas, ...).

    Example:

    >>> gather(tf.ones((2, 3))).shape
    TensorShape([2, 3])

    Source: arXiv 2102.05918, Section 4.1: ALIGN's negatives come from the batches of all cores.
    """
    values = tf.convert_to_tensor(values)
    index, replicas = replica_position()
    if replicas == 1:
        return values
    # Each replica puts its rows into zeros, and the sum is the gathered batch: TensorFlow
    # differentiates this sum over replicas rightly, and its shape is static where the rows' is.
    if values.shape[0] is None:
        rows = tf.shape(values)[0]
        counts = _rows_of_all(rows, index, replicas)
        start = tf.cumsum(counts, exclusive=True)[index]
        around = [start, tf.reduce_sum(counts) - start - rows]
        spread = tf.pad(values, [around] + [[0, 0]] * (values.shape.rank - 1))
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, spread)
    mine = tf.reshape(tf.range(replicas) == index, [replicas] + [1] * values.shape.rank)
    # Not a product: a value may be infinite, as the logsumexp of a replica without rows.
    spread = tf.where(mine, values[None], tf.zeros([], values.dtype))
    spread = tf.reshape(spread, tf.concat([[-1], tf.shape(values)[1:]], 0))
    spread.set_shape([replicas * values.shape[0], *values.shape[1:]])
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, spread)
