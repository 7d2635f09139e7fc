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


def gather(values):
    """The rows of all replicas, in the order of the replicas, with their gradient.

    For losses whose negatives are all other examples of the global batch. Inside `strategy.run`,
    as in `fit`, each replica gets the same tensor. The gradient of a row is the sum of its
    gradients from all replicas' losses, as if one replica held the batch. Outside of
    `strategy.run`, or with one replica, the result is `values`.

    Every replica must have equally many rows.

    Args:
        values: floating tensor (rows, ...).

    Returns:
        Tensor (replicas * rows, ...).

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
    mine = tf.one_hot(index, replicas, dtype=values.dtype)
    mine = tf.reshape(mine, [replicas] + [1] * values.shape.rank)
    spread = tf.reshape(mine * values[None], tf.concat([[-1], tf.shape(values)[1:]], 0))
    rows = values.shape[0]
    spread.set_shape([replicas * rows if rows is not None else None, *values.shape[1:]])
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, spread)
